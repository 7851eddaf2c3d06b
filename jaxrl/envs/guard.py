"""A watch over one environment, in the process that it runs in: nothing of what it says is overwritten, nothing that
MuJoCo hides stays hidden, and what it raises says which environment raised it. No JAX here."""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from jaxrl.envs.answers import check_shape, flag, number, parts_of, unpacking_rule
from jaxrl.envs.snapshot import env_state, set_env_state
from jaxrl.envs.wrappers import Inside, inside
from jaxrl.errors import EnvironmentLost
from jaxrl.output import say
from jaxrl.report import raise_if_asked_to_stop, raised, tell

# The keys of an info under which a guard says what is wrong with a step, and what a user must know of a reset.
FAULT_KEY, NOTICE_KEY = "jaxrl_fault", "jaxrl_notice"
RESERVED_KEYS = FAULT_KEY, NOTICE_KEY, "final_obs", "final_info"  # Keys that mean something here or to Gymnasium.
MAX_INT_SEED = 2**31 - 1  # That a C int can hold.
# MuJoCo's counters that mean a state or control which it could not compute with and has quietly replaced.
MUJOCO_COUNTERS = "BADQPOS", "BADQVEL", "BADQACC", "BADCTRL"
# Said by its model of HalfCheetah at every load, and whenever one of those counters moves, which is ours to tell.
IGNORED_WARNINGS = "settotalmass", "The simulation is unstable"


class Mark(str):
    """A guard's words under `FAULT_KEY` or `NOTICE_KEY`. A user's own value under such a key is of another type."""

    __slots__ = ()


