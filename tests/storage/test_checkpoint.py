"""Files: what is written comes back bit for bit; what is damaged or different is refused."""

import copy
import hashlib
import io
import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BadInput
from jaxrl.storage.files import DIGITS, load_arrays, load_tree, save_tree, write_atomically


def tree(fill=1.0):
    return {
        "weights": [jnp.full((2, 3), fill), jnp.asarray(3, jnp.int32)],
        "typed": jax.random.key(7),
        "old": jax.random.PRNGKey(7),
        "numpy": np.arange(4, dtype=np.float64) * fill,
        "off": None,
    }


def test_everything_comes_back(tmp_path):
    save_tree(tmp_path / "a.npz", tree(2.5), {"step": 12, "words": "ä"})
    loaded, notes = load_tree(tmp_path / "a.npz", tree())
    assert notes == {"step": 12, "words": "ä"}
    assert jax.tree.structure(loaded) == jax.tree.structure(tree())
    np.testing.assert_array_equal(loaded["weights"][0], np.full((2, 3), 2.5))
    np.testing.assert_array_equal(jax.random.normal(loaded["typed"]), jax.random.normal(jax.random.key(7)))
    assert isinstance(loaded["numpy"], np.ndarray)
    assert loaded["numpy"].dtype == np.float64
    assert not loaded["weights"][1].weak_type
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "change",
    [
        {"numpy": np.zeros(5)},
        {"numpy": np.zeros(4, np.float32)},
        {"weights": [jnp.zeros((3, 2)), jnp.asarray(3, jnp.int32)]},
        {"extra": np.zeros(1)},
        {"off": np.zeros(1)},
    ],
    ids=str,
)
def test_another_shape_type_or_kind_is_refused(tmp_path, change):
    save_tree(tmp_path / "a.npz", tree(), {})
    with pytest.raises(BadInput, match=r"a\.npz"):
        load_tree(tmp_path / "a.npz", tree() | change)


def test_damage_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    save_tree(path, tree(), {})
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"hello", whole.replace(whole[200:204], b"\x00\x01\x02\x03")):
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match="damaged"):
            load_tree(path, tree())
    with pytest.raises(BadInput, match="there is no"):
        load_tree(tmp_path / "b.npz", tree())


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", notes=np.array([{}], dtype=object))
    with pytest.raises(BadInput, match="damaged"):
        load_tree(tmp_path / "a.npz", tree())


def npy(shape, content=b"", descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


FORGED = {
    "more numbers than there are": {"x": npy((10**12,))},
    "more numbers than can be counted": {"x": npy((2**40, 2**40))},
    "fewer than none": {"x": npy((-1,))},
    "code to be run": {"x": npy((1,), pickle.dumps([print]), "|O")},
    "no notes": {"notes": npy((2,), b"[]", "|u1")},
    "notes that are no JSON": {"notes": npy((2,), b"{]", "|u1")},
    "notes of too deep a nest": {"notes": npy((10**6,), b"[" * 10**6, "|u1")},
    "no array": {"x": b"rubbish"},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_with_the_right_digest_is_refused(tmp_path, name):
    """Sizes out of proportion cost no memory, and nothing of the file is run."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        notes = json.dumps({"file_format": 1}).encode()
        for member, text in ({"notes": npy((len(notes),), notes, "|u1")} | FORGED[name]).items():
            archive.writestr(f"{member}.npy", text)
        archive.comment = b"0" * DIGITS
    body = content.getvalue()[:-DIGITS]
    (tmp_path / "forged.npz").write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    with pytest.raises(BadInput, match="damaged"):
        load_arrays(tmp_path / "forged.npz")


def test_parts_that_overlap_are_refused(tmp_path):
    """A small file whose directory names the same megabyte a thousand times."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x.npy", npy((250_000,), bytes(10**6)))
        archive.filelist += [copy.copy(archive.filelist[0]) for _ in range(1000)]
        for index, member in enumerate(archive.filelist):
            member.filename = f"x{index}.npy" if index else "x.npy"
        archive.comment = b"0" * DIGITS
    body = content.getvalue()[:-DIGITS]
    (tmp_path / "forged.npz").write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    with pytest.raises(BadInput, match="larger than the whole"):
        load_arrays(tmp_path / "forged.npz")
