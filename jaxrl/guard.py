"""A watch over one environment, in the process that it runs in: nothing of what it says is overwritten, nothing that
MuJoCo hides stays hidden, and what it raises says which environment raised it. No JAX here."""

import copy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from jaxrl.env_state import env_state, set_env_state
from jaxrl.errors import EnvironmentLost
from jaxrl.output import say
from jaxrl.wrappers import Inside, inside

FAULT = "jaxrl_fault"  # The key in a step's info under which a guard says what is wrong.
# MuJoCo's counters that mean a state or control which it could not compute with and has quietly replaced.
COUNTED = "BADQPOS", "BADQVEL", "BADQACC", "BADCTRL"
# Said by its model of HalfCheetah at every load, and whenever one of those counters moves, which is ours to tell.
UNSAID = "settotalmass", "The simulation is unstable"


class Guard(gym.Wrapper):
    """The environment, watched.

    An episode's last observation is copied: SAME_STEP hands it out uncopied, and the reset may write over it. A step
    in which MuJoCo counted a bad state or control says so in its info. An exception becomes EnvironmentLost, in one
    line that names the environment by its `index` and the place in the code.
    """

    def __init__(self, env: gym.Env, index: int) -> None:
        super().__init__(env)
        self._index, self._base = index, env.unwrapped
        self._counters: np.ndarray | None = None
        self._counted = b""

    def __getattr__(self, name: str) -> Any:  # A user who looks into a vector environment finds what was there.
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets, and finds the counters of the simulation, if there is one."""
        try:
            obs, info = self.env.reset(**options)
        except (Exception, SystemExit) as error:
            raise _lost(self._index, error) from error
        mujoco, data = sys.modules.get("mujoco"), getattr(self._base, "data", None)
        if mujoco is not None and isinstance(data, mujoco.MjData):
            first, last = (int(getattr(mujoco.mjtWarning, f"mjWARN_{name}")) for name in (COUNTED[0], COUNTED[-1]))
            self._counters = data.warning.number[first : last + 1]  # Not a copy: MuJoCo counts in it.
            self._counted = self._counters.tobytes()
        return obs, info

    def snapshot(self) -> dict[str, Any] | None:
        """What the environment would need to continue from here; None where that is not known."""
        return env_state(self.env)

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Brings the environment, which has been reset, to its own of the `states`, one for each that steps with it."""
        set_env_state(self.env, states[self._index])

    def inside(self) -> Inside:
        """What can be seen inside the environment, from whatever process it runs in."""
        return inside(self.env)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps, and looks at what came of it."""
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise _lost(self._index, error) from error
        if terminated or truncated:
            obs = copy.deepcopy(obs)
        if self._counters is not None and self._counters.tobytes() != self._counted:
            before = np.frombuffer(self._counted, self._counters.dtype)
            moved = np.array(COUNTED)[self._counters != before]
            self._counted = self._counters.tobytes()
            info = {**info, FAULT: f"left what MuJoCo can compute ({', '.join(moved)})"}
        return obs, reward, terminated, truncated, info


def guarded(make: Callable[[], gym.Env], index: int) -> Guard:
    """The environment that `make` makes, under a guard."""
    hear_mujoco()
    return Guard(make(), index)


def _lost(index: int, error: BaseException) -> EnvironmentLost:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return EnvironmentLost(f"environment {index} raised {words} ({Path(frame.filename).name}:{frame.lineno})")


def hear_mujoco() -> None:
    """Takes over MuJoCo's warnings from its default, which prints and writes a log file into the working directory.
    Whoever has set a function for them keeps it."""
    try:
        import mujoco
    except ImportError:
        return
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_warn)


def _warn(message: str) -> None:
    if not any(words in message for words in UNSAID):
        say(f"MuJoCo: {message}", sys.stderr)
