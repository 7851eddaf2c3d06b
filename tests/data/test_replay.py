"""The replay buffer: against a Python deque, fair in its draws, in place, and honest when it is empty or too large."""

import functools
import itertools
import time
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxrl import BadInput, Replay, Transition, replay_add, replay_init, replay_sample
from jaxrl.data.memory import free_bytes
from jaxrl.data.replay import check_capacity
from jaxrl.storage.replay_segments import forget, load_replay, save_replay

S, A = 2, 3
add = jax.jit(replay_add, donate_argnums=0)
put, empty = jax.jit(replay_add), functools.cache(replay_init)  # Donates nothing: one empty buffer serves often.
sample = jax.jit(replay_sample, static_argnums=2)


def numbered(numbers, valid=None):
    """Transitions whose every field tells their number."""
    n = np.asarray(numbers, np.float32)
    return Transition(
        obs=np.stack([n, n + 0.25], 1),
        action=np.stack([-n, n + 0.5, 2 * n], 1),
        reward=10 * n,
        next_obs=np.stack([n + 1, n + 1.25], 1),
        terminated=n.astype(int) % 2 == 0,
        truncated=n.astype(int) % 3 == 0,
        valid=valid,
    )


def assert_is(rows, numbers):
    for name, (ours, theirs) in zip(Transition._fields, zip(rows, numbered(numbers), strict=True), strict=True):
        if theirs is not None:
            assert np.array_equal(ours, theirs), name


def oldest_first(buffer):
    """What is stored, as numbers, in the order in which it came."""
    size, position = int(buffer.size), int(buffer.position)
    order = np.arange(size) if size < buffer.capacity else (np.arange(size) + position) % buffer.capacity
    rows = jax.tree.map(lambda x: np.asarray(x)[order], buffer.rows)
    numbers = rows.obs[:, 0].astype(int)
    assert_is(rows, numbers)
    return list(numbers)


# Few capacities and row counts, because each pair is a program of its own; the masks vary freely.
# Hypothesis takes most of this test's time, for each number that it draws: a whole mask is one of them.
masks = st.sampled_from([mask for n in (1, 3, 8) for mask in itertools.product((True, False), repeat=n)])


