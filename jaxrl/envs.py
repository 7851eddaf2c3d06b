"""Vector environments without their autoreset conventions: one adapter that yields true transitions. No JAX here.

Gymnasium has three conventions for what happens after an episode's end. NEXT_STEP returns the final observation, then
spends the next step on a reset that ignores the action; SAME_STEP resets at once and hides the final observation in
`infos`; DISABLED resets when told to. Behind `Envs` they look alike, but for `Transition.valid`, which marks the rows
that NEXT_STEP spends on resetting.
"""

import contextlib
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from jaxrl.errors import BadInput
from jaxrl.transition import Transition

# Registered still, but not to be built any more, and so no use as a hint.
GONE = re.compile(r"(Ant|HalfCheetah|Hopper|Humanoid\w*|Inverted\w+|Pusher|Reacher|Swimmer|Walker2d)-v[1-3]")
EnvLike = str | Callable[[], gym.Env] | VectorEnv


class FinishedEpisode(NamedTuple):
    """One episode that ended on the last step: which environment's, the sum of its rewards, its number of steps."""

    env_index: int
    episode_return: float
    episode_length: int


class Envs:
    """N environments that step together.

    Attributes:
      num_envs: N.
      observation_space, action_space: those of a single environment.
      obs: `(N, S)` float32, what to act on next; raw, flattened.
      finished: the episodes that ended on the last step.
    """

    def __init__(self, vector_env: VectorEnv, seed: int | np.random.SeedSequence) -> None:
        mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise BadInput(
                f"{type(vector_env).__name__} declares no autoreset mode: metadata['autoreset_mode'] must be one of "
                "gymnasium.vector.AutoresetMode"
            )
        self._vector_env = vector_env
        self._mode = mode
        self.num_envs: int = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self._bounds = None
        if isinstance(self.action_space, spaces.Box):
            self._bounds = self.action_space.low, self.action_space.high
        self.reset(seed)

    def reset(self, seed: int | np.random.SeedSequence) -> None:
        """Begins a new episode everywhere, with a random stream of its own for each environment, given by `seed`."""
        if not isinstance(seed, np.random.SeedSequence) and seed < 0:
            raise BadInput(f"seed is {seed}: it must be at least 0")
        sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        words = [int(word) for word in sequence.generate_state(self.num_envs)]
        one_each = isinstance(self._vector_env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        obs, _ = self._vector_env.reset(seed=words if one_each else words[0])  # type: ignore[arg-type]
        self.obs = self._flat(obs)
        self.finished: list[FinishedEpisode] = []
        self._ended = np.zeros(self.num_envs, bool)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def step(self, action: np.ndarray) -> Transition:
        """Takes one step in every environment.

        Args:
          action: `(N, A)` or `(N,)`, in the environment's units. Box actions are clipped to the bounds on their way
            to the environment; the transition keeps what was given.

        Returns:
          Rows `(N,)`, NumPy: float32 observations and rewards, boolean flags. `valid` is None unless the vector
          environment spends steps on resetting.
        """
        obs = self.obs
        sent = action if self._bounds is None else np.minimum(np.maximum(action, self._bounds[0]), self._bounds[1])
        raw_obs, reward, *flags, infos = self._vector_env.step(sent)
        terminated, truncated = (np.asarray(flag, bool) for flag in flags)
        next_obs = self.obs = self._flat(raw_obs)
        valid = None
        if self._mode is AutoresetMode.NEXT_STEP:
            valid = ~self._ended
            reward, terminated, truncated = reward * valid, terminated & valid, truncated & valid
        ended = terminated | truncated
        self._returns += reward
        self._lengths += 1 if valid is None else valid
        self.finished = []
        if ended.any():
            self._finish(ended)
            if self._mode is AutoresetMode.SAME_STEP:
                next_obs = self.obs.copy()
                final = infos["final_obs"]
                for index in np.flatnonzero(ended):
                    next_obs[index] = np.asarray(final[index], np.float32).reshape(-1)
            elif self._mode is AutoresetMode.DISABLED:
                # The environment takes the mask out of the dict that it is given.
                raw_obs, _ = self._vector_env.reset(options={"reset_mask": ended.copy()})
                self.obs = np.where(ended[:, None], self._flat(raw_obs), next_obs)
        self._ended = ended
        return Transition(obs, action, np.asarray(reward, np.float32), next_obs, terminated, truncated, valid)

    def render(self) -> None:
        """Draws the environments where their render mode asks for a call."""
        self._vector_env.render()

    def close(self) -> None:
        """Releases what the environments hold."""
        self._vector_env.close()

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        """A copy in our own memory: an environment may write its next observation over this one."""
        return np.array(obs, np.float32).reshape(self.num_envs, -1)

    def _finish(self, ended: np.ndarray) -> None:
        for index in np.flatnonzero(ended):
            episode = FinishedEpisode(int(index), float(self._returns[index]), int(self._lengths[index]))
            self.finished.append(episode)
        self._returns[ended] = 0
        self._lengths[ended] = 0


def make_envs(
    env: EnvLike,
    num_envs: int,
    seed: int | np.random.SeedSequence,
    backend: str = "gymnasium",
    **make_options: Any,
) -> Envs:
    """Builds the environments behind an adapter and resets them.

    Args:
      env: a Gymnasium id (`module:Id` imports the module first), a function that makes one environment, or a
        VectorEnv in any autoreset mode, whose number of environments must be `num_envs`.
      num_envs: how many environments step together.
      seed: no two integers share a random stream.
      backend: "gymnasium".
      **make_options: for `gymnasium.make`: `render_mode`, `max_episode_steps` and the like; with an id only.

    Returns:
      The environments. An id whose registration names a vector environment of its own runs in that one, unless
      `make_options` are given; the rest run one after the other in this process, in SAME_STEP mode.

    Raises:
      BadInput: no such environment (with the nearest names), or one that cannot be built.
    """
    if backend != "gymnasium":
        raise BadInput(f"backend {backend!r} is not known: it must be 'gymnasium'")
    if num_envs < 1:
        raise BadInput(f"num_envs is {num_envs}: it must be at least 1")
    if make_options and not isinstance(env, str):
        raise BadInput(f"{', '.join(make_options)} can be set for an environment made from an id only")
    if isinstance(env, VectorEnv):
        if env.num_envs != num_envs:
            raise BadInput(f"num_envs is {num_envs}, but the vector environment given has {env.num_envs}")
        return Envs(env, seed)
    if not isinstance(env, str):
        return Envs(_in_turn(functools.partial(_own, env), num_envs), seed)
    native = is_native(env) and not make_options
    try:
        if native:
            return Envs(gym.make_vec(env, num_envs, vectorization_mode="vector_entry_point"), seed)
        make = functools.partial(gym.make, env, disable_env_checker=True, **make_options)
        return Envs(_in_turn(functools.partial(_own, make), num_envs), seed)
    except (gym.error.Error, ImportError) as error:
        raise BadInput(f"environment {env} cannot be built: {_first_line(error)}") from error


def check_finite(envs: Envs, transition: Transition | None, name: str, step: int) -> None:
    """Raises BadInput if what `envs` just gave is not finite: the observations to act on next, and where a step was
    taken its valid rows. The line names the environment `name`, which of them, and the step."""
    fields: list[tuple[str, np.ndarray, np.ndarray | None]] = [("an observation", envs.obs, None)]
    if transition is not None:
        fields += [
            ("an observation", transition.next_obs, transition.valid),
            ("a reward", transition.reward, transition.valid),
        ]
    for what, field, valid in fields:
        if np.isfinite(field).all():
            continue
        bad = ~np.isfinite(field).reshape(len(field), -1).all(1) & (True if valid is None else valid)
        if bad.any():
            raise BadInput(
                f"{name} gave {what} that is not finite, environment {np.flatnonzero(bad)[0]} at step {step:,}: "
                "nothing of that step is stored, the run up to it is saved; the environment must give finite numbers"
            )


def is_native(env: EnvLike) -> bool:
    """Whether `make_envs` runs this environment in a vector environment that its registration names: only in one that
    says how it resets, and that computes in NumPy."""
    if not isinstance(env, str):
        return False
    spec = find_spec(env)
    return spec.vector_entry_point is not None and not env.startswith(("phys2d/", "tabular/"))


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registration of an id, or BadInput with the nearest names."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # Whatever the user's module does while it is imported.
            raise BadInput(f"environment {env_id} is not to be had: {type(error).__name__}: {error}") from error
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        lowered = {name.lower(): name for name in gym.registry if not GONE.fullmatch(name)}
        near = [lowered[each] for each in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "gymnasium.pprint_registry() lists the known ones"
        raise BadInput(f"there is no environment {env_id}: {hint}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _in_turn(make: Callable[[], gym.Env], num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


class _OwnFinalObservation(gym.Wrapper):
    """Copies an episode's last observation: SAME_STEP hands it out uncopied, and the reset may write over it."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            obs = np.array(obs)
        return obs, reward, terminated, truncated, info


def _own(make: Callable[[], gym.Env]) -> gym.Env:
    with _quiet_mujoco_loading():
        env = make()
    return _OwnFinalObservation(env)


@contextlib.contextmanager
def _quiet_mujoco_loading() -> Iterator[None]:
    """HalfCheetah's model calls for a deprecated attribute, and MuJoCo then prints a line and writes a log file into
    the working directory at every load. This drops that one line; any other warning is printed."""

    def warn(message: str) -> None:
        if "settotalmass" not in message:
            print(f"MuJoCo: {message}", file=sys.stderr)

    try:
        import mujoco
    except ImportError:
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(warn)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)
