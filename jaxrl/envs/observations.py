"""Observations as a vector environment gives them: checked, and flattened to rows of float32. No JAX here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.data.memory import NEGLIGIBLE, free_host_bytes
from jaxrl.data.spaces import flatten, layout, observation_at, width
from jaxrl.envs.answers import check_shape
from jaxrl.errors import BadInput
from jaxrl.report import tell

MAX_PRECISE_NUMBER = 2.0**26  # Between larger numbers float32 leaves gaps of 8 and more.
MAX_PRECISE_SQUARE_SUM = MAX_PRECISE_NUMBER**2  # Beyond it one of the numbers summed up may be larger than that.


class ObservationReader:
    """Reads what N environments give as observations.

    Args:
      space: of one observation.
      num_envs: N.

    Attributes:
      layout: of one observation, as `jaxrl.data.spaces` has it.

    Raises:
      BadInput: the space is not supported.
    """

    def __init__(self, space: spaces.Space, num_envs: int) -> None:
        self.layout = layout(space)
        self._space, self._num_envs = space, num_envs
        self._batch_shape = -1 if space.shape is None else (num_envs, *space.shape)  # -1: no array has a Dict's shape.
        self._may_lose_digits = is_wide(space)

    def check_memory(self) -> None:
        """Raises BadInput if there is no room for what one step makes: every environment's observation, the vector
        environment's arrays of these, and ours."""
        obs_dim = width(self.layout)
        size = 3 * 4 * self._num_envs * obs_dim
        if size > NEGLIGIBLE and size > (free := free_host_bytes()):
            raise BadInput(
                f"observations of {obs_dim:,} numbers from num_envs {self._num_envs:,} environments take "
                f"{size / 2**30:,.1f} GiB at each step, and {free / 2**30:,.1f} are free"
            )

    def read(self, raw_obs: Any) -> np.ndarray:
        """Returns observations as they are learned from, `(N, S)` float32, in memory of its own. Tells the user once if
        float32 cannot tell some of them apart.

        Raises:
          ValueError: they do not have their space's shape, or are no numbers. The message says what was given.
        """
        if getattr(raw_obs, "shape", None) != self._batch_shape:
            check_shape(self._space, raw_obs, self._num_envs)
        if self._batch_shape != -1:
            raw_obs = np.asarray(raw_obs)  # Of a JAX array, say, in which nothing can be written.
        obs = self._flatten(raw_obs, self._num_envs)
        if (
            self._may_lose_digits
            and not np.vdot(obs, obs) < MAX_PRECISE_SQUARE_SUM
            and loses_digits(self._space, raw_obs)
        ):
            self._may_lose_digits = False  # It is told.
            tell(
                "observations hold numbers beyond 6.7e7, between which float32 leaves gaps of 8 and more, and the "
                "networks compute in float32: subtract an offset with gymnasium.wrappers.TransformObservation"
            )
        return obs

    def with_final(self, obs: np.ndarray, infos: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        """Returns `obs`, but where an episode `ended` the last observation of that episode, which `infos` hold.

        Raises:
          ValueError: they do not hold it.
        """
        final = infos.get("final_obs")
        if final is None:
            raise ValueError("declares SAME_STEP and ended an episode without infos['final_obs']")
        next_obs = obs.copy()
        for index in map(int, np.flatnonzero(ended)):
            try:
                last = observation_at(final, index)
            except (IndexError, TypeError):
                raise ValueError("gave a final_obs without a row for each environment") from None
            check_shape(self._space, last)
            next_obs[index] = self._flatten(last, 1)[0]
        return next_obs

    def _flatten(self, raw_obs: Any, num_rows: int) -> np.ndarray:
        try:
            return flatten(self.layout, raw_obs, num_rows)
        except (TypeError, ValueError) as error:
            raise ValueError(f"gave observations that are no numbers ({' '.join(str(error).split())})") from None


def loses_digits(space: spaces.Space, obs: Any) -> bool:
    """Returns whether float32 cannot hold a large number of these observations as it is: where numbers differ by less
    than the gaps of float32, two observations become one."""
    if isinstance(space, spaces.Dict):
        return any(loses_digits(part, obs[key]) for key, part in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return any(loses_digits(part, obs[index]) for index, part in enumerate(space.spaces))
    if not is_wide(space):
        return False
    exact = np.asarray(obs, np.float64)
    large = exact[np.isfinite(exact) & (np.abs(exact) > MAX_PRECISE_NUMBER)]
    with np.errstate(over="ignore"):
        return bool((large.astype(np.float32) != large).any())


def is_wide(space: spaces.Space) -> bool:
    """Returns whether a Box, or a part of a Dict or Tuple, has numbers with more digits than float32 can hold."""
    if isinstance(space, spaces.Dict):
        return any(map(is_wide, space.spaces.values()))
    if isinstance(space, spaces.Tuple):
        return any(map(is_wide, space.spaces))
    return isinstance(space, spaces.Box) and space.dtype != np.float32 and space.dtype.itemsize >= 4
