"""SAC's settings: what each number means, which may be, and what cannot work together."""

import jax
import numpy as np
from flax import struct
from gymnasium import spaces

from jaxrl.algos.built_in import check_twin_critics
from jaxrl.algos.checks import (
    FRACTION,
    LARGEST,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    check_actor_critic,
    check_hidden_sizes,
)
from jaxrl.errors import BadInput

RANGES = {
    "gamma": FRACTION,
    "tau": FRACTION,
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "alpha_learning_rate": RATE,
    "initial_alpha": NOT_NEGATIVE,
    "target_entropy": (-LARGEST, LARGEST),
    "max_grad_norm": POSITIVE,
}


class SACConfig(struct.PyTreeNode):
    """Numbers and structure that an update reads. Numbers are leaves: changing one compiles nothing anew.
    `hidden_sizes` is static."""

    gamma: float = 0.99
    """Discount per step."""
    tau: float = 0.005
    """How far the target critics follow at each update: 0 never, 1 at once."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for both critics."""
    alpha_learning_rate: float | None = 3e-4
    """Adam's learning rate for the logarithm of the temperature; none keeps the temperature at initial_alpha."""
    initial_alpha: float = 1.0
    """The temperature alpha at first: what a nat of entropy is worth, in units of the reward."""
    target_entropy: float | None = None
    """Entropy (nats) of actions scaled to [-1, 1] that a learned temperature aims at; none for minus the action's
    size."""
    max_grad_norm: float | None = None
    """Bound on the global norm of each gradient (that of both critics is one); none for no bound."""
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    """Widths of the ReLU layers, of the actor and of each critic."""


def check_config(
    config: SACConfig, observation_space: spaces.Space, action_space: spaces.Space, own_networks: bool = False
) -> None:
    """Raises BadInput, in one line, if SAC with this config cannot learn on these spaces as asked."""
    check_actor_critic(config, SACConfig, RANGES, observation_space, action_space, "sac")
    check_hidden_sizes(config.hidden_sizes, at_least=1)
    if not own_networks:
        check_twin_critics(config, observation_space, action_space, heads=2)
    learned = config.alpha_learning_rate is not None
    if not learned and config.target_entropy is not None:
        raise BadInput(
            "target_entropy is set, but with alpha_learning_rate none nothing aims at it: leave one of the two off"
        )
    if (
        learned
        and not isinstance(config.initial_alpha, jax.core.Tracer)
        and not np.all(np.asarray(config.initial_alpha) >= POSITIVE[0])
    ):
        raise BadInput(
            f"initial_alpha is {config.initial_alpha}, whose logarithm cannot be learned: it must be positive, or "
            "alpha_learning_rate none"
        )
