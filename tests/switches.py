"""JAX's own switches, for the length of a block."""

import contextlib

import jax

STRICT = {"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict", "jax_transfer_guard": "disallow"}


@contextlib.contextmanager
def switched(switches):
    before = {name: getattr(jax.config, name) for name in switches}
    try:
        for name, value in switches.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
