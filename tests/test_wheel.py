"""The wheel is the whole product: installed where there is no checkout, its commands and its Python names work."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import jaxrl

pytest.importorskip("hatchling", reason="hatchling builds the wheel: pip install 'hatchling>=1.25'")

ROOT = Path(__file__).parents[1]
SMALL = "--total-steps 64 --num-envs 2 --num-steps 16 --num-minibatches 2 --num-epochs 1 --hidden-sizes 4,4"
SMALL += " --eval-episodes 1 --eval-every 32"
SCRIPT = """
import numpy as np
from jaxrl import BadInput, PPOConfig, RunConfig, Transition, gae, load_policy, train

run: RunConfig = RunConfig.of("ppo", "CartPole-v1", total_steps=32, num_envs=1, num_steps=32, num_minibatches=1,
                              num_epochs=1, eval_every=None, run_dir="typed")
steps: int = train(run).step
action: np.ndarray = load_policy("typed")(np.zeros(4, np.float32))
config: PPOConfig = PPOConfig(gamma=0.9)
print(steps, action.shape)
"""
WRONG = 'from jaxrl import RunConfig, load_policy\nRunConfig(total_steps="many")\nload_policy(3)\n'


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, built from a copy of the committed and the new files."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


class Place:
    """A virtual environment and a folder, both away from the checkout."""

    def __init__(self, folder, wheel, *how):
        self.folder, self.bin = folder / "work", folder / "venv" / "bin"
        self.folder.mkdir()
        venv.create(folder / "venv", symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *how, str(wheel)], check=True, capture_output=True)

    def run(self, program, *words, **options):
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        command = [str(self.bin / program), *words]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def place(built, tmp_path_factory):
    """The wheel alone in a new environment, which borrows the present packages, but not this checkout."""
    place = Place(tmp_path_factory.mktemp("clean"), built[0], "--no-deps")
    [packages] = (place.bin.parent / "lib").glob("python*/site-packages")
    # A .pth file of the borrowed folder, such as that of an editable installation, is not read.
    (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    return place


def test_the_wheel_holds_the_package_and_nothing_else(built):
    wheel, _ = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "jaxrl"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert names == {name for name in tracked if (ROOT / name).is_file()}
    assert "jaxrl/py.typed" in names
    assert wheel.name.startswith(f"jaxrl_kernels-{jaxrl.__version__}-py3-none-any")
    assert wheel.stat().st_size < 500_000


def test_the_sdist_has_the_tests_and_no_results(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"jaxrl/algos/ppo.py", "tests/algos/test_ppo.py", "docs/guide.md", "CHANGELOG.md", "LICENSE"} <= names
    assert not [name for name in names if name.startswith(("plots", "experiments/results", ".ci")) or "ipynb" in name]
    assert built[1].stat().st_size < 1_500_000


def test_the_version_is_the_same_everywhere():
    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]["path"] == "jaxrl/__init__.py"
    )
    assert re.search(r"(?m)^version: (.*)$", (ROOT / "CITATION.cff").read_text())[1] == jaxrl.__version__
    assert re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())[1] == jaxrl.__version__


def test_each_command_works_from_the_wheel_alone(place):
    where = place.run("python", "-c", "import jaxrl; print(jaxrl.__file__)")
    assert where.stdout.startswith(str(place.bin.parent)), where.stdout + where.stderr
    assert place.run("jaxrl", "--version").stdout.startswith(f"jaxrl {jaxrl.__version__}, jax ")
    for words, said in {
        ("train", "--env", "CartPole-v1", *SMALL.split(), "--run-dir", "run"): "done: ",
        ("evaluate", "run", "--episodes", "2"): "CartPole-v1: mean return",
        ("plot", "run", "--out", "figure"): "figure.png",
    }.items():
        ended = place.run("jaxrl", *words)
        assert ended.returncode == 0 and said in ended.stdout + ended.stderr, ended.stdout + ended.stderr
    assert (place.folder / "figure.svg").stat().st_size > 1_000
    assert not list(place.folder.glob("**/*.py")), "nothing of the checkout was needed"


def test_completion_in_bash(place):
    """Commands, flags and values, as bash would ask for them."""
    script = place.run("jaxrl", "completion", "bash")
    assert script.returncode == 0, script.stderr

    def completed(*words):
        line = f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; _jaxrl; echo ${{COMPREPLY[@]}}"
        ended = subprocess.run(["bash", "-c", f"{script.stdout}\n{line}"], capture_output=True, text=True, check=True)
        return ended.stdout.split()

    assert completed("jaxrl", "tr") == ["train"]
    assert completed("jaxrl", "train", "--clip") == ["--clip-eps"]
    assert completed("jaxrl", "train", "--no-norm") == [
        "--no-normalize-advantages", "--no-normalize-obs", "--no-normalize-reward",
    ]  # fmt: skip
    assert completed("jaxrl", "train", "--algo", "pp") == ["ppo", "ppo_kl"]
    assert completed("jaxrl", "train", "--env", "CartP") == ["CartPole-v1"]
    assert completed("jaxrl", "train", "--env-backend", "e") == ["envpool", "envelope"]
    assert completed("jaxrl", "evaluate", "--run") == completed("jaxrl", "evaluate", "") == []
    assert completed("jaxrl", "study", "--") == ["--cores", "--help", "--nice", "--ray", "--runs", "--so-far"]
    assert "--ends" in completed("jaxrl", "plot", "--e")


@pytest.mark.parametrize(("words", "said"), [(["fish"], "bash or zsh"), ([], "one shell"), (["bash", "zsh"], "one")])
def test_completion_of_another_shell_is_refused(words, said, capsys):
    from jaxrl.cli.main import main

    assert main(["completion", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


@pytest.mark.slow
def test_a_users_script_passes_mypy(place):
    (place.folder / "script.py").write_text(SCRIPT)
    (place.folder / "wrong.py").write_text(WRONG)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(place.bin / "python")]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}

    def checked(name):
        command = [*mypy, name]
        return subprocess.run(command, cwd=place.folder, env=env, capture_output=True, text=True, check=False).stdout

    assert "Success" in (said := checked("script.py")), said
    assert (said := checked("wrong.py")).count("[arg-type]") == 2, said
    assert place.run("python", "script.py").stdout.endswith(" ()\n")


@pytest.mark.slow
def test_a_clean_installation_with_its_own_packages(built, tmp_path):
    """All that the wheel needs comes with it. This asks the package index."""
    place = Place(tmp_path, built[0])
    for words in (
        ["train", "--env", "CartPole-v1", *SMALL.split(), "--run-dir", "run"],
        ["evaluate", "run", "--episodes", "2"],
        ["plot", "run", "--out", "figure"],
    ):
        ended = place.run("jaxrl", *words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
