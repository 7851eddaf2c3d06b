"""The words of other libraries are answered with ours, and values may be written as people write them."""

import re
from pathlib import Path

import pytest

from jaxrl import BadInput, RunConfig
from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import train_command
from jaxrl.cli.values import understood, whole
from jaxrl.runs.algorithms import BUILT_IN, settings_of
from jaxrl.runs.other_words import ABSENT, RENAMED, ours_for

PAGE = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text()
RUN = {*RunConfig.__dataclass_fields__, "logger"}
SETTINGS = {name: RUN.union(*settings_of(row)) - {"agent", "loop"} for name, row in BUILT_IN.items()}


def answers(word):
    """What each algorithm says to a word, where it says something."""
    found = {name: ours_for(word, settings, "--{}".format) for name, settings in SETTINGS.items()}
    return {name: answer for name, answer in found.items() if answer}


@pytest.mark.parametrize("word", [*RENAMED, *ABSENT])
def test_every_word_has_an_answer_and_is_no_setting_there(word):
    assert answers(word), "no algorithm has all settings that the answer names"
    assert not any(word in SETTINGS[name] for name in answers(word))


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["--learning-rate", "1e-3"], ["--actor-learning-rate", "--critic-learning-rate"]),
        (["--n_steps=5"], ["--num-steps"]),
        (["--total-timesteps", "1e5"], ["--total-steps"]),
        (["--LR", "1e-3"], ["--actor-learning-rate"]),
        (["--NUM_ENVS", "4"], ["--num-envs"]),
        (["--no-anneal-lr"], ["--anneal-learning-rate"]),
        (["--target-kl", "0.01"], ["--stop-kl", "--kl-target"]),
        (["--batch-size", "64"], ["--num-minibatches"]),
        (["--algo", "sac", "--env", "Pendulum-v1", "--ent-coef", "auto"], ["--initial-alpha"]),
        (["--algo", "td3", "--policy-frequency", "2"], ["--policy-delay"]),
        (["--cuda", "True"], ["JAX_PLATFORMS"]),
    ],
    ids=" ".join,
)
def test_a_word_of_others_costs_one_line_with_ours(argv, ours, capsys):
    assert train_command(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert all(flag in err for flag in ours), err


def test_a_setting_by_ones_own_name_is_no_word_of_others():
    """`batch_size` is DDPG's own, `ent_coef` PPO's; what no algorithm here has is nobody's word."""
    assert parse_run(["--algo", "ddpg", "--env", "Pendulum-v1", "--batch-size", "64"]).loop.batch_size == 64
    assert parse_run(["--ent-coef", "0.01"]).agent.ent_coef == 0.01
    assert "ppo" not in answers("policy_frequency") and "sac" not in answers("policy_frequency")
    assert not answers("zzz") and not answers("gamma")


def test_python_gets_the_answer_too():
    with pytest.raises(BadInput, match="here it is actor_learning_rate and critic_learning_rate"):
        RunConfig.of("ppo", "CartPole-v1", learning_rate=1e-3)


def rows():
    """Of the page's table of words: the words of each row, and the flags on its right."""
    for line in PAGE.splitlines():
        *theirs, ours = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else [""]
        flags = re.findall(r"`--([a-z-]+)`", ours)
        words = [word for cell in theirs for word in re.findall(r"`([A-Za-z_]+)`", cell)]
        words = [word for word in words if word == word.lower() or word == word.upper()]
        if flags and words:
            yield words, [flag.replace("-", "_") for flag in flags]


def test_the_page_says_what_the_command_says():
    checked = 0
    for words, flags in rows():
        assert all(any(flag in settings for settings in SETTINGS.values()) for flag in flags), flags
        for word in words:
            said = " ".join(answers(word).values())
            assert word in flags or any(f"--{flag}" in said for flag in flags), (word, flags, said)
            checked += 1
    assert checked > 50


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("100k", "100000"),
        ("100K", "100000"),
        ("0.1M", "100000"),
        ("1e5", "100000"),
        ("1.5e+3", "1500"),
        ("100_000", "100000"),
        ("18446744073709551615", "18446744073709551615"),
        ("1e-5", "1e-5"),
        ("1.0001k", "1.0001k"),
        ("1__0", "1__0"),
        ("1m", "1m"),
        ("k", "k"),
        ("-1", "-1"),
    ],
)
def test_whole_numbers(word, number):
    assert whole(word) == number


@pytest.mark.parametrize(
    "sizes", [["64,32"], ["64, 32"], ["(64,32)"], ["64", "32"], ["64,", "32"], ["[64, 32]"]], ids=str
)
def test_sizes_may_have_commas(sizes):
    run = parse_run(["--hidden-sizes", *sizes, "--seed", "1"])
    assert (run.agent.hidden_sizes, run.seed) == ((64, 32), 1)


def test_values_after_an_equals_sign_and_switches_in_words():
    argv = "--hidden-sizes=64,32 --total-steps=20k --normalize-obs True --normalize-reward=false --clip-eps=none"
    run = parse_run([*argv.split(), "--no-anneal-learning-rate", "--eval-every", "None", "--anneal-clip", "FALSE"])
    assert (run.agent.hidden_sizes, run.total_steps, run.agent.clip_eps) == ((64, 32), 20_000, None)
    assert (run.loop.normalize_obs, run.loop.normalize_reward) == (True, False)
    assert (run.agent.anneal_learning_rate, run.eval_every, run.agent.anneal_clip) == (False, None, False)


def test_a_name_is_left_as_it_is():
    kinds = {"env": str, "sweep": tuple[str, ...], "total_steps": int, "recorded": bool}
    argv = ["100k", "--env", "1e3", "--sweep", "gamma=0.9,0.99", "10k", "--env=64,64", "--recorded", "--total-steps"]
    assert understood(argv, kinds) == argv


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--hidden-sizes", "64,x"], "'64', 'x'"),
        (["--normalize-obs", "maybe"], "--normalize-obs is maybe: it must be True or False"),
        (["--normalize-obs=1", "--seed", "1"], "--normalize-obs is 1: it must be True or False"),
        (["--seed", "1", "maybe"], "Unrecognized options: maybe"),
        (["--total-steps", "1.0001k"], "1.0001k"),
        (["--hidden-sizes", ","], "hidden-sizes"),
    ],
)
def test_other_values_are_refused_as_they_were_written(argv, words, capsys):
    assert train_command(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err
