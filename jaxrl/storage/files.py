"""Pytrees on disk: one file each, written atomically, with a SHA-256 over all of it, and read back only whole and into
the shapes and types that are expected. Nothing of a file is interpreted before its digest is right, or ever unpickled.
JAX is imported where there is a pytree: arrays by name are read without it.
"""

import errno
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.errors import BadInput

FORMAT = 1
DIGITS = 64  # Of a SHA-256 in hexadecimal.
# The answers of file systems that cannot sync a folder: CIFS, shared folders of virtual machines, some of FUSE.
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
CANNOT_SYNC |= {errno.EBADF, errno.EROFS, errno.EACCES, errno.EPERM}


class DamagedFile(BadInput):
    """A file that is not as it was written: an older one may be."""


def write_atomically(path: Path, write: Any) -> None:
    """Calls `write(file)` on a temporary neighbour of `path` and then puts it in place: a crash at any moment leaves
    the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            sync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError:  # Windows opens no folders.
        return
    try:
        sync(folder)
    finally:
        os.close(folder)


def sync(descriptor: int) -> None:
    """Waits until a file or a folder is on the disk. Where the file system cannot do that for it, the file system's own
    time has to do.

    Raises:
      OSError: the disk fails or is full.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def save_tree(path: Path, tree: Any, notes: dict[str, Any]) -> str:
    """Writes the arrays of a pytree, and JSON-able `notes` beside them, into the file `path`.

    It is a NumPy archive whose closing comment is the SHA-256 of all that precedes it.

    Returns:
      The digest.
    """
    import jax

    leaves = {name: np.asarray(jax.device_get(_plain(leaf))) for name, leaf in _named_leaves(tree).items()}
    text = np.frombuffer(json.dumps({"file_format": FORMAT, **notes}).encode(), np.uint8)
    archive = io.BytesIO()
    np.savez(archive, notes=text, **leaves)  # type: ignore[arg-type]
    with zipfile.ZipFile(archive, "a") as file:
        file.comment = b"0" * DIGITS
    body = archive.getbuffer()[:-DIGITS]
    digest = hashlib.sha256(body).hexdigest()

    def write(file: Any) -> None:
        file.write(body)
        file.write(digest.encode())

    write_atomically(path, write)
    return digest


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
    import jax
    import jax.numpy as jnp

    leaves = _named_leaves(like)
    stored, notes = load_arrays(path, leaves.keys() if partly else None)
    odd = leaves.keys() - stored.keys() if partly else leaves.keys() ^ stored.keys()
    if odd:
        raise BadInput(
            f"{path} holds another kind of state than this run's (they differ in {min(odd)}): it is of another "
            "algorithm, of other networks, or of another version of jaxrl"
        )

    def restore(name: str, expected: Any) -> Any:
        array, plain = stored[name], np.asarray(jax.device_get(_plain(expected)))
        if array.dtype.kind == plain.dtype.kind == "V" and array.dtype.itemsize == plain.dtype.itemsize:
            array = array.view(plain.dtype)  # NumPy knows no bfloat16, and writes it as bytes without a name.
        if array.shape != plain.shape or array.dtype != plain.dtype:
            raise BadInput(
                f"{path} holds {name} as {array.dtype}{list(array.shape)}, "
                f"where this run has {plain.dtype}{list(plain.shape)}"
            )
        if not isinstance(expected, jax.Array):
            return array
        if jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jax.device_put(array), impl=jax.random.key_impl(expected))
        return jax.device_put(array)

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
      BadInput: there is no such file; DamagedFile: it is not as it was written.
    """
    content = io.BytesIO(_whole(path))
    try:
        with zipfile.ZipFile(content) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("it is compressed")
            if sum(member.file_size for member in members) > len(content.getbuffer()):
                raise ValueError("its parts are larger than the whole")
        with np.load(content, allow_pickle=False) as file:
            found = {name: file[name] for name in file if name != "notes" and (names is None or name in names)}
            if odd := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f"{odd[0]} is no array")
            notes = json.loads(file["notes"].tobytes())
            file_format = int(notes.pop("file_format"))
    except Exception as error:  # Whatever reading something strange may raise.
        raise DamagedFile(f"{path} is damaged or no file of jaxrl's: {error}") from error
    if file_format > FORMAT:
        raise BadInput(f"{path} is of format {file_format}: this version of jaxrl reads up to {FORMAT}")
    return found, notes


def digest_of(path: Path) -> str:
    """The digest of a whole file that `save_tree` wrote; BadInput where it is missing, or is not what was written."""
    return _whole(path)[-DIGITS:].decode()


def _whole(path: Path) -> bytes:
    try:
        if path.is_symlink():
            raise BadInput(f"{path} is a link, and may lead anywhere: it must be a file")
        if path.exists() and not path.is_file():
            raise BadInput(f"{path} is a folder or a pipe: it must be a file")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"there is no {path}") from error
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error
    body, digest = content[:-DIGITS], content[-DIGITS:]
    if len(body) == 0 or hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedFile(f"{path} is damaged or no file of jaxrl's: its digest is not that of its content")
    return content


def clean_up(folder: Path) -> None:
    """Removes what writes that were cut short have left in a folder and those below it."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _named_leaves(tree: Any) -> dict[str, Any]:
    """Each leaf by its path, joined with dots."""
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _plain(leaf: Any) -> Any:
    import jax
    import jax.numpy as jnp

    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
