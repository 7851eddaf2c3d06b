"""Actions on their way to a vector environment: checked, and brought into their space's shape, type and bounds. No JAX
here."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.errors import BadInput


class ActionAdapter:
    """Brings the actions of N environments into the form that their vector environment takes.

    Args:
      space: of one action.
      num_envs: N.
    """

    def __init__(self, space: spaces.Space, num_envs: int) -> None:
        self._space, self._num_envs = space, num_envs
        self._bounds, self._clips = _bounds(space), isinstance(space, spaces.Box)
        self._is_whole = np.issubdtype(space.dtype, np.integer)
        shape = space.shape or ()
        size = math.prod(shape)
        self._shape = (num_envs, *shape)
        self._accepted_shapes = {self._shape, (num_envs, size)}
        self._accepted_shapes |= {(num_envs,)} if size == 1 else set()
        self._accepted_shapes |= {shape} if num_envs == 1 else set()

    def to_env(self, action: np.ndarray) -> np.ndarray:
        """Returns a copy of the actions in their space's shape and type, a Box action clipped to its bounds. Instead of
        an action that is not finite it holds any number that fits, because nothing will come of that step.

        Raises:
          BadInput: the actions have another shape or are no numbers, or the space holds whole numbers and they do not.
        """
        if self._bounds is None:
            name = type(self._space).__name__
            raise BadInput(f"action space {name} is not supported: it must be a Box or hold whole numbers")
        if action.shape not in self._accepted_shapes or action.dtype.kind in "OSUMmc":
            raise BadInput(
                f"actions have the shape {action.shape} and the type {action.dtype}: they must be numbers of the shape "
                f"{self._shape}"
            )
        low, high = self._bounds
        action = action.reshape(self._shape)
        if self._clips:
            action = np.fmin(np.fmax(action, low), high)
        if self._is_whole:
            fits = (low <= action) & (action <= high)
            if action.dtype.kind not in "iub":
                fits &= action == np.floor(action)
            if np.count_nonzero(fits) < fits.size:
                action = self._refuse_or_replace(action, fits, low)
        # A copy, unless the clip has made one: an environment may write over its action.
        return action.astype(self._space.dtype, copy=not self._clips)

    def _refuse_or_replace(self, action: np.ndarray, fits: np.ndarray, low: Any) -> np.ndarray:
        """Refuses numbers that do not fit; an action that is not finite becomes `low`, which does."""
        finite = np.isfinite(action)
        bad = (finite & ~fits).reshape(self._num_envs, -1).any(1)
        if bad.any():
            index = int(bad.argmax())
            raise BadInput(f"environment {index} was given the action {action[index]}: it must be in {self._space}")
        return np.where(finite, action, low)


def _bounds(space: spaces.Space) -> tuple[Any, Any] | None:
    """The smallest and the largest number of each component of an action; None for spaces that are not supported."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + (space.nvec - 1)
    return (0, 1) if isinstance(space, spaces.MultiBinary) else None
