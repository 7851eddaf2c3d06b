"""The state of an environment as JSON-able values, and back, to the last bit: so that a resumed run continues in the
middle of an episode. No JAX here.

Known are Gymnasium's classic control and MuJoCo tasks, under the wrappers that `gymnasium.make` puts around them. What
any other environment or wrapper remembers nobody knows from outside: its state is None.
"""

import sys
from typing import Any

import numpy as np

from jaxrl.envs.wrappers import layers

# The attributes that each class keeps from step to step, beside its random generator. A subclass may keep more: it is
# not known.
ATTRIBUTES = {
    "gymnasium.envs.classic_control.cartpole:CartPoleEnv": ("state", "steps_beyond_terminated"),
    "gymnasium.envs.classic_control.cartpole:CartPoleVectorEnv": ("state", "steps", "prev_done"),
    "gymnasium.envs.classic_control.pendulum:PendulumEnv": ("state", "last_u"),
    "gymnasium.envs.classic_control.acrobot:AcrobotEnv": ("state",),
    "gymnasium.envs.classic_control.mountain_car:MountainCarEnv": ("state",),
    "gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv": ("state",),
    "gymnasium.wrappers.common:OrderEnforcing": ("_has_reset",),
    "gymnasium.wrappers.common:TimeLimit": ("_elapsed_steps",),
    "gymnasium.wrappers.common:PassiveEnvChecker": (),
}
MUJOCO_MODULES = "gymnasium.envs.mujoco."  # Each of these remembers what MuJoCo does, and nothing else.


def env_state(env: Any) -> dict[str, Any] | None:
    """The state that `env` needs to continue from here; None where that is not known."""
    states: list[dict[str, Any]] = []
    for layer in layers(env):
        name = _name(layer)
        if name in ATTRIBUTES:
            states.append({key: _plain(getattr(layer, key)) for key in ATTRIBUTES[name]})
        elif name.startswith(MUJOCO_MODULES):
            states.append(_simulation(layer))
        else:
            return None
    return {"layers": states, "np_random": env.unwrapped.np_random.bit_generator.state}


def set_env_state(env: Any, state: dict[str, Any]) -> None:
    """Brings `env`, which has been reset, to a state that `env_state` gave of its like.

    Raises:
      KeyError, TypeError, ValueError: the state is of another environment.
    """
    for layer, remembered in zip(layers(env), state["layers"], strict=True):
        name = _name(layer)
        if name.startswith(MUJOCO_MODULES):
            _simulate(layer, remembered)
        else:
            for key in ATTRIBUTES[name]:
                setattr(layer, key, _restored(remembered[key]))
    env.unwrapped.np_random.bit_generator.state = state["np_random"]


def _name(layer: Any) -> str:
    return f"{type(layer).__module__}:{type(layer).__qualname__}"


def _simulation(task: Any) -> dict[str, Any]:
    """MuJoCo's own idea of a full state, and two results of the last step that some rewards look back on."""
    mujoco = sys.modules["mujoco"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(task.model, kind))
    mujoco.mj_getState(task.model, task.data, state, kind)
    return {name: _plain(x) for name, x in (("state", state), ("xpos", task.data.xpos), ("xipos", task.data.xipos))}


def _simulate(task: Any, remembered: dict[str, Any]) -> None:
    mujoco = sys.modules["mujoco"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = _restored(remembered["state"])
    if state.shape != (mujoco.mj_stateSize(task.model, kind),):
        raise ValueError("the simulation has another size")
    mujoco.mj_setState(task.model, task.data, state, kind)
    mujoco.mj_forward(task.model, task.data)
    mujoco.mj_setState(task.model, task.data, state, kind)  # MuJoCo before 3.4 lets the line above move its warm start.
    task.data.xpos[:], task.data.xipos[:] = _restored(remembered["xpos"]), _restored(remembered["xipos"])


def _plain(value: Any) -> Any:
    """JSON keeps every digit of a float64, and so of a float32 too; of arrays and tuples it must be told."""
    if isinstance(value, np.ndarray | np.generic):
        return {"array": value.tolist(), "type": value.dtype.str}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each) for each in value]}
    assert value is None or isinstance(value, bool | int | float)
    return value


def _restored(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_restored(each) for each in value["tuple"])
    return np.array(value["array"], np.dtype(value["type"]))[()]
