"""Pytrees on disk: one file each, written atomically, read back only into the shapes and types that are expected."""

import contextlib
import json
import os
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.errors import BadInput


def write_atomically(path: Path, write: Any) -> None:
    """Calls `write(file)` on a temporary neighbour of `path` and then puts it in place: a crash at any moment leaves
    the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_tree(path: Path, tree: Any, notes: dict[str, Any]) -> None:
    """Writes the arrays of a pytree, and JSON-able `notes` beside them, into the file `path`."""
    leaves = {name: np.asarray(_plain(leaf)) for name, leaf in _named_leaves(tree).items()}
    text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    write_atomically(path, lambda file: np.savez(file, notes=text, **leaves))  # type: ignore[arg-type]


def load_tree(path: Path, like: Any, partly: bool = False) -> tuple[Any, dict[str, Any]]:
    """Reads what `save_tree` wrote, into the structure of `like`.

    Args:
      path: the file.
      like: a pytree of the expected structure; its leaves' shapes and types must be those of the file.
      partly: whether the file may hold more than `like`.

    Returns:
      The tree, JAX arrays where `like` has them and NumPy arrays elsewhere, and the notes.

    Raises:
      BadInput: no such file, a damaged one, or one that holds something else.
    """
    leaves = _named_leaves(like)
    stored, notes = load_arrays(path, leaves.keys() if partly else None)
    odd = leaves.keys() - stored.keys() if partly else leaves.keys() ^ stored.keys()
    if odd:
        raise BadInput(f"{path} holds another kind of state than this run's (they differ in {min(odd)})")

    def restore(name: str, expected: Any) -> Any:
        array, plain = stored[name], np.asarray(_plain(expected))
        if array.shape != plain.shape or array.dtype != plain.dtype:
            raise BadInput(
                f"{path} holds {name} as {array.dtype}{list(array.shape)}, "
                f"where this run has {plain.dtype}{list(plain.shape)}"
            )
        if not isinstance(expected, jax.Array):
            return array
        if jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(expected))
        return jnp.array(array)

    restored = [restore(name, leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored), notes


def load_arrays(path: Path, names: Collection[str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name, and the notes, of a file that `save_tree` wrote.

    Args:
      path: the file.
      names: which arrays to read, where the file has them; None for all. The others are not touched: a replay buffer
        may be among them.

    Returns:
      The arrays, and the notes.

    Raises:
      BadInput: there is no such file, or it is damaged.
    """
    with _reading(path), np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file if name != "notes" and (names is None or name in names)}
        return found, _notes(file["notes"])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(f"there is no {path}") from error
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{path} is damaged or no file of jaxrl's: {error}") from error


def _notes(text: np.ndarray) -> dict[str, Any]:
    notes = json.loads(text.tobytes())
    if not isinstance(notes, dict):
        raise ValueError("its notes are none")
    return notes


def _named_leaves(tree: Any) -> dict[str, Any]:
    """Each leaf by its path, joined with dots."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
