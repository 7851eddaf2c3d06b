"""What the README says is so: its loop runs, its commands parse, its files exist."""

import re
import shlex
from pathlib import Path

import pytest

from jaxrl.cli import parse_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)


def test_the_first_two_blocks_are_one_line_each_and_run_training_and_tests():
    (_, first), (_, second) = BLOCKS[:2]
    assert first.count("\n") == second.count("\n") == 1
    assert "python experiments/train.py --algo ppo_kl --env CartPole-v1" in first
    assert "python -m pytest" in second


def test_the_loop_around_the_kernels_runs(capsys):
    ppo, ddpg = (text for language, text in BLOCKS if language == "python")
    assert "range(100)" in ppo
    exec(compile(ppo.replace("range(100)", "range(3)"), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    names = {}
    assert "range(1_000)" in ddpg
    exec(compile(ddpg.replace("range(1_000)", "range(20)"), "README.md", "exec"), names)
    assert int(names["replay"].size) == int(names["state"].num_updates) == 20
    assert float(names["metrics"]["skipped_updates"]) == 0


def commands():
    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    return [line for line in lines if "experiments/train.py" in line and "--resume" not in line]


@pytest.mark.parametrize("line", commands())
def test_training_commands_parse(line):
    words = shlex.split(line.split("experiments/train.py")[1])
    assert parse_run(words).env == words[words.index("--env") + 1]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
