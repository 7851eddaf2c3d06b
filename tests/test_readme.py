"""What the README and the pages in docs say is so: loops run, commands parse, files and functions exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from jaxrl.cli.arguments import parse_run
from jaxrl.cli.flags import EvaluateFlags

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FENCED = r"^```(\w*)\n(.*?)^```"
SCRIPT = r"((?:experiments|docs)/(?:\w+/)?\w+\.py)"
BLOCKS = re.findall(FENCED, README, re.S | re.M)


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
    """The training commands of every page, those spread over lines and with shell variables joined and filled."""
    for text in PAGES.values():
        for language, block in re.findall(FENCED, text, re.S | re.M):
            for line in block.replace("\\\n", " ").replace("$S", "2").splitlines() if not language else ():
                if "experiments/train.py" in line and "--resume" not in line:
                    yield line


@pytest.mark.parametrize("line", list(commands()))
def test_training_commands_parse(line):
    words = shlex.split(re.split("[;#]", line.split("experiments/train.py")[1])[0])
    assert parse_run(words).env == words[words.index("--env") + 1]


def scripts():
    """Every other script that a page names, and its first word if that is no path or flag."""
    found = {
        match.groups() for text in PAGES.values() for match in re.finditer(rf"{SCRIPT}(?: ([a-z]+)(?=[ `\n]))?", text)
    }
    return sorted((name, word or "") for name, word in found)


def code_of(script):
    """The text that knows a script's words and flags: the command's, where the script only calls a command."""
    path = ROOT / script
    command = ROOT / "jaxrl" / "studies" / path.name
    return path.read_text() + (command.read_text() if path.parent.name == "experiments" and command.exists() else "")


@pytest.mark.parametrize("name, word", scripts())
def test_scripts_and_their_commands_exist(name, word):
    assert not word or f'"{word}"' in code_of(name), f"{name} knows no {word}"


def flags():
    """Every flag that a page gives to a script other than train.py; what stands after ` -- ` is train.py's."""
    found = {
        (name, flag)
        for text in PAGES.values()
        for name, rest in re.findall(rf"python\s{SCRIPT}([^`#\n]*)", text.replace("\n'--", " '--"))
        for flag in re.findall(r"(?<![\w'-])--[a-z][a-z-]*", rest.split(" -- ")[0])
        if name != "experiments/train.py"
    }
    return sorted(found)


@pytest.mark.parametrize("name, flag", flags())
def test_scripts_know_their_flags(name, flag):
    if name == "experiments/evaluate.py":
        assert flag[2:].replace("-", "_") in EvaluateFlags.__dataclass_fields__
    else:
        assert f'"{flag}"' in code_of(name), f"{name} knows no {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGES[page]):
        assert (folder / target).exists(), target


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(jaxrl(?:\.\w+)+)`", PAGES["maths.md"]))))
def test_the_functions_beside_the_equations_exist(name):
    _, folder, module, *attributes = name.split(".")
    found = importlib.import_module(f"jaxrl.{folder}.{module}")
    for attribute in attributes:
        found = getattr(found, attribute)
    assert found.__doc__