some_calls = given(
    capacity=st.sampled_from([1, 2, 3, 5, 7]), calls=st.lists(masks, min_size=1, max_size=6), key=st.integers(0, 2**31)
)
always = functools.partial(settings, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@always(max_examples=1_500)
@some_calls
def test_it_is_a_deque(capacity, calls, key):
    check_deque(capacity, calls, key)


@pytest.mark.slow
@always(max_examples=20_000)
@some_calls
def test_it_is_a_deque_whatever_is_added(capacity, calls, key):
    check_deque(capacity, calls, key)


def check_deque(capacity, calls, key):
    buffer, reference, count = empty(capacity, S, A), deque(maxlen=capacity), 0
    for mask in calls:
        numbers = np.arange(count, count + len(mask))
        # A row that is not valid holds what must never be seen.
        transition = numbered(np.where(mask, numbers, -1000), valid=np.array(mask))
        buffer = put(buffer, transition)
        reference.extend(int(n) for n, valid in zip(numbers, mask, strict=True) if valid)
        count += len(mask)
    assert int(buffer.size) == len(reference)
    assert oldest_first(buffer) == list(reference)
    if reference:
        drawn = sample(buffer, jax.random.key(key), 4)
        numbers = np.asarray(drawn.obs[:, 0]).astype(int)
        assert_is(drawn, numbers)
        assert set(numbers) <= set(reference)
        assert drawn.valid is None


def test_without_a_mask_every_row_counts():
    buffer = add(replay_init(4, S, A), numbered(range(3)))
    assert oldest_first(add(buffer, numbered(range(3, 6)))) == [2, 3, 4, 5]
    assert oldest_first(add(replay_init(3, S, A), numbered(range(10)))) == [7, 8, 9]


def test_adding_is_pure_and_stores_float32():
    empty = replay_init(4, S, A)
    one = replay_add(empty, jax.tree.map(lambda x: x.astype(np.float64), numbered([1])))
    assert int(empty.size) == 0
    assert isinstance(one, Replay)
    assert {x.dtype.name for x in jax.tree.leaves(one.rows)} == {"float32", "bool"}
    assert oldest_first(one) == [1]


def test_draws_are_uniform():
    buffer = add(replay_init(50, S, A), numbered(range(70)))
    draws = np.concatenate([sample(buffer, key, 5000).obs[:, 0] for key in jax.random.split(jax.random.key(0), 20)])
    values, counts = np.unique(draws, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(20, 70))
    assert stats.chisquare(counts).pvalue > 1e-3
    # What is not filled yet is never drawn, and the rest as often as each other.
    part = add(replay_init(1000, S, A), numbered(range(8)))
    values, counts = np.unique(sample(part, jax.random.key(1), 8000).obs[:, 0], return_counts=True)
    np.testing.assert_array_equal(values, np.arange(8))
    assert stats.chisquare(counts).pvalue > 1e-3
    # Draws of one batch do not hang together: pairs of neighbours are uniform too.
    pairs = np.asarray(sample(part, jax.random.key(2), 64_000).obs[:, 0]).astype(int).reshape(-1, 2)
    assert stats.chisquare(np.bincount(pairs[:, 0] * 8 + pairs[:, 1], minlength=64)).pvalue > 1e-3


def test_equal_keys_draw_alike_and_others_do_not():
    buffer = add(replay_init(100, S, A), numbered(range(100)))
    a, b, c = (np.asarray(sample(buffer, jax.random.key(k), 64).reward) for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_million_costs_what_a_thousand_costs():
    """In turn, so that both meet the same noise; a copy of the large one would cost hundreds of times more."""
    buffers = {capacity: replay_init(capacity, 17, 6) for capacity in (1_000, 1_000_000)}
    row = Transition(
        *(np.zeros((1, *shape), np.float32) for shape in ((17,), (6,), (), (17,))), *[np.zeros(1, bool)] * 2
    )
    times = {capacity: [] for capacity in buffers}
    for _ in range(30):
        for capacity, taken in times.items():
            began = time.perf_counter()
            for _ in range(20):
                buffers[capacity] = add(buffers[capacity], row)
            jax.block_until_ready(buffers[capacity])
            taken.append(time.perf_counter() - began)
    assert np.median(times[1_000_000]) < 3 * np.median(times[1_000])
    assert int(buffers[1_000_000].size) == 600


def test_an_empty_buffer_gives_nothing():
    buffer = replay_init(4, S, A)
    with pytest.raises(BadInput, match="empty"):
        replay_sample(buffer, jax.random.key(0), 2)
    with pytest.raises(BadInput, match="batch_size is 0"):
        replay_sample(add(buffer, numbered([1])), jax.random.key(0), 0)
    # Where the size is not known it cannot be refused; such a batch teaches nothing.
    assert np.isnan(sample(replay_init(4, S, A), jax.random.key(0), 2).reward).all()


def test_a_buffer_that_does_not_fit_is_refused_with_what_would(monkeypatch):
    with pytest.raises(BadInput, match=r"takes 9.9 GiB at 178 bytes a transition: at most 6,032,\d+ fit here"):
        monkeypatch.setattr(replay_module(), "free_bytes", lambda: float(2**30))
        replay_init(60_000_000, 17, 6 + 3)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="GiB"):
        replay_init(2**31, 1, 1)
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(BadInput, match="at least 1"):
            replay_init(*sizes)
    assert free_bytes() > 2**20
    check_capacity(1000, 17, 6)


def replay_module():
    import importlib

    return importlib.import_module("jaxrl.data.replay")


@pytest.mark.parametrize("field", ["obs", "action", "next_obs", "terminated", "truncated"])
def test_a_wrong_shape_is_named(field):
    transition = numbered(range(2))
    with pytest.raises(AssertionError, match=rf"transition\.{field}"):
        replay_add(replay_init(4, S, A), transition._replace(**{field: getattr(transition, field)[..., None]}))
    with pytest.raises(AssertionError, match=r"transition\.valid"):
        replay_add(replay_init(4, S, A), transition._replace(valid=np.ones(3, bool)))
    with pytest.raises(AssertionError, match=r"transition\.reward"):
        replay_add(replay_init(4, S, A), transition._replace(reward=np.zeros((2, 1))))


@pytest.mark.parametrize(
    "saves", [[0], [3], [5], [12], [2, 4], [3, 9], [3, 5, 6, 13], [1, 2, 3, 4, 5, 6, 7, 8], [4, 4, 30]]
)
def test_what_checkpoints_keep_restores_it(tmp_path, saves):
    """A buffer of five, saved whenever it had taken in so many; each save writes what is new and nothing twice."""
    buffer, stored, segments = replay_init(5, S, A), 0, []
    for save in saves:
        while stored < save:
            buffer, stored = add(buffer, numbered([stored])), stored + 1
        before = segments
        segments = save_replay(tmp_path, buffer, stored, segments)
        written = sum(each.last - each.first for each in segments if each not in before)
        assert written == min(5, stored - (before[-1].last if before else 0))
        forget(tmp_path, segments)
        assert sorted(path.name for path in tmp_path.iterdir()) == [each.name for each in segments]
        restored = load_replay(tmp_path, replay_init(5, S, A), stored, segments)
        for x, y in zip(jax.tree.leaves(restored), jax.tree.leaves(buffer), strict=True):
            np.testing.assert_array_equal(x, y)
        ours, theirs = (add(jax.tree.map(jnp.copy, each), numbered([99])) for each in (restored, buffer))
        assert oldest_first(ours) == oldest_first(theirs)


def test_segments_of_another_buffer_are_refused(tmp_path):
    buffer = add(replay_init(5, S, A), numbered([0, 1, 2]))
    segments = save_replay(tmp_path, buffer, 3, [])
    [path] = tmp_path.iterdir()
    with pytest.raises(BadInput, match="do not make up"):
        load_replay(tmp_path, replay_init(5, S, A), 4, segments)
    with pytest.raises(BadInput, match="follow upon each other"):
        load_replay(tmp_path, replay_init(2, S, A), 3, segments)
    with pytest.raises(BadInput, match="holds rows"):
        load_replay(tmp_path, replay_init(5, S + 1, A), 3, segments)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match="damaged"):
        load_replay(tmp_path, replay_init(5, S, A), 3, segments)
    save_replay(tmp_path, add(replay_init(5, S, A), numbered([7, 8, 9])), 3, [])
    with pytest.raises(BadInput, match="not the file that its checkpoint was made with"):
        load_replay(tmp_path, replay_init(5, S, A), 3, segments)
    path.unlink()
    with pytest.raises(BadInput, match="is missing"):
        load_replay(tmp_path, replay_init(5, S, A), 3, segments)


def test_it_vmaps():
    buffers = jax.tree.map(lambda *x: jnp.stack(x), *[replay_init(4, S, A) for _ in range(3)])
    rows = jax.tree.map(lambda *x: np.stack(x), *[numbered([i, i + 10]) for i in range(3)])
    buffers = jax.vmap(replay_add)(buffers, rows)
    drawn = jax.vmap(lambda b, k: replay_sample(b, k, 5))(buffers, jax.random.split(jax.random.key(0), 3))
    for i in range(3):
        assert set(np.asarray(drawn.obs[i, :, 0])) <= {i, i + 10}
