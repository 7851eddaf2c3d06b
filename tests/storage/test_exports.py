"""Exported policies act as `load_policy` does: ONNX in ONNX Runtime, StableHLO by `jax.export`."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from bundles import BOX, KINDS, VECTOR, observations_of, save_bundles
from gymnasium import spaces

import jaxrl
from jaxrl.cli.main import main
from jaxrl.data.spaces import layout, layout_parts
from jaxrl.data.user_observations import read_observations
from jaxrl.ops.distributions import DiagGaussian
from jaxrl.storage.onnx_export import to_onnx
from jaxrl.storage.policy import load_policy
from jaxrl.storage.stablehlo_export import to_stablehlo

COUNT = 1_000


class Own(nn.Module):
    """A network of a user's own."""

    @nn.compact
    def __call__(self, obs):
        mean = nn.Dense(2)(nn.LayerNorm()(nn.Dense(8)(obs)))
        return DiagGaussian(mean, 0 * mean)


def own_networks(observation_space, action_space):
    return Own(), None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    save_bundles(folder)
    return folder


def named(prefix, space_layout, obs):
    """The inputs of the graph, by name."""
    if not isinstance(space_layout, dict | list):
        return {prefix: obs}
    found = {}
    for key, part in layout_parts(space_layout):
        found |= named(f"{prefix}.{key}", part, obs[key])
    return found


def assert_close(actions, expected, space, decided, error=1e-6):
    """Equal to `error` of half the range; integers wherever the two best logits differ."""
    assert actions.shape == expected.shape
    if isinstance(space, spaces.Box):
        assert (np.abs(actions - expected) <= error * (space.high - space.low) / 2).all()
    else:
        assert decided.mean() > 0.95
        np.testing.assert_array_equal(actions[decided], expected[decided])
    assert len(np.unique(expected)) > 1


def decided(policy, rows, space):
    """Where the two best logits of each integer differ by more than 1e-5."""
    if isinstance(space, spaces.Box):
        return np.ones(len(rows), bool)
    output = jax.jit(actor_of(policy).apply)(policy.params, see(policy, rows))
    logits = np.sort(np.asarray(output.logits), -1)
    if logits.shape[-1] == 1:
        return np.ones(len(rows), bool)
    far = logits[..., -1] - logits[..., -2] > 1e-5
    return far.reshape(len(rows), -1).all(-1)


def actor_of(policy):
    from jaxrl.algos import networks

    settings = {key: tuple(each) if isinstance(each, list) else each for key, each in policy.notes["settings"].items()}
    return getattr(networks, policy.notes["actor"])(**settings)


def see(policy, rows):
    if "obs.mean" not in policy.arrays:
        return rows
    mean, var = policy.arrays["obs.mean"], policy.arrays["obs.var"]
    return np.float32(np.clip((rows - mean) / np.sqrt(var + 1e-8), -10, 10))


@pytest.mark.parametrize("name", KINDS)
def test_onnx_acts_as_the_policy(name, folder):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    policy, (_, _, observations, actions) = load_policy(folder / name), KINDS[name]
    session = runtime.InferenceSession(to_onnx(policy), providers=["CPUExecutionProvider"])
    obs = observations_of(observations, COUNT)
    feeds = named("obs", layout(observations), obs)
    assert {each.name: each.shape for each in session.get_inputs()} == {
        key: ["N", *array.shape[1:]] for key, array in feeds.items()
    }
    [output] = session.run(None, feeds)
    expected = policy(obs)
    assert output.dtype == expected.dtype == actions.dtype
    rows, _ = read_observations(layout(observations), obs)
    assert_close(output, expected, actions, decided(policy, rows, actions))
    for count in (0, 1, 3):  # The batch axis is free.
        [some] = session.run(None, {key: array[:count] for key, array in feeds.items()})
        assert some.shape == (count, *actions.shape)
        if isinstance(actions, spaces.Box):
            assert (np.abs(some - output[:count]) <= 1e-6 * (actions.high - actions.low) / 2).all()


@pytest.mark.parametrize("name", ["multidiscrete", "sac", "gaussian"])
def test_stablehlo_acts_as_the_policy(name, folder):
    pytest.importorskip("flatbuffers")
    policy, (_, _, observations, actions) = load_policy(folder / name), KINDS[name]
    rows, _ = read_observations(layout(observations), observations_of(observations, COUNT))
    program = jax.export.deserialize(bytearray(to_stablehlo(policy)))
    assert_close(np.asarray(program.call(rows)), policy(rows), actions, decided(policy, rows, actions), 4e-6)
    assert program.call(rows[:3]).shape == (3, *actions.shape)
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}


def own_bundle(folder):
    actor = jaxrl.ppo_init(jax.random.key(0), jaxrl.PPOConfig(), VECTOR, BOX, actor=Own()).actor
    from jaxrl.data.normalize import normalizer_init
    from jaxrl.storage.policy import save_policy

    save_policy(
        folder, actor, normalizer_init(4, 1, True, False), "Any-v0", VECTOR, BOX, {}, "test_exports:own_networks"
    )
    return folder


def test_a_network_of_ones_own_is_exported_by_jax_and_not_as_onnx(tmp_path, monkeypatch, capsys):
    pytest.importorskip("flatbuffers")
    monkeypatch.chdir(own_bundle(tmp_path / "own"))
    networks = ["--networks", "test_exports:own_networks"]
    assert main(["export", ".", *networks, "--onnx", "a.onnx", "--stablehlo", "a.bin"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "test_exports:Own" in err and "--stablehlo" in err
    assert not list(tmp_path.rglob("a.*")), "nothing was written"
    assert main(["export", ".", *networks, "--stablehlo", "a.bin"]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "own" / "a.bin").read_bytes()))
    rows = observations_of(VECTOR, 50)
    expected = load_policy(".", actor=Own())(rows)
    np.testing.assert_allclose(program.call(rows), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say --onnx FILE"),
        (["--onnx", "nowhere/a.onnx"], "folder that exists"),
        (["--onnx", "."], "folder that exists"),
        (["--onnxx", "a"], "--onnx"),
        (["--onnx", "/dev/null"], "must be a file"),
        (["--onnx", "policy.npz"], "own file"),
        (["--onnx", "a", "--stablehlo", "a"], "same file"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(words, said, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(folder / "sac"), *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "flag"), [("onnx", "--onnx"), ("flatbuffers", "--stablehlo")])
def test_a_missing_extra_is_named_with_the_line_that_installs_it(package, flag, folder, tmp_path, monkeypatch, capsys):
    import sys

    for name in [each for each in sys.modules if each.split(".")[0] == package or "serialization" in each]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(folder / "discrete"), flag, str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install 'jaxrl-kernels[" in err


def test_help_is_no_mistake(capsys):
    with pytest.raises(SystemExit) as end:
        main(["export", "--help"])
    out, err = capsys.readouterr()
    assert not end.value.code and "--stablehlo" in out and not err


def test_an_older_bundle_that_does_not_say_the_type_of_actions_is_exported(folder):
    pytest.importorskip("flatbuffers")
    policy = load_policy(folder / "squashed")
    notes = {name: value for name, value in policy.notes.items() if name != "action_dtype"}
    older = type(policy)(policy.arrays, notes)
    rows = observations_of(VECTOR, 5)
    program = jax.export.deserialize(bytearray(to_stablehlo(older)))
    np.testing.assert_allclose(program.call(rows), policy(rows), rtol=0, atol=1e-5)
