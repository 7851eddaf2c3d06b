"""The example of RLOO: its decoder, its tasks, its comparisons, and a run that is killed."""

import csv
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from left_behind import tables
from oracles import assert_equal
from token_policies import V, completions, distribution, parameters, plain_log_prob, policy

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import rloo  # noqa: E402
import rloo_study  # noqa: E402
from sequences import tasks  # noqa: E402
from sequences.decoder import Decoder, DecoderPolicy  # noqa: E402
from sequences.learning import reinforce_update, supervised_update  # noqa: E402
from sequences.variance import ESTIMATES, advantages, moments, predicted, spreads  # noqa: E402

from jaxrl import Completions, RLOOConfig, rloo_init, sample_completions  # noqa: E402
from jaxrl.algos.sampling import CachedPolicy  # noqa: E402

SMALL = "--width 8 --layers 1 --batch-size 8 --prompts 4 --completions 2 --eval-prompts 8 --eval-every 4 --log-every 3"
FLAGS = f"--digits 1 --supervised-steps 8 --updates 16 --save-every 4 {SMALL}".split()


@pytest.fixture(scope="module")
def decoder():
    policy = DecoderPolicy(Decoder(vocab_size=5, max_length=8, width=8, layers=2, heads=2))
    params = jax.device_get(policy.init(jax.random.key(0)))
    # Initial values are so small that all logits are alike; these are not.
    rng = np.random.default_rng(0)
    return policy, jax.tree.map(lambda x: x + 0.5 * rng.normal(size=x.shape).astype(np.float32), params)


def test_a_decoder_with_its_cache_draws_what_it_draws_without(decoder):
    policy, params = decoder
    assert isinstance(policy, CachedPolicy) and policy == DecoderPolicy(Decoder(5, 8, 8, 2, 2))
    rng = np.random.default_rng(0)
    prompts, seen = rng.integers(0, 5, (64, 3)), np.arange(3) >= rng.integers(0, 3, (64, 1))
    cached, anew = (
        sample_completions(each, params, jax.random.key(1), prompts, seen, 4, 1.3, 4)
        for each in (policy, policy.__call__)
    )
    assert_equal(cached._replace(log_prob=None), anew._replace(log_prob=None))
    np.testing.assert_allclose(cached.log_prob, anew.log_prob, atol=1e-5)
    assert len(set(np.asarray(cached.mask).sum(1).tolist())) > 2


def test_a_decoder_sees_what_is_before_and_no_padding(decoder):
    policy, params = decoder
    apply, rng = jax.jit(policy.__call__), np.random.default_rng(0)
    tokens = rng.integers(0, 5, (4, 6))
    logits = np.asarray(apply(params, tokens, np.ones((4, 6), bool)))
    later = np.asarray(apply(params, np.where(np.arange(6) > 3, 0, tokens), np.ones((4, 6), bool)))
    np.testing.assert_allclose(later[:, :4], logits[:, :4], atol=1e-5)
    assert np.abs(later[:, 4:] - logits[:, 4:]).max() > 0.1
    # Four tokens alone, behind two of padding, and before two.
    for begin in (0, 2):
        padded = np.full((4, 6), 3)
        padded[:, begin : begin + 4] = tokens[:, :4]
        seen = np.broadcast_to((np.arange(6) >= begin) & (np.arange(6) < begin + 4), (4, 6))
        found = np.asarray(apply(params, padded, seen))[:, begin : begin + 4]
        np.testing.assert_allclose(found, logits[:, :4], atol=1e-5)


def test_answers_are_right_and_demonstrations_are_often_wrong_in_the_same_way(monkeypatch):
    rng = np.random.default_rng(0)
    add, sort = tasks.add(3), tasks.sort(6)
    for task, rule in (
        (add, lambda q: list(f"{q // 1000 + q % 1000:04d}"[::-1])),
        (sort, lambda q: sorted(f"{q:06d}")),
    ):
        questions = task.draw(rng, 500)
        answers = task.answers(questions)
        written = ["".join(tasks.CHARACTERS[t] for t in row) for row in answers]
        assert written == ["".join([*rule(q), "$"]) for q in questions]
        assert not tasks.is_held_out(questions).any()
        assert tasks.is_held_out(task.draw(rng, 50, held_out=True)).all()
        right = (task.demonstrations(questions, rng) == answers).all(1)
        assert 0.3 < right.mean() < 0.7
        with monkeypatch.context() as patch:
            patch.setattr(tasks, "MISTAKEN", 1.0)
            once, again = (task.demonstrations(questions, rng) for _ in range(2))
        np.testing.assert_array_equal(once, again)
        assert 0.2 < (once == answers).all(1).mean() < 0.4
    assert "".join(tasks.CHARACTERS[t] for t in add.prompt(np.array([57348]))[0]) == "057+348="
    np.testing.assert_allclose(tasks.is_held_out(np.arange(100_000)).mean(), 0.1, atol=0.01)


