"""Where a run's numbers come from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrl
from jaxrl.runs.origin import machine, versions

SAY = "from jaxrl.runs.origin import commit; print(commit())"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no Git")


def copied(folder):
    """A copy of the package in this folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(jaxrl.__file__).parent, folder / "jaxrl", ignore=ignore)
    return folder


def said(folder):
    """The commit that the package in this folder names."""
    ended = subprocess.run([sys.executable, "-c", SAY], cwd=folder, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def git(folder, *words):
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    ended = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


@needs_git
def test_a_checkout_names_its_commit_and_says_where_its_files_differ(tmp_path):
    folder = copied(tmp_path)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "tag", "-a", "-m", "a tag is no commit", "v1")
    assert said(folder) == git(folder, "rev-parse", "HEAD")
    with (folder / "jaxrl" / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert said(folder) == git(folder, "rev-parse", "HEAD") + "-dirty"


@needs_git
def test_a_repository_above_an_installed_package_is_not_ours(tmp_path):
    folder = copied(tmp_path / "site-packages")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "of the user")
    assert said(folder) == "None"


def test_versions_and_machine_are_all_there():
    assert versions()["jax"] and versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(machine()) == {"processor", "architecture", "cores", "system"} and all(machine().values())
