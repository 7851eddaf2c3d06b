"""A saved policy with a built-in network acts in NumPy alone: where JAX, Flax and Gymnasium cannot be imported."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from bundles import KINDS, observations_of, save_bundles
from gymnasium import spaces

import jaxrl
from jaxrl.data.normalize import observer
from jaxrl.data.spaces import layout
from jaxrl.data.user_observations import read_observations

SCRIPT = """
import sys, time
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "chex", "gymnasium", "tyro"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
before, start = set(sys.modules), time.perf_counter()
import jaxrl
policies = {name: jaxrl.load_policy(f"{sys.argv[1]}/{name}") for name in sys.argv[2:]}
print("seconds", time.perf_counter() - start)
foreign = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
foreign = {name for name in foreign if "cython" not in name}  # What numpy.random is written in.
assert foreign <= {"jaxrl", "numpy"}, foreign
for name, policy in policies.items():
    obs = np.load(f"{sys.argv[1]}/{name}.npy")
    sampled = policy(obs) if policy.deterministic else policy(obs, np.random.default_rng(1))
    np.savez(f"{sys.argv[1]}/{name}.npz", one=policy(obs[0]), many=policy(obs), sampled=sampled)
try:
    import jax
except ImportError:
    print("jax is blocked")
"""


@pytest.fixture(scope="module")
def acted(tmp_path_factory):
    """What a process without JAX did with each bundle; the bundles' folder and actors."""
    folder = tmp_path_factory.mktemp("bundles")
    actors = save_bundles(folder)
    for name, (_, _, space, _) in KINDS.items():
        np.save(folder / f"{name}.npy", read_observations(layout(space), observations_of(space, 200))[0])
    command = [sys.executable, "-c", SCRIPT, str(folder), *KINDS]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "jax is blocked" in run.stdout
    return folder, actors


@pytest.mark.parametrize("name", KINDS)
def test_it_acts_without_jax_as_with_it(name, acted):
    folder, actors = acted
    space, found = KINDS[name][3], np.load(folder / f"{name}.npz")
    rows, policy = np.load(folder / f"{name}.npy"), jaxrl.load_policy(folder / name)
    sampled = policy(rows) if policy.deterministic else policy(rows, np.random.default_rng(1))
    for key, expected in {"one": policy(rows[0]), "many": policy(rows), "sampled": sampled}.items():
        np.testing.assert_array_equal(found[key], expected)
        assert found[key].dtype == np.asarray(expected).dtype
    assert found["one"].shape == space.shape and found["many"].shape == (200, *space.shape)
    # The Flax module itself, jitted, is another computation of the same.
    actor, normalizer = actors[name]
    output = jax.jit(actor.module.apply)(actor.params, observer(normalizer)(rows))
    expected = np.reshape(output.to_env(output.mode()), found["many"].shape)
    if isinstance(space, spaces.Box):
        half = (space.high - space.low) / 2
        difference = np.abs(found["many"] - np.clip(expected, space.low, space.high))
        assert (difference <= 2e-6 * half).all(), (difference / half).max()
        assert np.ptp(found["many"], axis=0).min() > 0.1 * half.min(), "the actions differ"
    else:
        np.testing.assert_array_equal(found["many"], expected)
        assert len(np.unique(found["many"])) > 1, "the actions differ"


def test_the_block_is_one():
    """Without it the script would find JAX: the check has teeth."""
    script = SCRIPT.partition("before, start")[0] + "import flax"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "flax is not installed here" in run.stderr
