"""The one record that environments, buffer and kernels exchange. It imports no JAX, so that environment workers can."""

from typing import Any, NamedTuple


class Transition(NamedTuple):
    """One environment step, for any number of leading axes: `(B,)` for DDPG, `(T, N)`, time first, for PPO.

    Attributes:
      obs: `(..., S)`, what the policy saw.
      action: `(..., A)` or `(...)`, what the policy chose.
      reward: `(...)`.
      next_obs: `(..., S)`, the true successor of `obs`: at an episode's end its final observation, never the next
        episode's first one.
      terminated: `(...)`, boolean: the task ended, and nothing follows. Values do not bootstrap through it.
      truncated: `(...)`, boolean: the episode was cut (a time limit), the task goes on. Values bootstrap through it.
      valid: `(...)`, boolean, or None when every row counts. A row that is not valid is no transition (the step on
        which a vector environment ignored the action and reset, or one that an environment failed in) and weighs
        nothing anywhere.
    """

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any
    valid: Any = None
