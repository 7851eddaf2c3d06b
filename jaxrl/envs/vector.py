"""Vector environments without their autoreset conventions: one adapter that yields true transitions. No JAX here.

Gymnasium has three conventions for what happens after an episode's end. NEXT_STEP returns the final observation, then
spends the next step on a reset that ignores the action; SAME_STEP resets at once and hides the final observation in
`infos`; DISABLED resets when told to. Behind `Envs` they look alike, but for `Transition.valid`, which marks the rows
that NEXT_STEP spends on resetting.

A fault is a step of which nothing can be learned: an observation, a reward or an action that is not finite, or a state
that MuJoCo could not compute with and replaced. It is found before the step becomes a transition.
"""

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from jaxrl.data.memory import NEGLIGIBLE, free_host_bytes
from jaxrl.data.spaces import flatten, layout, observation_at, to_float32, what_is_wrong, width
from jaxrl.data.transition import Transition
from jaxrl.envs.answers import (
    LARGEST_APART,
    check_shape,
    flags,
    is_wide,
    loses_digits,
    numbers,
    parts_of,
    unpacking_rule,
)
from jaxrl.envs.envpool import Pool
from jaxrl.envs.guard import FAULT, NOTICE, Guard, Mark, guarded, reset_with_seed
from jaxrl.envs.processes import Workers, ask, stop_workers, watched
from jaxrl.envs.registry import find_callable, find_spec, is_native
from jaxrl.envs.snapshot import env_state, set_env_state
from jaxrl.envs.sync import Serial
from jaxrl.envs.wrappers import inside, normalizers
from jaxrl.errors import BadInput, EnvironmentFault, EnvironmentLost
from jaxrl.report import raise_if_asked_to_stop, raised, tell
from jaxrl.timer import timed, timer

EnvLike = str | Callable[[], gym.Env] | VectorEnv
WrapperLike = str | Callable[[gym.Env], gym.Env]
BACKENDS = "gymnasium", "async", "envpool"
LONGEST = 1e6  # Seconds; what waits for a pipe takes no more than a few weeks.
OWN = "_ended", "_returns", "_lengths", "_num_faults"  # What the adapter itself remembers, by environment.
SMALL = 1e37  # A sum of squares of float32 up to here says that each of them is finite.
LARGE = LARGEST_APART**2  # A sum of squares beyond which a number may be too large for float32 to keep its digits.
MOST_FAULTS = 100  # Of one environment between two episodes that it finishes; beyond, a reset is no remedy.
# Who steps which environment, by its id, until that adapter is closed or gone.
_holders: weakref.WeakValueDictionary[int, "Envs"] = weakref.WeakValueDictionary()


class FinishedEpisode(NamedTuple):
    """One episode that ended on the last step: which environment's, the sum of its rewards, its number of steps."""

    env_index: int
    episode_return: float
    episode_length: int


class Fault(NamedTuple):
    """One environment that was reset on the last step for what it did, such as "gave a reward that is not finite"."""

    env_index: int
    what: str


