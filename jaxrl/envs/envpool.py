"""EnvPool's environments, which step together in C++ threads, as a Gymnasium vector environment that keeps Gymnasium's
rules where EnvPool has its own. No JAX here.

EnvPool gives every environment that starts with one seed a stream next to its neighbour's, ignores the seed of a reset,
declares actions in float64, answers a partial reset with the rows that were reset alone, and reports a task that ends
on the step of its time limit as cut by the limit only. All of that is put right here; what is left is that nothing can
be seen of MuJoCo's warning counters.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from jaxrl.envs.guard import hear_mujoco
from jaxrl.envs.processes import quiet
from jaxrl.errors import BadInput


def _cartpole(obs: np.ndarray) -> np.ndarray:
    return (np.abs(obs[:, 0]) > 2.4) | (np.abs(obs[:, 2]) > 12 * np.pi / 180)


def _ant(obs: np.ndarray) -> np.ndarray:
    return ~((obs[:, 0] >= 0.2) & (obs[:, 0] <= 1.0))


def _hopper(obs: np.ndarray) -> np.ndarray:
    # The task also ends where a speed passes 100, of which the observation, cut off at 10, knows nothing.
    return ~((obs[:, 0] > 0.7) & (np.abs(obs[:, 1]) < 0.2) & (np.abs(obs[:, 1:]) < 100).all(1))


def _walker(obs: np.ndarray) -> np.ndarray:
    return ~((obs[:, 0] > 0.8) & (obs[:, 0] < 2.0) & (np.abs(obs[:, 1]) < 1.0))


def _humanoid(obs: np.ndarray) -> np.ndarray:
    return ~((obs[:, 0] > 1.0) & (obs[:, 0] < 2.0))


def _pendulum(obs: np.ndarray) -> np.ndarray:
    return np.abs(obs[:, 1]) > 0.2


def _double_pendulum(obs: np.ndarray) -> np.ndarray:
    (sin1, sin2), (cos1, cos2) = obs[:, 1:3].T, obs[:, 3:5].T
    return 0.6 * (cos1 + cos1 * cos2 - sin1 * sin2) <= 1.0  # The height of the tip of two poles of 0.6 m each.


# When an observation means that the task has ended, by the rule of Gymnasium's own environment; None for never.
TERMINATION_RULES: dict[str, Callable[[np.ndarray], np.ndarray] | None] = {
    "CartPole": _cartpole,
    "Ant": _ant,
    "HalfCheetah": None,
    "Hopper": _hopper,
    "Humanoid": _humanoid,
    "HumanoidStandup": None,
    "InvertedDoublePendulum": _double_pendulum,
    "InvertedPendulum": _pendulum,
    "Pusher": None,
    "Reacher": None,
    "Swimmer": None,
    "Walker2d": _walker,
}
ENV_IDS = [
    "CartPole-v1",
    *(f"{task}-v{version}" for task in TERMINATION_RULES if task != "CartPole" for version in (4, 5)),
]


class EnvPoolEnvs(VectorEnv):
    """N environments of one of the tasks in `ENV_IDS`, with the spaces that Gymnasium gives them. They reset in
    NEXT_STEP mode, and one alone when `options` hold a `reset_mask`.

    Attributes:
      obs: the last observations, `(N, ...)`, in EnvPool's own precision.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, env_id: str, num_envs: int) -> None:
        if env_id not in ENV_IDS:
            raise BadInput(f"environment {env_id} is not one of env_backend envpool's: it has {', '.join(ENV_IDS)}")
        try:
            import envpool  # noqa: F401
        except ImportError as error:
            raise BadInput("env_backend envpool needs EnvPool: pip install 'jaxrl-kernels[envpool]'") from error
        hear_mujoco()
        one = gym.make(env_id)
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        one.close()
        self.num_envs, self._id = num_envs, env_id
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.obs: np.ndarray
        self._is_terminal = TERMINATION_RULES[env_id.partition("-")[0]]
        self._pool: Any = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new episodes. A seed, one for each environment, makes the whole pool anew: EnvPool takes one then
        only."""
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            self.obs = self.obs.copy()
            self.obs[mask] = self._pool.reset(options={"reset_mask": mask})[0]
        else:
            if seed is not None or self._pool is None:
                words = np.random.SeedSequence().generate_state(self.num_envs) if seed is None else np.array(seed)
                self._pool = self._make([int(word) & 0x7FFFFFFF for word in words])
            self.obs = np.array(self._pool.reset()[0])
        return self.obs.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all of them."""
        self.obs, reward, terminated, truncated, _ = self._pool.step(actions)
        if self._is_terminal is not None and truncated.any():
            terminated = terminated | (truncated & self._is_terminal(self.obs))
        return self.obs, reward, terminated, truncated, {}

    def close_extras(self, **options: Any) -> None:
        """Ends the threads."""
        self._pool = None

    def _make(self, seeds: list[int]) -> Any:
        import envpool

        with quiet():  # Of bounds that float32 rounds; the spaces used are Gymnasium's.
            pool = envpool.make(self._id, env_type="gymnasium", num_envs=self.num_envs, seed=seeds)
            _ = pool.observation_space, pool.action_space  # It makes them when they are first asked for.
            return pool
