"""Products of the built-in layers: in full precision, and with the faster of two ways to take a gradient. The numbers
are those of `x @ kernel`; nothing here is part of an algorithm."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

# Products in float32 are computed in float32: where JAX may choose, a GPU rounds their factors to ten bits (TF32).
EXACT = jax.lax.Precision.HIGHEST
MAX_TRANSPOSED_WIDTH = 32  # Outputs of a layer. Above it the transposed form is as often slower as faster.


@jax.custom_jvp
def product(x: Array, kernel: Array) -> Array:
    """`x K`, of `(..., I)` and `(I, O)`: as `x @ kernel`, but for how its gradient with respect to K is taken.

    That gradient is `x^T G`. Where O is a handful, XLA's product for CPUs takes seven times as long for it as for
    `(G^T x)^T` with both transposes written out: of PPO's actor on CartPole-v1, a tenth of the whole update.
    """
    return _matmul(x, kernel)


@functools.partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = [] if isinstance(dx, SymbolicZero) else [_matmul(dx, kernel)]
    parts += [] if isinstance(dkernel, SymbolicZero) else [_transposed_product(x, dkernel)]
    return _matmul(x, kernel), sum(parts[1:], parts[0])


@jax.custom_jvp
def joined_product(x: Array, action: Array, kernel: Array) -> Array:
    """`[x, action] K`, of `(..., I)`, `(..., A)` and `(I + A, O)`.

    Where K is constant in a gradient, as for an actor's that climbs a critic, the product is taken in two parts,
    `x K_x + action K_a`: the gradient with respect to the action is then a product with its few rows of K. Elsewhere it
    is one product, so that the gradient with respect to K is one, too.
    """
    return _matmul(jnp.concatenate([x, action], axis=-1), kernel)


@functools.partial(joined_product.defjvp, symbolic_zeros=True)
def _joined_product_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Any, Any, Any]) -> tuple[Array, Any]:
    (x, action, kernel), (dx, daction, dkernel) = primals, tangents
    size = x.shape[-1]
    if isinstance(dkernel, SymbolicZero):
        parts = [] if isinstance(dx, SymbolicZero) else [_matmul(dx, kernel[:size])]
        parts += [] if isinstance(daction, SymbolicZero) else [_matmul(daction, kernel[size:])]
        return _matmul(x, kernel[:size]) + _matmul(action, kernel[size:]), sum(parts[1:], parts[0])
    joined = jnp.concatenate([x, action], axis=-1)
    along = _matmul(joined, dkernel)
    if not (isinstance(dx, SymbolicZero) and isinstance(daction, SymbolicZero)):
        dx, daction = (
            jnp.zeros(each.shape, each.dtype) if isinstance(each, SymbolicZero) else each for each in (dx, daction)
        )
        along = _matmul(jnp.concatenate([dx, daction], axis=-1), kernel) + along
    return _matmul(joined, kernel), along


def _transposed_product(x: Array, kernel: Array) -> Array:
    """`x K`, written such that its transpose, the gradient, is the faster of the two where it matters.

    Barriers become barriers in the transpose. Without them XLA would join the transposes to the product, and have the
    slower one again.
    """
    if jax.default_backend() != "cpu" or not 1 < kernel.shape[1] <= MAX_TRANSPOSED_WIDTH:
        return _matmul(x, kernel)
    barrier = jax.lax.optimization_barrier
    columns = barrier(jnp.tensordot(barrier(kernel.T), x, axes=(1, -1), precision=EXACT))
    return jnp.moveaxis(columns, 0, -1)


def _matmul(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel, precision=EXACT)