class Envs:
    """N environments that step together.

    Attributes:
      num_envs: N.
      marks_valid: whether its transitions say which of their rows are `valid`.
      observation_space, action_space: those of a single environment.
      obs: `(N, S)` float32, what to act on next; raw, flattened as `jaxrl.data.spaces` says.
      finished: the episodes that ended on the last step.
      failed: whether one of them was lost, or ended the run with a fault, since the last reset.
      faults: the environments that were reset for a fault on the last step; always empty under `on_fault="stop"`.
    """

    def __init__(
        self,
        vector_env: VectorEnv,
        seed: int | np.random.SeedSequence,
        on_fault: str = "stop",
        timeout: float = 60.0,
    ) -> None:
        mode = vector_env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise BadInput(
                f"{type(vector_env).__name__} declares no autoreset mode: metadata['autoreset_mode'] must be one of "
                "gymnasium.vector.AutoresetMode"
            )
        base = vector_env.unwrapped
        self._one_seed_each = isinstance(base, SyncVectorEnv | AsyncVectorEnv | Pool)
        self._resets_one = self._one_seed_each or mode is AutoresetMode.DISABLED
        if on_fault not in ("stop", "reset"):
            raise BadInput(f"on_fault is {on_fault!r}: it must be 'stop' or 'reset'")
        if on_fault == "reset" and not self._resets_one:
            raise BadInput(f"{type(base).__name__} cannot reset one of its environments alone: on_fault must be 'stop'")
        self._vector_env = vector_env
        self._workers = base if isinstance(base, AsyncVectorEnv) else None
        self._mode, self._timeout, self._goes_on = mode, timeout, on_fault == "reset"
        self.marks_valid = self._goes_on or mode is AutoresetMode.NEXT_STEP
        if self._workers is not None and not isinstance(self._workers, Workers):
            watched(vector_env, self._workers, timeout)
        # A wrapper around it may read infos, and so may a subclass of the user's.
        keeps_infos = base is not vector_env or type(base) not in (Serial, SyncVectorEnv)
        if isinstance(base, SyncVectorEnv):
            inner = [env.env if isinstance(env, Guard) else env for env in base.envs]
            base.envs = [Guard(env, i, keeps_infos) for i, env in enumerate(inner)]
        self.num_envs: int = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self._layout = layout(self.observation_space)
        self._odd_obs = f"gave an observation that is {what_is_wrong(self._layout)}"
        shape = self.observation_space.shape
        self._obs_shape = -1 if shape is None else (self.num_envs, *shape)  # -1: no array has the shape of a Dict.
        self._is_wide = is_wide(self.observation_space)
        self._bounds, self._clips = _bounds(self.action_space), isinstance(self.action_space, spaces.Box)
        self._whole = np.issubdtype(self.action_space.dtype, np.integer)
        self._action_shape = (self.num_envs, *(self.action_space.shape or ()))
        size = math.prod(self._action_shape[1:])
        self._action_shapes = {self._action_shape, (self.num_envs, size)}
        self._action_shapes |= {(self.num_envs,)} if size == 1 else set()
        self._action_shapes |= {self._action_shape[1:]} if self.num_envs == 1 else set()
        self._hold(base)
        try:
            _check_memory(self.num_envs, width(self._layout))
            self.reset(seed)
        except BaseException:
            self.close()
            raise

    def seeds(self, seed: int | np.random.SeedSequence) -> list[int]:
        """What `reset(seed)` resets with: a number for each environment, or one where they are vectorised natively."""
        if not isinstance(seed, np.random.SeedSequence) and seed < 0:
            raise BadInput(f"seed is {seed}: it must be at least 0")
        sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        return [int(word) for word in sequence.generate_state(self.num_envs if self._one_seed_each else 1)]

    def reset(self, seed: int | np.random.SeedSequence | Sequence[int]) -> None:
        """Begins a new episode everywhere, with a random stream of its own for each environment, given by `seed`: a
        number, a sequence to draw from, or what `seeds` gave."""
        words = list(seed) if isinstance(seed, Sequence) else self.seeds(seed)
        self.finished: list[FinishedEpisode] = []
        self.faults: list[Fault] = []
        self._ended = np.zeros(self.num_envs, bool)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self.failed = False
        self._num_faults = np.zeros(self.num_envs, np.int64)  # Since the environment last finished an episode.
        answer = self._ask("reset", seed=words if self._one_seed_each else words[0])
        try:
            obs, infos = parts_of(answer, "reset")
        except ValueError as error:
            raise self._refused(error) from None
        for notice in _marks(infos, NOTICE).values():
            tell(notice)
        self.obs = self._rows(obs)
        if not _finite(self.obs):
            self._check_starts(0)

    @property
    def can_break_off(self) -> bool:
        """Whether `break_off` can begin a new episode in one environment alone. A vector environment with wrappers
        around it may not: several of Gymnasium's refuse, or forget what they know of the others."""
        alone = self._one_seed_each and self._vector_env is self._vector_env.unwrapped
        return alone or self._mode is AutoresetMode.DISABLED

    @property
    def running(self) -> list[FinishedEpisode]:
        """The episodes that are under way, one for each environment, as they stand."""
        return [FinishedEpisode(i, float(self._returns[i]), int(self._lengths[i])) for i in range(self.num_envs)]

    def break_off(self, rows: np.ndarray) -> None:
        """Forgets the episodes under way in `rows`, `(N,)` boolean, and begins new ones there, if `can_break_off`."""
        self._returns[rows] = 0
        self._lengths[rows] = 0
        self._begin_anew(rows)
        if not _finite(self.obs):
            self._check_starts(0)

    @property
    def time_limit(self) -> int | None:
        """Steps after which each of the environments has ended its episode by itself, as far as can be seen; None where
        one of them may go on for ever."""
        base = self._vector_env.unwrapped
        if isinstance(base, Workers):
            limits = [each.time_limit for each in self._ask("call", "inside")]
        elif isinstance(base, SyncVectorEnv):
            limits = [inside(env).time_limit for env in base.envs]
        else:
            limits = [getattr(getattr(base, "spec", None), "max_episode_steps", None)]
        return None if None in limits else max(limits)

    @property
    def normalizers(self) -> list[list[Any]]:
        """Gymnasium's normalising wrappers, of each environment a list, the outermost first; empty where environments
        run in other processes. `normalizing` has their names also there."""
        around, base = normalizers(self._vector_env), self._vector_env.unwrapped
        if isinstance(base, SyncVectorEnv):
            return [around + normalizers(env) for env in base.envs]
        return [] if isinstance(base, AsyncVectorEnv) and not around else [around]

    @property
    def normalizing(self) -> list[str]:
        """The names of the normalising wrappers inside these environments, as far as can be seen."""
        names = {type(each).__name__ for wrappers in self.normalizers for each in wrappers}
        if isinstance(self._vector_env, Workers):
            names |= {name for each in self._ask("call", "inside") for name in each.normalizing}
        return sorted(names)

    @timed("adapter")
    def step(self, action: np.ndarray) -> Transition:
        """Takes one step in every environment.

        Args:
          action: in the environment's units, `(N, ...)` with the space's shape, or flattened, `(N, A)`; `(N,)` where
            an action is one number. The environment gets it in the space's shape and type. A Box action is clipped to
            the bounds on its way. The transition keeps what was given.

        Returns:
          Rows `(N,)`, NumPy: float32 observations and rewards, boolean flags. `valid` is None unless the vector
          environment spends steps on resetting, or faults are not to stop it: the row of a fault is not valid, and
          what follows it is another episode.

        Raises:
          BadInput: the actions have another shape, or are not whole numbers in a space of such.
          EnvironmentFault: something is not finite, or MuJoCo could not compute; under `on_fault="reset"` only where
            resetting that environment does not help.
          EnvironmentLost: an environment raised, died, or gave no answer in time.
        """
        obs, action = self.obs, np.asarray(action)
        self._check_action(action)
        to_environment = self._to_environment(action)
        self.finished, self.faults = [], []
        wrong = {} if _finite(action) else self._bad_actions(action)  # What is wrong with the step, by environment.
        with timer("environment"):
            answer = self._ask("step", to_environment)
        try:  # Copies: an environment may write its next step over this one.
            raw_obs, reward, terminated, truncated, infos = parts_of(answer, "step")
            reward = numbers("reward", reward, self.num_envs)
            terminated = flags("terminated", terminated, self.num_envs)
            truncated = flags("truncated", truncated, self.num_envs)
        except ValueError as error:
            raise self._refused(error) from None
        infos = infos if isinstance(infos, Mapping) else {}
        next_obs = self.obs = self._rows(raw_obs)
        valid = None
        if self._mode is AutoresetMode.NEXT_STEP:
            valid = ~self._ended
            reward, terminated, truncated = np.where(valid, reward, 0.0), terminated & valid, truncated & valid
        elif self._goes_on:
            valid = np.ones(self.num_envs, bool)
        ended = terminated | truncated
        any_ended = bool(np.count_nonzero(ended))
        if any_ended and self._mode is AutoresetMode.SAME_STEP:
            next_obs = self._with_final(infos, ended)

        steps = self.num_envs if valid is None else int(np.count_nonzero(valid))
        if not _finite(reward):
            wrong |= _not_finite("gave a reward that is not finite", reward)
        if not _finite(next_obs):
            wrong |= _not_finite(self._odd_obs, next_obs)
        if infos:
            wrong |= _marks(infos, FAULT) | _marks(infos.get("final_info"), FAULT)
        anew = ended.copy() if any_ended and self._mode is AutoresetMode.DISABLED else None
        if wrong and (rows := self._put_aside(wrong, valid, steps)) is not None:
            reward, terminated, truncated = np.where(rows, 0.0, reward), terminated & ~rows, truncated & ~rows
            next_obs = np.where(rows[:, None], obs, next_obs)
            valid, ended, anew = (
                ~rows if valid is None else valid & ~rows,
                ended & ~rows,
                rows if anew is None else anew | rows,
            )

        self._returns += reward
        self._lengths += 1 if valid is None else valid
        if any_ended:
            self._finish(ended)
        if anew is not None:
            self._begin_anew(anew)
        if not _finite(self.obs):
            self._check_starts(steps)
        self._ended = ended
        return Transition(obs, action, _narrowed(reward), next_obs, terminated, truncated, valid)

    def state(self) -> dict[str, Any] | None:
        """All that the environments and this adapter need to continue from here, JSON-able; None where it cannot be
        known, because an environment is not one of `jaxrl.envs.snapshot`'s, resets in its own way, or has failed."""
        base, states = self._vector_env, None
        if self.failed:
            return None
        if isinstance(base, Workers):
            states = self._ask("call", "snapshot")
        elif isinstance(base, SyncVectorEnv) and self._mode is AutoresetMode.SAME_STEP:
            states = [env.snapshot() for env in base.envs]  # type: ignore[attr-defined]
        elif (native := env_state(base)) is not None:
            states = [native]
        if states is None or any(state is None for state in states):
            return None
        own = {name: getattr(self, name).tolist() for name in OWN}
        return {"envs": list(states), "obs": self.obs.tolist(), **own}

    def set_state(self, state: dict[str, Any]) -> None:
        """Brings environments that have been reset to what `state` gave.

        Raises:
          KeyError, TypeError, ValueError, EnvironmentLost: the state is of other environments.
        """
        base, states = self._vector_env, state["envs"]
        obs = np.array(state["obs"], np.float32)
        if obs.shape != self.obs.shape:
            raise ValueError("the observations have another shape")
        if isinstance(base, Workers):
            self._ask("call", "restore", states)
        elif isinstance(base, SyncVectorEnv):
            for env in base.envs:
                env.restore(states)  # type: ignore[attr-defined]
        else:
            set_env_state(base, states[0])
        self.obs = obs
        for name in OWN:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype))

    def render(self) -> None:
        """Draws the environments where their render mode asks for a call."""
        self._vector_env.render()

    def close(self) -> None:
        """Releases what the environments hold; no process of theirs is left."""
        for key in [key for key, holder in _holders.items() if holder is self]:
            del _holders[key]
        if self._workers is not None:
            stop_workers(self._workers)
            return
        try:
            self._vector_env.close()
        except (Exception, SystemExit) as error:  # Of the user's: too late to matter, and not to be kept quiet about.
            raise_if_asked_to_stop(error)
            tell(f"an environment raised {raised(error)} while it was closed")

    def _hold(self, base: VectorEnv) -> None:
        """Notes that the environments in `base` step here. One that a function has given twice is refused: in the same
        adapter, or while another one steps it. A vector environment of the user's goes over to its latest adapter."""
        held: dict[int, Any] = {}
        for each in (env.unwrapped for env in (base.envs if isinstance(base, SyncVectorEnv) else ())):
            if id(each) in held or (isinstance(base, Serial) and id(each) in _holders):
                raise BadInput(
                    f"one and the same {type(each).__name__} is given twice: a function must build a new environment "
                    "at each call, as env=lambda: gymnasium.make(...) does, and env and eval_env must be two"
                )
            held[id(each)] = self
        self._bases = {id(base), *held}
        _holders.update(held)

    def shares_with(self, other: "Envs") -> bool:
        """Whether one and the same environment steps in both."""
        return bool(self._bases & other._bases)

    def _refused(self, error: ValueError) -> EnvironmentLost:
        """Names the vector environment whose answer `error` refuses."""
        self.failed = True
        return EnvironmentLost(f"{type(self._vector_env.unwrapped).__name__} {error}")

    def _rows(self, raw_obs: Any) -> np.ndarray:
        """Observations as they are learned from, `(N, S)` float32."""
        try:
            if getattr(raw_obs, "shape", None) != self._obs_shape:
                check_shape(self.observation_space, raw_obs, self.num_envs)
            if self._obs_shape != -1:
                raw_obs = np.asarray(raw_obs)  # Of a JAX array, say, in which nothing can be written.
            rows = self._flat(raw_obs, self.num_envs)
        except ValueError as error:
            raise self._refused(error) from None
        if self._is_wide and not np.vdot(rows, rows) < LARGE and loses_digits(self.observation_space, raw_obs):
            self._is_wide = False  # It is told.
            tell(
                "observations hold numbers beyond 6.7e7, between which float32 leaves gaps of 8 and more, and the "
                "networks compute in float32: subtract an offset with gymnasium.wrappers.TransformObservation"
            )
        return rows

    def _ask(self, question: str, *arguments: Any, **options: Any) -> Any:
        """`step`, `reset` or `call` of the vector environment; whatever it raises becomes EnvironmentLost."""
        try:
            if self._workers is not None:
                return ask(self._vector_env, self._workers, question, self._timeout, *arguments, **options)
            if question == "reset":
                answer, notice = reset_with_seed(self._vector_env, options)
                if notice is not None:
                    tell(notice)
                return answer
            return getattr(self._vector_env, question)(*arguments, **options)
        except EnvironmentLost:
            self.failed = True
            raise
        except (Exception, SystemExit) as error:
            raise_if_asked_to_stop(error)
            self.failed = True
            name = type(self._vector_env.unwrapped).__name__
            raise EnvironmentLost(f"{name} raised {raised(error)}{unpacking_rule(error)}") from error

    def _flat(self, raw_obs: Any, num_rows: int) -> np.ndarray:
        try:
            return flatten(self._layout, raw_obs, num_rows)
        except (TypeError, ValueError) as error:
            raise ValueError(f"gave observations that are no numbers ({' '.join(str(error).split())})") from None

    def _bad_actions(self, action: np.ndarray) -> dict[int, str]:
        wrong = _not_finite("was given an action that is not finite", action)
        if self._mode is AutoresetMode.NEXT_STEP:  # Where an episode is over, the action is ignored.
            wrong = {index: what for index, what in wrong.items() if not self._ended[index]}
        if wrong and not self._goes_on:
            raise self._fault(wrong, self.num_envs)
        return wrong

    def _check_action(self, action: np.ndarray) -> None:
        if self._bounds is None:
            name = type(self.action_space).__name__
            raise BadInput(f"action space {name} is not supported: it must be a Box or hold whole numbers")
        if action.shape not in self._action_shapes or action.dtype.kind in "OSUMmc":
            raise BadInput(
                f"actions have the shape {action.shape} and the type {action.dtype}: they must be numbers of the shape "
                f"{self._action_shape}"
            )

    def _to_environment(self, action: np.ndarray) -> np.ndarray:
        """What the vector environment is given: the actions in their space's shape and type and within its bounds, and
        where they are not finite anything in it, because nothing will come of that step."""
        assert self._bounds is not None
        low, high = self._bounds
        action = action.reshape(self._action_shape)
        if self._clips:
            action = np.fmin(np.fmax(action, low), high)
        if self._whole:
            fits = (low <= action) & (action <= high)
            if action.dtype.kind not in "iub":
                fits &= action == np.floor(action)
            if np.count_nonzero(fits) < fits.size:
                action = self._refuse_or_replace(action, fits)
        # A copy, unless the clip has made one: an environment may write over its action.
        return action.astype(self.action_space.dtype, copy=not self._clips)

    def _refuse_or_replace(self, action: np.ndarray, fits: np.ndarray) -> np.ndarray:
        """Refuses numbers that do not fit; what is not finite becomes a number that does."""
        assert self._bounds is not None
        finite = np.isfinite(action)
        bad = (finite & ~fits).reshape(self.num_envs, -1).any(1)
        if bad.any():
            index = int(bad.argmax())
            raise BadInput(
                f"environment {index} was given the action {action[index]}: it must be in {self.action_space}"
            )
        return np.where(finite, action, self._bounds[0])

    def _with_final(self, infos: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        """The observations, but where an episode ended the last one of that episode."""
        final = infos.get("final_obs")
        if final is None:
            raise EnvironmentLost(
                f"{type(self._vector_env.unwrapped).__name__} declares SAME_STEP and ended an episode without "
                "infos['final_obs']"
            )
        next_obs = self.obs.copy()
        try:
            for index in np.flatnonzero(ended):
                last = _row(final, int(index))
                check_shape(self.observation_space, last)
                next_obs[index] = self._flat(last, 1)[0]
        except ValueError as error:
            raise self._refused(error) from None
        return next_obs

    def _put_aside(self, wrong: dict[int, str], valid: np.ndarray | None, steps: int) -> np.ndarray | None:
        """Which rows are no transitions because of what is `wrong` with them, after that is noted and their episodes
        are forgotten; None where it is in rows that are none anyway."""
        wrong = {index: what for index, what in wrong.items() if valid is None or valid[index]}
        if not wrong:
            return None
        if not self._goes_on:
            raise self._fault(wrong, steps)
        self.faults = [Fault(index, what) for index, what in sorted(wrong.items())]
        rows = np.zeros(self.num_envs, bool)
        rows[list(wrong)] = True
        self._num_faults += rows
        if self._num_faults.max() > MOST_FAULTS:
            index = int(self._num_faults.argmax())
            again = f"{wrong[index]}, and was reset for a fault {MOST_FAULTS} times without finishing an episode"
            raise self._fault({index: again}, steps)
        self._returns[rows] = 0
        self._lengths[rows] = 0
        return rows

    def _begin_anew(self, rows: np.ndarray) -> None:
        # The environment takes the mask out of the dict that it is given.
        answer = self._ask("reset", options={"reset_mask": rows.copy()})
        try:
            raw_obs, _ = parts_of(answer, "reset")
        except ValueError as error:
            raise self._refused(error) from None
        self.obs = np.where(rows[:, None], self._rows(raw_obs), self.obs)

    def _check_starts(self, steps: int) -> None:
        """After all else, what is to be acted on must be finite; a first observation that is not gets a second chance
        where faults are not to stop the run."""
        wrong = dict(_not_finite(self._odd_obs, self.obs))
        if wrong and self._goes_on:
            rows = np.zeros(self.num_envs, bool)
            rows[list(wrong)] = True
            self.faults += [Fault(index, what) for index, what in sorted(wrong.items())]
            self._begin_anew(rows)
            wrong = dict(_not_finite(f"{self._odd_obs}, twice in a row after a reset", self.obs))
        if wrong:
            raise self._fault(wrong, steps)

    def _fault(self, wrong: dict[int, str], steps: int) -> EnvironmentFault:
        self.failed = True
        index = min(wrong)
        return EnvironmentFault(index, wrong[index], steps)

    def _finish(self, ended: np.ndarray) -> None:
        for index in np.flatnonzero(ended):
            episode = FinishedEpisode(int(index), float(self._returns[index]), int(self._lengths[index]))
            self.finished.append(episode)
        self._returns[ended] = 0
        self._lengths[ended] = 0
        self._num_faults[ended] = 0


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
        if isinstance(vector_env, Workers):
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
    if not 0 < timeout <= LONGEST:
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
    env: str | Callable[[], gym.Env],
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
        return Pool(env, num_envs)
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
        return Workers(makers, AutoresetMode.SAME_STEP, timeout, spaces)
    return Serial(makers)


def steps_natively(
    env: EnvLike, wrapper: Sequence[Any] = (), on_fault: str = "stop", make_options: Mapping[str, Any] | None = None
) -> bool:
    """Whether `make_envs` steps this environment in a vector environment of its own: such a one takes no wrappers and
    no options, and cannot reset one of its environments alone."""
    return is_native(env) and not (make_options or wrapper or on_fault == "reset")


def _wrapped(wrapper: Callable[[gym.Env], gym.Env], make: Callable[[], gym.Env]) -> gym.Env:
    env = wrapper(make())
    if not isinstance(env, gym.Env):
        name = getattr(wrapper, "__qualname__", repr(wrapper))
        raise BadInput(f"wrapper {name} gave {env!r}: it must give an environment")
    return env


def _check_memory(num_envs: int, obs_dim: int) -> None:
    """Raises BadInput if there is no room for what one step makes: every environment's observation, the vector
    environment's arrays of these, and ours."""
    size = 3 * 4 * num_envs * obs_dim
    if size > NEGLIGIBLE and size > (free := free_host_bytes()):
        raise BadInput(
            f"observations of {obs_dim:,} numbers from num_envs {num_envs:,} environments take {size / 2**30:,.1f} GiB "
            f"at each step, and {free / 2**30:,.1f} are free"
        )


def _finite(field: np.ndarray) -> bool:
    """Whether float32 can certainly hold all of it, for the price of a sum of squares; large numbers call for a closer
    look, and so do those that are none."""
    return bool(np.vdot(field, field) < SMALL)


def _narrowed(reward: np.ndarray) -> np.ndarray:
    """Rewards, which float32 can hold, in float32."""
    try:
        return reward.astype(np.float32)
    except FloatingPointError:  # One underflows, where `np.seterr` says to raise. To ask for that costs more than this.
        return to_float32(reward)


def _not_finite(what: str, field: np.ndarray) -> dict[int, str]:
    """The closer look: `what`, for each row that holds something which is not finite."""
    finite = np.isfinite(to_float32(field))
    return {int(index): what for index in np.flatnonzero(~finite.reshape(len(field), -1).all(1))}


def _marks(infos: Any, key: str) -> dict[int, str]:
    """What guards said under `key`, by environment."""
    said = infos.get(key) if isinstance(infos, Mapping) else None
    if not isinstance(said, np.ndarray) or said.dtype != object:
        return {}
    return {index: str(mark) for index, mark in enumerate(said) if isinstance(mark, Mark)}


def _row(batch: Any, index: int) -> Any:
    """One environment's part of what all of them gave."""
    try:
        return observation_at(batch, index)
    except (IndexError, TypeError):
        raise ValueError("gave a final_obs without a row for each environment") from None


def _bounds(space: spaces.Space) -> tuple[Any, Any] | None:
    """The smallest and the largest number of each component of an action; None for spaces that are not supported."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + (space.nvec - 1)
    return (0, 1) if isinstance(space, spaces.MultiBinary) else None
