"""Adam as every kernel uses it: cached, its rate given at each step, steps along non-finite gradients not taken."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jax import Array
from jax.typing import ArrayLike


@functools.cache
def adam(eps: float) -> optax.GradientTransformation:
    """Adam over all parameters as one flat vector, its learning rate a hyperparameter in the optimiser's state.

    Flat, because on a CPU a small network's step costs more in one dispatch per leaf than in arithmetic.
    """
    return optax.inject_hyperparams(lambda learning_rate: optax.flatten(optax.adam(learning_rate, eps=eps)))(
        learning_rate=0.0
    )


def descend(
    learner: TrainState, grads: optax.Params, learning_rate: ArrayLike, max_grad_norm: ArrayLike | None, go: ArrayLike
) -> tuple[TrainState, Array, Array]:
    """One optimiser step along `-grads`, unless something speaks against it.

    Args:
      learner: parameters and optimiser state; its optimiser comes from `adam`.
      grads: shaped like the parameters.
      learning_rate: the rate of this step.
      max_grad_norm: gradients with a larger global norm are scaled down to it; None for no bound.
      go: boolean scalar; False leaves the learner as it is.

    Returns:
      The learner after the step, or as it was where `go` is False or a gradient is not finite; the global norm of
      `grads` before scaling; whether it is finite.
    """
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm)

    def step(learner: TrainState) -> TrainState:
        scale = 1.0 if max_grad_norm is None else jnp.minimum(1.0, max_grad_norm / jnp.maximum(norm, 1e-12))
        hyperparams = learner.opt_state.hyperparams
        rate = jnp.asarray(learning_rate, hyperparams["learning_rate"].dtype)
        opt_state = learner.opt_state._replace(hyperparams={**hyperparams, "learning_rate": rate})
        return learner.replace(opt_state=opt_state).apply_gradients(grads=jax.tree.map(lambda g: g * scale, grads))

    return jax.lax.cond(go & finite, step, lambda learner: learner, learner), norm, finite
