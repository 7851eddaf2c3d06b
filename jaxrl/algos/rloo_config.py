"""RLOO's settings: what each number means, and which may be."""

from flax import struct

from jaxrl.algos.checks import NOT_NEGATIVE, POSITIVE, RATE, check_kind, check_numbers, check_whole

RANGES = {
    "kl_coef": NOT_NEGATIVE,
    "clip_eps": POSITIVE,
    "temperature": POSITIVE,
    "learning_rate": RATE,
    "max_grad_norm": POSITIVE,
    "num_epochs": (1.0, 1e6),
    "num_minibatches": (1.0, 1e9),
}


class RLOOConfig(struct.PyTreeNode):
    """The settings of an update. Numbers are leaves: changing one compiles nothing anew. `num_epochs` and the
    fields below it are static: they fix shapes or the program."""

    kl_coef: float = 0.05
    """What a nat of `log pi(y) - log pi_ref(y)` costs, in units of the reward."""
    clip_eps: float | None = None
    """Half-width of the band around ratio 1 in the clipped surrogate; none for no clipping."""
    temperature: float = 1.0
    """Divides the logits of policy and reference alike; that with which completions were sampled."""
    learning_rate: float = 1e-6
    """Adam's learning rate. The default is one for language models of billions of parameters; small ones take more."""
    max_grad_norm: float | None = 1.0
    """Bound on the gradient's global norm; none for no bound."""
    num_epochs: int = struct.field(pytree_node=False, default=1)
    """Passes over the completions."""
    num_minibatches: int = struct.field(pytree_node=False, default=1)
    """Gradient steps per pass; divides the number of rows."""
    length_normalize: bool = struct.field(pytree_node=False, default=False)
    """Divide the logarithm of a completion's ratio by the number of its tokens. Its gradient is then a mean over its
    tokens instead of a sum."""
    normalize_advantages: bool = struct.field(pytree_node=False, default=False)
    """Standardise advantages over all rows."""


def check_config(config: RLOOConfig) -> None:
    """Raises BadInput, in one line, if a number of the config cannot be."""
    check_kind("config", config, RLOOConfig)
    check_whole(config, "num_epochs", "num_minibatches")
    check_numbers(config, RANGES)