class Guard(gym.Wrapper):
    """The environment, watched.

    An episode's last observation is copied: SAME_STEP hands it out uncopied, and the reset may write over it. A step
    in which MuJoCo counted a bad state or control says so in its info. An exception becomes EnvironmentLost, in one
    line that names the environment by its `index` and the place in the code. So does an answer that is not of the kind
    that Gymnasium asks for. A reward becomes a float, and a flag a bool.

    The environment's infos stay here, unless `keeps_infos` says that somebody outside reads them: Gymnasium cannot
    merge every info with its neighbours', and not every info can be sent to another process.
    """

    def __init__(self, env: gym.Env, index: int, keeps_infos: bool = False) -> None:
        super().__init__(env)
        self._index, self._base, self._keeps_infos = index, env.unwrapped, keeps_infos
        self._space, actions = env.observation_space, env.action_space
        self._shape = -1 if self._space.shape is None else self._space.shape  # -1: no array has the shape of a Dict.
        # A row of a batch of numbers is a NumPy scalar, which is in no Box: it must become an array again.
        self._action_type = actions.dtype if isinstance(actions, spaces.Box) and actions.shape == () else None
        self._counters: np.ndarray | None = None
        self._counted = b""

    def __getattr__(self, name: str) -> Any:  # A user who looks into a vector environment finds what was there.
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets, and finds the counters of the simulation, if there is one."""
        try:
            answer, notice = reset_with_seed(self.env, options)
        except (Exception, SystemExit) as error:
            raise self._lost(error) from error
        try:
            obs, info = parts_of(answer, "reset")
            if getattr(obs, "shape", None) != self._shape:
                check_shape(self._space, obs)
        except ValueError as error:
            raise self._refused(error) from None
        mujoco, data = sys.modules.get("mujoco"), getattr(self._base, "data", None)
        if mujoco is not None and isinstance(data, mujoco.MjData):
            first, last = (
                int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in (MUJOCO_COUNTERS[0], MUJOCO_COUNTERS[-1])
            )
            self._counters = data.warning.number[first : last + 1]  # Not a copy: MuJoCo counts in it.
            self._counted = self._counters.tobytes()
        info = self._kept(info) if self._keeps_infos else {}
        return obs, info if notice is None else {**info, NOTICE_KEY: Mark(notice)}

    def snapshot(self) -> dict[str, Any] | None:
        """Returns the state that the environment needs to continue from here; None where that is not known."""
        return env_state(self.env)

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Brings the environment, which has been reset, to its own of the `states`, one for each that steps with it."""
        set_env_state(self.env, states[self._index])

    def inside(self) -> Inside:
        """Looks inside the environment, in the process that it runs in."""
        return inside(self.env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Steps, and looks at what came of it."""
        if self._action_type is not None:
            action = np.asarray(action, self._action_type)
        answer: Any
        try:
            answer = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise self._lost(error) from error
        try:
            if type(answer) is not tuple or len(answer) != 5:
                answer = parts_of(answer, "step")
            obs, reward, terminated, truncated, info = answer
            if getattr(obs, "shape", None) != self._shape:
                check_shape(self._space, obs)
            if not isinstance(reward, float):
                reward = number("reward", reward)
            if type(terminated) is not bool:
                terminated = flag("terminated", terminated)
            if type(truncated) is not bool:
                truncated = flag("truncated", truncated)
        except ValueError as error:
            raise self._refused(error) from None
        if terminated or truncated:
            obs = copy.deepcopy(obs)
        info = self._kept(info) if self._keeps_infos else {}
        if self._counters is not None and self._counters.tobytes() != self._counted:
            before = np.frombuffer(self._counted, self._counters.dtype)
            moved = np.array(MUJOCO_COUNTERS)[self._counters != before]
            self._counted = self._counters.tobytes()
            info = {**info, FAULT_KEY: Mark(f"left what MuJoCo can compute ({', '.join(moved)})")}
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the environment. An exception is told, and its neighbours are closed nevertheless."""
        try:
            self.env.close()
        except (Exception, SystemExit) as error:
            raise_if_asked_to_stop(error)
            tell(f"an environment raised {raised(error)} while it was closed")

    def _kept(self, info: Any) -> dict[str, Any]:
        """An info for who reads it, but for what would be taken for something else."""
        return {key: value for key, value in info.items() if key not in RESERVED_KEYS} if isinstance(info, dict) else {}

    def _refused(self, error: ValueError) -> EnvironmentLost:
        return EnvironmentLost(f"environment {self._index} ({type(self._base).__name__}) {error}")

    def _lost(self, error: BaseException) -> EnvironmentLost:
        raise_if_asked_to_stop(error)
        return EnvironmentLost(f"environment {self._index} raised {raised(error)}{unpacking_rule(error)}")


def marks(infos: Any, key: str) -> dict[int, str]:
    """Returns what guards said under `key`, by environment."""
    said = infos.get(key) if isinstance(infos, Mapping) else None
    if not isinstance(said, np.ndarray) or said.dtype != object:
        return {}
    return {index: str(mark) for index, mark in enumerate(said) if isinstance(mark, Mark)}


def reset_with_seed(env: Any, options: dict[str, Any]) -> tuple[Any, str | None]:
    """`env.reset(**options)`. An environment that refuses a seed which no C int can hold is given its lower 31 bits.
    The second value then says so in one line; it is None where the seed was taken."""
    seed = options.get("seed")
    try:
        return env.reset(**options), None
    except (OverflowError, ValueError, TypeError, AssertionError) as error:
        if not isinstance(seed, int) or seed <= MAX_INT_SEED:
            raise
        try:
            answer = env.reset(**{**options, "seed": seed & MAX_INT_SEED})
        except Exception:  # So it was not for the seed.
            raise error from None
        name = type(env.unwrapped).__name__
        return answer, f"{name} refuses seeds of 2**31 and more ({type(error).__name__}): it gets their lower 31 bits"


def guarded(make: Callable[[], gym.Env], index: int) -> Guard:
    """The environment that `make` makes, under a guard."""
    hear_mujoco()
    return Guard(make(), index)


def hear_mujoco() -> None:
    """Takes over MuJoCo's warnings from its default, which prints and writes a log file into the working directory.
    A function that the user has set for them stays."""
    try:
        import mujoco
    except ImportError:
        return
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_warn)


def _warn(message: str) -> None:
    if not any(words in message for words in IGNORED_WARNINGS):
        say(f"MuJoCo: {message}", sys.stderr)
