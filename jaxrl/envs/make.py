"""Makes environments: from an id, a function or a vector environment, in this process or in others. No JAX here."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from jaxrl.envs.envpool import EnvPoolEnvs
from jaxrl.envs.guard import guarded
from jaxrl.envs.processes import ProcessEnvs, stop_workers
from jaxrl.envs.registry import find_callable, find_spec, is_native
from jaxrl.envs.sync import SyncEnvs
from jaxrl.envs.vector import Envs
from jaxrl.errors import BadInput, EnvironmentLost
from jaxrl.report import raise_if_asked_to_stop, raised


@runtime_checkable
class DeviceEnvironment(Protocol):
    """An environment that is JAX functions, as `jaxrl.envs.on_device` describes it."""

    observation_space: spaces.Space
    action_space: spaces.Space
    time_limit: int | None

    def reset(self, key: Any) -> tuple[Any, Any]:
        """Begins an episode."""

    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, Any, Any, Any]:
        """Takes a step."""


EnvLike = str | Callable[[], gym.Env] | VectorEnv | DeviceEnvironment
WrapperLike = str | Callable[[gym.Env], gym.Env]
BACKENDS = "gymnasium", "async", "envpool"
MAX_TIMEOUT_S = 1e6  # A wait for a pipe cannot be longer than a few weeks.


def make_envs(
    env: EnvLike,
    num_envs: int,
    seed: int | np.random.SeedSequence,
    backend: str = "gymnasium",
    *,
    wrapper: Sequence[WrapperLike] = (),
    on_fault: str = "stop",
    timeout: float = 60.0,
    like: Envs | None = None,
    **make_options: Any,
) -> Envs:
    """Builds the environments behind an adapter and resets them.

    Args:
      env: a Gymnasium id (`module:Id` imports the module first), a function that makes one environment, or a
        VectorEnv in any autoreset mode, whose number of environments must be `num_envs`.
      num_envs: how many environments step together.
      seed: no two integers share a random stream.
      backend: "gymnasium" steps the environments in this process, in the vector environment that an id's registration
        names if it names one, else one after the other; "async" each in a process of its own; "envpool" in EnvPool's
        threads, for the tasks that it has.
      wrapper: callables from an environment to an environment, or their names, `module:callable`; the first is the
        innermost.
      on_fault: "stop" raises at a fault; "reset" resets the environment it happened in, and notes it in `faults`.
      timeout: seconds that an environment in a process of its own may take for an answer.
      like: environments with the same spaces. With them, "async" builds none in this process; without, it builds one
        to see its spaces, and closes it before the others are built.
      **make_options: for `gymnasium.make`: `render_mode`, `max_episode_steps` and the like; with an id only.

    Returns:
      The environments. Those that are built here reset in SAME_STEP mode, where they have the choice.

    Raises:
      BadInput: no such environment (with the nearest names), or one that cannot be built.
      EnvironmentLost: a process died while it was started.
    """
    if isinstance(wrapper, str):
        wrapper = (wrapper,)
    _check_arguments(env, num_envs, backend, wrapper, timeout, make_options)
    if isinstance(env, VectorEnv):
        return Envs(env, seed, on_fault, timeout)
    try:
        vector_env = _build(env, num_envs, backend, wrapper, on_fault, timeout, like, make_options)
    except (BadInput, EnvironmentLost):
        raise
    except (Exception, SystemExit) as error:  # Whatever the constructors of environments and wrappers do.
        raise_if_asked_to_stop(error)
        name = env if isinstance(env, str) else getattr(env, "__name__", "")
        kind = EnvironmentLost if isinstance(error, SystemExit) else BadInput
        raise kind(f"environment {name} cannot be built: {raised(error)}") from error
    try:
        return Envs(vector_env, seed, on_fault, timeout)
    except BaseException:  # Spaces that are not supported, say: its processes must not stay.
        if isinstance(vector_env, ProcessEnvs):
            stop_workers(vector_env)
        raise


def _check_arguments(
    env: EnvLike,
    num_envs: int,
    backend: str,
    wrapper: Sequence[WrapperLike],
    timeout: float,
    make_options: Mapping[str, Any],
) -> None:
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r} is not known: it must be one of {', '.join(BACKENDS)}")
    if num_envs < 1:
        raise BadInput(f"num_envs is {num_envs}: it must be at least 1")
    if not 0 < timeout <= MAX_TIMEOUT_S:
        raise BadInput(f"env_timeout is {timeout}: it must be a positive number of seconds")
    if make_options and not isinstance(env, str):
        raise BadInput(f"{', '.join(make_options)} can be set for an environment made from an id only")
    if backend != "gymnasium" and isinstance(env, VectorEnv):
        raise BadInput(
            f"env is a vector environment, which steps as it does: backend {backend} is for ids and factories"
        )
    if isinstance(env, VectorEnv) and env.num_envs != num_envs:
        raise BadInput(f"num_envs is {num_envs}, but the vector environment given has {env.num_envs}")
    if isinstance(env, VectorEnv) and wrapper:
        raise BadInput("wrapper wraps single environments: the vector environment given comes with its own")


def _build(
    env: EnvLike,
    num_envs: int,
    backend: str,
    wrapper: Sequence[WrapperLike],
    on_fault: str,
    timeout: float,
    like: Envs | None,
    make_options: dict[str, Any],
) -> VectorEnv:
    if not isinstance(env, str) and not callable(env):
        raise BadInput(f"env is {env!r}: it must be an id, a function that makes an environment, or a VectorEnv")
    if backend == "envpool":
        if not isinstance(env, str) or wrapper or make_options:
            raise BadInput("backend envpool has tasks of its own: it takes an id, and neither wrappers nor options")
        return EnvPoolEnvs(env, num_envs)
    if backend == "gymnasium" and steps_natively(env, wrapper, on_fault, make_options):
        assert isinstance(env, str)
        return gym.make_vec(env, num_envs, vectorization_mode="vector_entry_point")
    make: Callable[[], gym.Env] = env  # type: ignore[assignment]
    if isinstance(env, str):
        find_spec(env)
        make = functools.partial(gym.make, env, disable_env_checker=True, **make_options)
    for each in wrapper:
        make = functools.partial(_wrapped, find_callable(each, "wrapper") if isinstance(each, str) else each, make)
    makers = [functools.partial(guarded, make, index) for index in range(num_envs)]
    if backend == "async":
        spaces = None if like is None else (like.observation_space, like.action_space)
        return ProcessEnvs(makers, AutoresetMode.SAME_STEP, timeout, spaces)
    return SyncEnvs(makers)


def steps_natively(
    env: EnvLike, wrapper: Sequence[Any] = (), on_fault: str = "stop", make_options: Mapping[str, Any] | None = None
) -> bool:
    """True if `make_envs` steps this environment in a vector environment of its own: such a one takes no wrappers and
    no options, and cannot reset one of its environments alone."""
    return is_native(env) and not (make_options or wrapper or on_fault == "reset")


def _wrapped(wrapper: Callable[[gym.Env], gym.Env], make: Callable[[], gym.Env]) -> gym.Env:
    env = wrapper(make())
    if not isinstance(env, gym.Env):
        name = getattr(wrapper, "__qualname__", repr(wrapper))
        raise BadInput(f"wrapper {name} gave {env!r}: it must give an environment")
    return env
