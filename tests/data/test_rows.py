"""Shuffled minibatches: every row once per epoch, in an order that is fair."""

import jax
import numpy as np
import pytest
from scipy import stats

from jaxrl import BadInput
from jaxrl.data.batch import shuffled_minibatches


@pytest.mark.parametrize(
    "rows, epochs, minibatches", [(256, 3, 4), (2048, 2, 32), (7, 4, 1), (9, 5, 3), (1000, 2, 500)]
)
def test_every_row_once_per_epoch(rows, epochs, minibatches):
    order = np.asarray(shuffled_minibatches(jax.random.key(0), rows, epochs, minibatches))
    assert order.shape == (epochs * minibatches, rows // minibatches)
    for epoch in order.reshape(epochs, rows):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(rows))


def test_epochs_and_keys_differ():
    order = np.asarray(shuffled_minibatches(jax.random.key(0), 64, 2, 2))
    assert not np.array_equal(order[:2], order[2:])
    assert not np.array_equal(order, np.asarray(shuffled_minibatches(jax.random.key(1), 64, 2, 2)))


def test_each_row_falls_into_each_minibatch_equally_often():
    rows, minibatches, epochs = 12, 4, 12_000
    order = np.asarray(shuffled_minibatches(jax.random.key(3), rows, epochs, minibatches)).reshape(
        epochs, minibatches, -1
    )
    counts = np.array([[(order[:, part] == row).sum() for part in range(minibatches)] for row in range(rows)])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    # And with whom: any two rows share a minibatch in 2 of 11 epochs.
    together = np.array([(np.any(order == 0, axis=2) & np.any(order == row, axis=2)).sum() for row in range(1, rows)])
    assert stats.chisquare(together).pvalue > 1e-3
    np.testing.assert_allclose(together.mean() / epochs, 2 / 11, rtol=1e-9)


def test_refusals():
    with pytest.raises(BadInput, match="does not divide"):
        shuffled_minibatches(jax.random.key(0), 10, 1, 3)
    with pytest.raises(BadInput, match="one row"):
        shuffled_minibatches(jax.random.key(0), 10, 1, 10)