def log_probs(params, rows):
    return np.array([plain_log_prob(params, t[a].tolist(), m[a])[0] for t, m, a in zip(*rows, strict=True)])


def test_reinforce_and_supervised_steps_are_along_their_gradients(float64):
    state = rloo_init(
        jax.random.key(0), RLOOConfig(kl_coef=0.3, learning_rate=0.1, max_grad_norm=None), policy, parameters()
    )
    state = state.replace(reference_params=jax.tree.map(jnp.asarray, parameters(5)))
    rows, params = completions(), jax.tree.map(np.asarray, state.policy.params)
    fields = rows.tokens, rows.mask, rows.attention
    total = rows.reward - 0.3 * (log_probs(params, fields) - log_probs(parameters(5), fields))

    def slopes(name, at):
        both = []
        for sign in (1, -1):
            moved = {key: np.array(value) for key, value in params.items()}
            moved[name][at] += sign * 1e-6
            both.append(log_probs(moved, fields))
        return (both[0] - both[1]) / 2e-6

    new, metrics = jax.jit(reinforce_update)(state, rows)
    assert metrics["policy_loss"] == pytest.approx(-(total * log_probs(params, fields)).mean())
    moment = new.policy.opt_state.inner_state[0].mu
    for name, at in (("next", (1, 2)), ("past", (0, 0)), ("place", (2, 1))):
        assert moment[name][at] / 0.1 == pytest.approx(-(total * slopes(name, at)).mean(), abs=1e-7)
    full = rows._replace(attention=np.ones_like(rows.attention))
    _, metrics = jax.jit(supervised_update)(state, full.tokens, full.mask, 0.1)
    expected = -log_probs(params, (full.tokens, full.mask, full.attention)).sum() / full.mask.sum()
    assert metrics["supervised_loss"] == pytest.approx(expected)


def test_measured_spreads_are_those_of_enumerated_groups(float64):
    """Two prompts of the toy policy, every pair of completions once: the mean square of an estimate is a plain sum."""
    params, prompts = jax.tree.map(jnp.asarray, parameters()), ([0], [1])
    pairs = list(itertools.product(range(V), repeat=2))
    tokens = np.array([[*prompt, first] for prompt in prompts for pair in pairs for first in pair])
    reward = np.array([1.0, 0.0, 0.3])[tokens[:, 1]] + tokens[:, 0]
    mask = np.tile([False, True], (len(tokens), 1))
    rows = Completions(tokens, mask, reward, None, np.ones_like(mask))
    found = {spread.estimate: spread for spread in spreads(policy, params, rows, 18, (2,))}

    def score(x, y):
        """The gradient of log p(y | x) with respect to the logits."""
        return np.eye(V)[y] - distribution(params, [x], 1)[1]

    scores = np.array([score(x, y) for x, y in tokens])
    # Next, past and place see the same logits: the gradient is there three times over.
    norm = 3 * np.square(scores).sum(1).mean()
    for name in ESTIMATES:
        groups = reward.reshape(-1, 2)
        weights = advantages(name, groups, reward.mean()).ravel()
        each = (weights[:, None] * scores).reshape(-1, 2, V).mean(1)
        by_prompt = np.stack([each[:9].mean(0), each[9:].mean(0)]) / 2
        # What the prompts share is the place alone.
        mean = 2 * np.square(by_prompt).sum() + np.square(by_prompt.sum(0)).sum()
        assert found[name].measured == pytest.approx((3 * np.square(each).sum(1).mean() - mean) / norm)
        inside = sum(3 * each[half].var(axis=0, ddof=1).sum() / 2 for half in (slice(9), slice(9, 18)))
        assert found[name].sampled == pytest.approx(inside / norm)
        assert found[name].predicted == pytest.approx(predicted(name, 2, *moments(reward.reshape(2, 18))))


