"""One way to ask a vector environment, whatever its kind: in this process, in others, or native. No JAX here."""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from jaxrl.envs.answers import unpacking_rule
from jaxrl.envs.envpool import EnvPoolEnvs
from jaxrl.envs.guard import Guard, reset_with_seed
from jaxrl.envs.processes import ProcessEnvs, apply_timeout, call_workers, stop_workers
from jaxrl.envs.snapshot import env_state, set_env_state
from jaxrl.envs.sync import SyncEnvs
from jaxrl.envs.wrappers import inside, normalizers
from jaxrl.errors import BadInput, EnvironmentLost
from jaxrl.report import raise_if_asked_to_stop, raised, tell

# Which client steps which environment, by the environment's id, until that client is closed or gone.
_owners: weakref.WeakValueDictionary[int, "VectorClient"] = weakref.WeakValueDictionary()


class VectorClient:
    """Asks a vector environment, with a limit on time where it runs in other processes; looks into it, saves its state,
    and closes it.

    Args:
      vector_env: with its wrappers.
      timeout: seconds that an answer from another process may take.

    Attributes:
      vector_env: as given.
      mode: its autoreset mode.
      one_seed_each: whether its reset takes a seed for each environment.
      resets_one: whether it can reset one of its environments alone.
      lost: whether an environment raised, died, or answered in a way that cannot be used.

    Raises:
      BadInput: it declares no autoreset mode.
    """

    def __init__(self, vector_env: VectorEnv, timeout: float) -> None:
        mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise BadInput(
                f"{type(vector_env).__name__} declares no autoreset mode: metadata['autoreset_mode'] must be one of "
                "gymnasium.vector.AutoresetMode"
            )
        self.vector_env, self.mode, self.lost = vector_env, mode, False
        self._base, self._timeout = vector_env.unwrapped, timeout
        self._workers = self._base if isinstance(self._base, AsyncVectorEnv) else None
        self.one_seed_each = isinstance(self._base, SyncVectorEnv | AsyncVectorEnv | EnvPoolEnvs)
        self.resets_one = self.one_seed_each or mode is AutoresetMode.DISABLED
        self._env_ids: set[int] = set()

    def take_over(self) -> None:
        """Puts a guard around each environment of this process, and notes that it steps here. A vector environment that
        the user has built goes over to its latest client.

        Raises:
          BadInput: a function has given one environment twice: here, or to another client that still steps it.
        """
        base = self._base
        if self._workers is not None and not isinstance(self._workers, ProcessEnvs):
            apply_timeout(self._timeout, self._workers, self.vector_env)
        owned: dict[int, VectorClient] = {}
        if isinstance(base, SyncVectorEnv):
            # A wrapper around it may read infos, and so may a subclass that the user has written.
            keeps_infos = base is not self.vector_env or type(base) not in (SyncEnvs, SyncVectorEnv)
            inner = [env.env if isinstance(env, Guard) else env for env in base.envs]
            base.envs = [Guard(env, index, keeps_infos) for index, env in enumerate(inner)]
            for env in (env.unwrapped for env in inner):
                if id(env) in owned or (isinstance(base, SyncEnvs) and id(env) in _owners):
                    raise BadInput(
                        f"one and the same {type(env).__name__} is given twice: a function must build a new "
                        "environment at each call, as env=lambda: gymnasium.make(...) does, and env and eval_env must "
                        "be two"
                    )
                owned[id(env)] = self
        self._env_ids = {id(base), *owned}
        _owners.update(owned)

    def shares_with(self, other: "VectorClient") -> bool:
        """Returns whether one and the same environment steps in both."""
        return bool(self._env_ids & other._env_ids)

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls `step`, `reset` or `call` of the vector environment.

        Raises:
          EnvironmentLost: it raised anything, or a process died or gave no answer in time.
        """
        try:
            if self._workers is not None:
                return call_workers(self.vector_env, self._workers, method, self._timeout, *arguments, **options)
            if method == "reset":
                answer, notice = reset_with_seed(self.vector_env, options)
                if notice is not None:
                    tell(notice)
                return answer
            return getattr(self.vector_env, method)(*arguments, **options)
        except EnvironmentLost:
            self.lost = True
            raise
        except (Exception, SystemExit) as error:
            raise_if_asked_to_stop(error)
            self.lost = True
            name = type(self._base).__name__
            raise EnvironmentLost(f"{name} raised {raised(error)}{unpacking_rule(error)}") from error

    def refused(self, error: ValueError) -> EnvironmentLost:
        """Returns the exception for an answer that `error` refuses."""
        self.lost = True
        return EnvironmentLost(f"{type(self._base).__name__} {error}")

    def seeds(self, seed: int | np.random.SeedSequence) -> list[int]:
        """Returns the seeds of a reset, drawn from `seed`: one for each environment, or a single one where they are
        vectorised natively."""
        if not isinstance(seed, np.random.SeedSequence) and seed < 0:
            raise BadInput(f"seed is {seed}: it must be at least 0")
        sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        return [int(word) for word in sequence.generate_state(self.vector_env.num_envs if self.one_seed_each else 1)]

    @property
    def can_break_off(self) -> bool:
        """True if a new episode can begin in one environment alone. With wrappers around the vector environment it may
        not: several of Gymnasium's refuse, or forget what they know of the others."""
        unwrapped = self.one_seed_each and self.vector_env is self._base
        return unwrapped or self.mode is AutoresetMode.DISABLED

    @property
    def time_limit(self) -> int | None:
        """The steps after which each environment has ended its episode by itself; None where that is not known."""
        if isinstance(self._base, ProcessEnvs):
            limits = [each.time_limit for each in self.call("call", "inside")]
        elif isinstance(self._base, SyncVectorEnv):
            limits = [inside(env).time_limit for env in self._base.envs]
        else:
            limits = [getattr(getattr(self._base, "spec", None), "max_episode_steps", None)]
        return None if None in limits else max(limits)

    @property
    def normalizers(self) -> list[list[Any]]:
        """Gymnasium's normalising wrappers, of each environment a list, the outermost first; empty where environments
        run in other processes."""
        around = normalizers(self.vector_env)
        if isinstance(self._base, SyncVectorEnv):
            return [around + normalizers(env) for env in self._base.envs]
        return [] if self._workers is not None and not around else [around]

    @property
    def normalizing(self) -> list[str]:
        """The names of the normalising wrappers, those in other processes too as far as can be seen."""
        names = {type(each).__name__ for wrappers in self.normalizers for each in wrappers}
        if isinstance(self.vector_env, ProcessEnvs):
            names |= {name for each in self.call("call", "inside") for name in each.normalizing}
        return sorted(names)

    def snapshot(self) -> list[dict[str, Any]] | None:
        """Returns the state of each environment, or one of them all where they are native, JSON-able; None where it
        cannot be known, because an environment is not one of `jaxrl.envs.snapshot`'s or resets in its own way."""
        states: Sequence[dict[str, Any] | None]
        if isinstance(self.vector_env, ProcessEnvs):
            states = self.call("call", "snapshot")
        elif isinstance(self.vector_env, SyncVectorEnv) and self.mode is AutoresetMode.SAME_STEP:
            states = [env.snapshot() for env in self.vector_env.envs]  # type: ignore[attr-defined]
        else:
            states = [env_state(self.vector_env)]
        known = [state for state in states if state is not None]
        return known if len(known) == len(states) else None

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Brings the environments, which have been reset, to what `snapshot` gave."""
        if isinstance(self.vector_env, ProcessEnvs):
            self.call("call", "restore", states)
        elif isinstance(self.vector_env, SyncVectorEnv):
            for env in self.vector_env.envs:
                env.restore(states)  # type: ignore[attr-defined]
        else:
            set_env_state(self.vector_env, states[0])

    def close(self) -> None:
        """Releases what the environments hold; no process of theirs is left."""
        for key in [key for key, owner in _owners.items() if owner is self]:
            del _owners[key]
        if self._workers is not None:
            stop_workers(self._workers)
            return
        try:
            self.vector_env.close()
        except (Exception, SystemExit) as error:  # Of the user's: too late to matter, and not to be kept quiet about.
            raise_if_asked_to_stop(error)
            tell(f"an environment raised {raised(error)} while it was closed")
