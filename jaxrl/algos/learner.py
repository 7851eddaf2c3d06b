"""Learners, each of which owns its network, and how they move: Adam as every kernel uses it, with its rate given at
each step, and no step that is not finite; and target parameters, which follow slowly."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from flax.training.train_state import TrainState
from jax import Array
from jax.typing import ArrayLike

from jaxrl.ops.arrays import common_type

State = TypeVar("State", bound=TrainState)


@dataclasses.dataclass(frozen=True)
class Apply:
    """`module.apply`, equal for equal modules: a bound method is equal to those of the very same module only, and JAX
    would trace anew for each.

    Attributes:
      module: the network.
    """

    module: nn.Module

    def __call__(self, params: Any, *inputs: Array) -> Any:
        """The output of the network with these variables, `{"params": ...}`."""
        return self.module.apply(params, *inputs)


@dataclasses.dataclass(frozen=True)
class ApplyEach(Apply):
    """The same for several networks of one kind: every array of `params` has a leading axis of networks, `(N, ...)`,
    and so has the output. Of two critics together a product takes less time than two of one critic."""

    def __call__(self, params: Any, *inputs: Array) -> Any:
        """The output of each network for the same inputs: of critics, `(N, B)`."""
        return jax.vmap(self.module.apply, in_axes=(0, *[None] * len(inputs)))(params, *inputs)

    def init(self, keys: Iterable[Array], *inputs: Array) -> Any:
        """The variables of one network for each key. Each is made by itself, as it would be alone."""
        return jax.tree.map(lambda *each: jnp.stack(each), *(self.module.init(key, *inputs) for key in keys))


class BoxTask(NamedTuple):
    """Sizes and bounds that an actor-critic keeps of its spaces; static in its state.

    Attributes:
      obs_dim: numbers in an observation.
      low, high: the bounds of each number of an action.
    """

    obs_dim: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def action_dim(self) -> int:
        """Numbers in an action."""
        return len(self.low)

    def bounds(self, action: Array) -> np.ndarray:
        """The lower and the upper bounds, in the type of `action`, `(..., A)`, and with as many axes."""
        return np.asarray((self.low, self.high), action.dtype).reshape((2,) + (1,) * (action.ndim - 1) + (-1,))


class Learner(TrainState):
    """A TrainState that owns its network. Two of them with equal modules have equal tree structures: they share one
    trace, and stack.

    Attributes:
      module: the network, a Flax module.
    """

    module: nn.Module = struct.field(pytree_node=False)

    @classmethod
    def fresh(cls, apply_fn: Apply, params: Any, tx: optax.GradientTransformation, **more: Any) -> Self:
        """A learner that has taken no step."""
        state = cls.create(apply_fn=apply_fn, module=apply_fn.module, params=params, tx=tx, **more)
        return state.replace(step=jnp.zeros((), jnp.int32))


class TargetLearner(Learner):
    """A Learner with a slowly following copy of its parameters, which `fresh` makes.

    Attributes:
      target_params: the copy.
    """

    target_params: Any

    @classmethod
    def fresh(cls, apply_fn: Apply, params: Any, tx: optax.GradientTransformation, **more: Any) -> Self:
        """A learner that has taken no step, its target equal to its parameters."""
        return super().fresh(apply_fn, params, tx, target_params=params, **more)


def polyak_update(learner: TargetLearner, tau: ArrayLike) -> TargetLearner:
    """The learner with its target moved towards its parameters: `theta' <- (1 - tau) * theta' + tau * theta`.

    Args:
      learner: parameters and target.
      tau: how far, in [0, 1].

    Returns:
      The learner with the new target.

    Source: Lillicrap et al. 2016 (arXiv 1509.02971), algorithm 1.
    """
    return learner.replace(target_params=optax.incremental_update(learner.params, learner.target_params, tau))


class Adam(optax.GradientTransformationExtraArgs):
    """An optimiser that is pickled and copied by its settings: it comes back as the one that `adam` gives for them."""

    settings: tuple[float, bool]

    def __reduce__(self) -> tuple[Any, ...]:
        return adam, self.settings


def adam(eps: float, flat: bool) -> Adam:
    """Adam, its learning rate a hyperparameter in the optimiser's state; for equal settings the very same object.

    Args:
      eps: added to the root of the second moment.
      flat: whether it sees all parameters as one vector. On a CPU a small network's step costs more in one dispatch per
        leaf than in arithmetic; a large one's costs more in joining and splitting.
    """
    return _adam(eps, flat)


@functools.cache  # To which `f(x, flat=True)` and `f(x, True)` are two things.
def _adam(eps: float, flat: bool) -> Adam:
    def with_rate(learning_rate: ArrayLike) -> optax.GradientTransformation:
        each = optax.adam(learning_rate, eps=eps)
        return optax.flatten(each) if flat else each

    optimizer = Adam(*optax.inject_hyperparams(with_rate)(learning_rate=0.0))
    optimizer.settings = eps, flat
    return optimizer


def apply_gradients(
    learner: State,
    report: Mapping[str, Array],
    grads: optax.Params,
    learning_rate: ArrayLike,
    go: ArrayLike,
    max_grad_norm: ArrayLike | None = None,
    weight_decay: ArrayLike | None = None,
) -> tuple[State, Array, Array]:
    """One step of Adam along `-grads`, unless something speaks against it.

    Args:
      learner: parameters and optimiser state; its optimiser comes from `adam`.
      report: scalars that are to be reported of the step, its loss among them.
      grads: shaped like the parameters.
      learning_rate: the rate of this step.
      go: boolean scalar; False leaves the learner as it is.
      max_grad_norm: gradients with a larger global norm are scaled down to it; None for no bound.
      weight_decay: coupled L2: this times the parameters is added to the (scaled) gradient, so Adam's moments see it.
        None for none.

    Returns:
      The learner after the step, or as it was where `go` is False or a number is not finite; the global norm of `grads`
      as given; whether it and the whole report are finite.
    """
    # Squares of bfloat16 are added up in float32: in their own type, a sum of many would stop growing.
    norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(common_type(g.dtype, jnp.float32)), grads))
    finite = jnp.isfinite(jnp.stack([norm, *report.values()])).all()

    # Only what moves goes through the branch: the rest would be copied. Each parameter keeps its type.
    def step(moving: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        params, opt_state, count = moving
        direction = grads
        if max_grad_norm is not None:
            scale = jnp.minimum(1.0, max_grad_norm / jnp.maximum(norm, 1e-12))
            direction = jax.tree.map(lambda g: (g * scale).astype(g.dtype), direction)
        if weight_decay is not None:
            direction = jax.tree.map(lambda g, p: (g + weight_decay * p).astype(g.dtype), direction, params)
        rate = jnp.asarray(learning_rate, opt_state.hyperparams["learning_rate"].dtype)
        opt_state = opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": rate})
        with jax.numpy_dtype_promotion("standard"):  # Optax takes a number to the power of a whole one.
            updates, opt_state = learner.tx.update(direction, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, count + 1

    moving = learner.params, learner.opt_state, learner.step
    params, opt_state, count = jax.lax.cond(go & finite, step, lambda moving: moving, moving)
    return learner.replace(params=params, opt_state=opt_state, step=count), norm, finite
