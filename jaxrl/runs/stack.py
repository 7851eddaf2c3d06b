"""Learners side by side: the states of several runs as one tree with a leading axis, so that one device call can update
them all. A single one stays as it is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.timer import timer

T = TypeVar("T")


class Stack:
    """One tree or several alike. Index it for one of them.

    Attributes:
      tree: the only one, or all of them with a leading axis.
      size: how many there are.
    """

    def __init__(self, trees: Sequence[Any]) -> None:
        self.size = len(trees)
        self.tree = trees[0] if self.size == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def __getitem__(self, place: int) -> Any:
        return self.tree if self.size == 1 else _take(self.tree, jax.device_put(place))

    def __setitem__(self, place: int, tree: Any) -> None:
        assert self.size == 1 and place == 0, "one of several cannot be replaced"
        self.tree = tree


@jax.jit
def _take(tree: Any, place: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[place], tree)


def stack_sizes(count: int) -> list[int]:
    """Into how many stacks `count` runs go, and how large each is.

    An accelerator is filled by one stack of all. On a CPU there is nothing to fill: five updates of 64-64 networks in
    one call take as long as five calls, and while the device is busy with those of one run the environments of the
    next can step.
    """
    return [1] * count if jax.default_backend() == "cpu" else [count]


def from_host(program: Callable[..., Any]) -> Callable[..., Any]:
    """`program`, a jitted function, for arguments in NumPy. Their way to the device is meant: JAX's transfer guard does
    not stop it.

    `jax.device_put` would say so too. But it takes several times as long as the call, and it may go on to read the
    memory of an array, which a loop writes to again.
    """

    def call(*arguments: Any) -> Any:
        with timer("dispatch"), jax.transfer_guard_host_to_device("allow"):
            return program(*arguments)

    return call


def to_host(array: Any) -> np.ndarray:
    """One array in NumPy, on purpose, at a tenth of the time of `jax.device_get`."""
    with jax.transfer_guard_device_to_host("allow"):
        return np.asarray(array)


def stack_on_host(trees: Sequence[T]) -> T:
    """NumPy trees as a stack takes them: with a leading axis where there are two or more."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def vmap_selected(kernel: Callable[..., Any], size: int) -> Callable[..., Any]:
    """`kernel(tree, *arguments)`, which gives a tree and something else, for a stack of this size.

    The function that is returned takes, after the tree, which of them are to be updated, `(size,)`: the others stay as
    they are. With one run, call it only when an update is due.
    """
    if size == 1:
        return lambda tree, chosen, *arguments: kernel(tree, *arguments)

    def if_chosen(tree: Any, chosen: jax.Array, *arguments: Any) -> Any:
        updated, rest = kernel(tree, *arguments)
        return jax.tree.map(lambda new, old: jnp.where(chosen, new, old), updated, tree), rest

    return jax.vmap(if_chosen)


def in_turn(tasks: Iterable[Iterator[None]]) -> None:
    """Runs tasks side by side until the last has ended: each goes on to its next pause, then the next one does."""
    left = list(tasks)
    while left:
        left = [task for task in left if next(task, left) is not left]