def test_predictions_are_those_of_scores_that_know_nothing_of_rewards():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(20_000, 1)) * 0.6 + 0.8 + rng.normal(size=(20_000, 8)) * 0.5
    within, between, squared = moments(reward)
    np.testing.assert_allclose((within, between, squared), (0.25, 0.36, 0.64), rtol=0.05)
    score = rng.choice([-1.0, 1.0], reward.shape)
    for count, name in itertools.product((2, 4, 8), ESTIMATES):
        groups = reward[:, :count]
        each = (advantages(name, groups, reward.mean()) * score[:, :count]).mean(1)
        np.testing.assert_allclose(each.var(), predicted(name, count, within, between, squared), rtol=0.05)


def test_the_loop_of_the_page_learns(capsys):
    text = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "rloo.md").read_text(), re.S)[1]
    assert "range(100)" in text
    exec(compile(text.replace("range(100)", "range(40)"), "rloo.md", "exec"), {})
    rewards = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(rewards) == 40 and np.mean(rewards[:5]) < 0.3 and np.mean(rewards[-5:]) > 0.6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("rloo") / "run"
    assert rloo.main([*FLAGS, "--run-dir", str(path)]) == 0
    return path


def newest(path):
    with np.load(path / "checkpoints" / "latest.npz") as file:
        return {name: file[name].tobytes() for name in file.files if name != "notes"}


def test_a_run_that_is_killed_resumes_to_the_same_bits(tmp_path, whole):
    """By SIGKILL, in the middle of whatever it did."""
    script, path = str(ROOT / "experiments" / "rloo.py"), tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, script, *FLAGS, "--run-dir", str(path)], env=environment, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 300
        while not (path / "checkpoints" / "previous.npz").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert newest(path) != newest(whole)
    assert rloo.main(["--resume", str(path)]) == 0
    assert newest(path) == newest(whole)
    assert tables(path) == tables(whole)


def test_what_a_run_leaves(whole):
    found = tables(whole)
    assert [row[0] for row in found["evaluations"]] == ["step", "0", "4", "8", "12", "16", "20", "24"]
    assert [row[0] for row in found["metrics"]] == ["step", *map(str, range(3, 25, 3))]
    head, *rows = found["metrics"]
    assert all(row[1] != "nan" for row in rows[:2]) and all(row[1] == "nan" for row in rows[3:])
    assert all(0 <= float(row[head.index("reward")]) <= 1 for row in rows[3:])
    assert len(found["episodes"]) == 17
    assert rloo.main(["--resume", str(whole)]) == 0  # It is over: nothing is done, and nothing changes.
    assert tables(whole) == found


def test_a_run_goes_on_from_anothers_policy_and_the_study_reads_both(tmp_path, whole, capsys):
    run, table = tmp_path / "run", tmp_path / "table.csv"
    flags = [*SMALL.split(), "--digits", "1", "--updates", "4", "--start", str(whole), "--run-dir", str(run)]
    assert rloo.main([*flags, "--algo", "rloo"]) == 0
    first, other = ([row[1] for row in tables(path)["evaluations"]] for path in (run, whole))
    assert first[1] == other[-1]

    def read(*words):
        assert rloo_study.main([*words, "--out", str(table)]) == 0
        with table.open() as file:
            return list(csv.DictReader(file))

    rows = read("curves", str(run))
    found = [(row["env"], row["variant"], row["step"]) for row in rows]
    assert found == [("add, from run", "RLOO, K = 2", "0"), ("add, from run", "RLOO, K = 2", "32")]
    rows = read("ends", str(run), str(whole))
    assert [(row["algorithm"], row["updates"]) for row in rows] == [("rloo", "4"), ("rloo", "16")]
    assert [row["at the start"] for row in rows] == [f"{float(other[i]):.1%}" for i in (-1, 3)]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--task chess", "task is chess: it must be one of add, sort"),
        ("--algo ppo", "algo is ppo: it must be one of rloo"),
        ("--completions 1", "completions is 1: it must be 2 or more"),
        ("--width 30", "width is 30: it must be a multiple of 4"),
        ("--updates -1", "updates is -1: it must be at least 0"),
        ("--digits 12", "digits is 12: it must be at most 9"),
        ("--resume nowhere", "nowhere holds no run that can be resumed"),
        ("--start nowhere", "there is no"),
        ("--kl-coef x", "invalid float value"),
        ("--kl-coef -1", "kl_coef is -1.0: it must be at least 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        rloo.main([*SMALL.split(), *flags.split()])
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and words in err, err
