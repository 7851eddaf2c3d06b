"""The command line: flags reach the run, mistakes cost one line and exit code 2, and nothing is written."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl.algos.algorithm import OffPolicySettings, OnPolicySettings
from jaxrl.algos.ddpg import DDPGConfig
from jaxrl.algos.ppo import PPOConfig
from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import evaluate_command, main, train_command
from jaxrl.runs.config import RunConfig

ROOT = Path(__file__).parents[2]
QUICK = [
    "--env",
    "Pendulum-v1",
    "--total-steps",
    "128",
    "--num-envs",
    "2",
    "--num-steps",
    "32",
    "--num-minibatches",
    "2",
    "--num-epochs",
    "1",
    "--eval-episodes",
    "1",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert train_command([*QUICK, "--run-dir", str(folder), "--anneal-learning-rate"]) == 0
    return folder


BAD_TRAIN = {
    "misspelt environment": (["--env", "CartPol-v1"], "CartPole-v1"),
    "wrong case": (["--env", "cartpole-v1"], "CartPole-v1"),
    "environment without a name": (["--env"], "--env"),
    "module that is not there": (["--env", "nomodule:Env-v0"], "nomodule"),
    "unknown algorithm": (["--algo", "pppo"], "ppo_kl"),
    "unknown flag": (["--gama", "0.5"], "--gamma"),
    "unknown flag with no neighbour": (["--zzz"], "--zzz"),
    "stray word": (["CartPole-v1"], "CartPole-v1"),
    "value missing": (["--gamma"], "--gamma"),
    "word for a number": (["--gamma", "much"], "much"),
    "fraction for a count": (["--total-steps", "1.5"], "1.5"),
    "gamma above 1": (["--gamma", "1.5"], "between 0 and 1"),
    "gamma not a number": (["--gamma", "nan"], "gamma"),
    "infinite rate": (["--actor-learning-rate", "inf"], "actor_learning_rate"),
    "negative environments": (["--num-envs", "-1"], "num_envs"),
    "no environments": (["--num-envs", "0"], "num_envs"),
    "no steps": (["--num-steps", "0"], "num_steps"),
    "no total": (["--total-steps", "0"], "total_steps"),
    "no minibatches": (["--num-minibatches", "0"], "num_minibatches"),
    "minibatches that do not divide": (["--num-minibatches", "7"], "256 rows"),
    "minibatches of one row": (["--num-minibatches", "256"], "2 or more"),
    "negative seed": (["--seed", "-1"], "seed"),
    "no evaluation episodes": (["--eval-episodes", "0"], "eval_episodes"),
    "target without a penalty": (["--kl-target", "0.1"], "kl_coef"),
    "target of 0": (["--algo", "ppo_kl", "--kl-target", "0"], "kl_target"),
    "annealing a clip that is off": (["--anneal-clip", "--clip-eps", "none"], "clip_eps"),
    "horizon of nothing": (["--anneal-steps", "5", "--no-anneal-learning-rate"], "anneal_steps"),
    "no hidden units": (["--hidden-sizes", "0"], "hidden_sizes"),
    "folder with something in it": (["--run-dir", "."], "not empty"),
    "folder that cannot be": (["--run-dir", "full/under/a/file"], "full"),
    "run to resume missing": (["--resume", "nothing"], "nothing"),
    "run to start from missing": (["--init-from", "nothing"], "init_from nothing holds no checkpoint, there is no"),
    "resumed with other settings": (["--resume", "RUN", "--gamma", "0.5"], "--gamma"),
    "resumed to another end of an annealed run": (["--resume", "RUN", "--total-steps", "999"], "anneals"),
    "resumed to a word": (["--resume", "RUN", "--total-steps", "far"], "far"),
    "a window without a screen": (["--render"], "screen"),
    "an environment that is gone": (["--env", "HalfCheetah-v3"], "HalfCheetah-v3"),
    "another environment to evaluate in": (["--eval-env", "Pendulum-v1"], "eval_env"),
    "a return that is no number": (["--stop-return", "nan"], "stop_return"),
    "a rollout larger than memory": (["--num-steps", "1000000", "--num-envs", "4096"], "GiB"),
    "more environments than memory": (["--num-envs", "100000000000000"], "num_envs"),
    "more epochs than time": (["--num-epochs", "99999999999999999999"], "num_epochs"),
    "no name": (["--env", ""], "environment"),
}
BAD_EVALUATE = {
    "no folder given": ([], "RUN_DIR"),
    "no such folder": (["nothing"], "nothing"),
    "no episodes": (["RUN", "--episodes", "0"], "episodes"),
    "another environment": (["RUN", "--env", "CartPole-v1"], "takes"),
    "misspelt environment": (["RUN", "--env", "Pendulum-v11"], "Pendulum-v1"),
    "window and film": (["RUN", "--render", "--video", "film"], "--video"),
    "window without a screen": (["RUN", "--render"], "screen"),
    "unknown flag": (["RUN", "--episode", "3"], "--episodes"),
    "negative seed": (["RUN", "--seed", "-1"], "seed"),
    "episodes of no step": (["RUN", "--max-episode-steps", "0"], "max-episode-steps"),
    "no environment's name": (["RUN", "--env", ""], "environment"),
}


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


@pytest.mark.parametrize(
    "command, argv, words",
    [pytest.param(train_command, *case, id=f"train: {name}") for name, case in BAD_TRAIN.items()]
    + [pytest.param(evaluate_command, *case, id=f"evaluate: {name}") for name, case in BAD_EVALUATE.items()],
)
def test_bad_input_costs_one_line_and_changes_nothing(command, argv, words, finished_run, monkeypatch, capfd):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    Path("full").write_text("a file")
    before = tree("."), tree(finished_run)
    assert command([str(finished_run) if word == "RUN" else word for word in argv]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert re.search(re.escape(words), err), err
    assert "Traceback" not in err
    assert (tree("."), tree(finished_run)) == before


def test_a_mistake_seen_from_outside():
    env = dict(os.environ, PYTHONWARNINGS="default")
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), "--env", "CartPol-v1"]
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert (
        run.stderr
        == "jaxrl: there is no environment CartPol-v1: did you mean CartPole-v1 or CartPole-v0 or phys2d/CartPole-v1?\n"
    )
    assert not list(Path().iterdir())


def test_a_terminal_without_unicode_gets_the_same_line():
    env = dict(os.environ, PYTHONIOENCODING="ascii")
    command = [sys.executable, str(ROOT / "experiments" / "train.py"), "--gama", "0.5"]
    run = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 2
    assert "--gama" in run.stderr and "perhaps you meant --gamma" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(("first", "set_apart"), [("", True), ("import jax", False), ("gc.disable()", False)])
def test_only_a_fresh_process_sets_apart_what_it_imports(first, set_apart):
    """From the garbage collector, which is as it was afterwards, also after a mistake."""
    script = f"""
import gc
{first}
was = gc.isenabled()
from jaxrl.cli.main import train_command
print(train_command(["--env", "CartPol-v1"]), gc.isenabled() == was, gc.get_freeze_count() > 50_000)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == f"2 True {set_apart}\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted by Linux's /proc")
@pytest.mark.parametrize(
    ("flags", "set_before", "counted"),
    [(["--num-threads", "1"], None, 1), (["--num-threads=2"], None, 2), (["--num-threads", "1"], "3", 3)],
)
def test_that_many_threads_are_taken(flags, set_before, counted):
    """By a command of its own, JAX imported, at its first array."""
    script = f"""
from pathlib import Path
from jaxrl.cli.main import train_command
code = train_command([*{flags}, *{QUICK}, "--total-steps", "64"])
names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
print("COUNTED", code, names.count("tf_XLAEigen"))
"""
    env = {name: value for name, value in os.environ.items() if name != "NPROC"}
    env |= {"NPROC": set_before} if set_before else {}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert run.stdout.splitlines()[-1] == f"COUNTED 0 {counted}", run.stdout


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", ""])
def test_threads_that_are_no_number_are_refused(number, capsys):
    assert train_command([f"--num-threads={number}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "it must be a whole number from 1 on, or none" in err


@pytest.mark.parametrize(
    "change",
    [{"num_envs": "8"}, {"seed": "a"}, {"env": None}, {"env": 3}, {"num_steps": 32.0}, {"agent": {"gamma": "x"}}],
    ids=str,
)
def test_a_config_that_was_tampered_with_is_refused(change, finished_run, capfd):
    shutil.copytree(finished_run, "copy")
    about = json.loads(Path("copy/config.json").read_text())
    agent = about["run"]["agent"] | change.pop("agent", {})
    about["run"] |= change | {"agent": agent}
    Path("copy/config.json").write_text(json.dumps(about))
    assert train_command(["--resume", "copy"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "config.json" in err


def test_nobody_has_to_read_what_a_run_says(tmp_path):
    command = f"{sys.executable} {ROOT}/experiments/train.py {' '.join(QUICK)} --run-dir {tmp_path}/run | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert (tmp_path / "run" / "checkpoints" / "latest.npz").is_file()


def test_nobody_has_to_read_all_of_the_help():
    command = f"{sys.executable} {ROOT}/experiments/train.py --help | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.stdout.startswith("usage: train.py")


def test_a_sweep_may_be_said_in_several_places():
    sweep = parse_run(["--sweep", "gamma=0.9,0.99", "--seed", "1", "--sweep=clip-eps=0.1,0.2", "--max-grad-norm", "2"])
    assert sweep == parse_run(["--max-grad-norm", "2", "--seed", "1", "--sweep", "gamma=0.9,0.99", "clip-eps=0.1,0.2"])
    assert sweep.sweep == ("gamma=0.9,0.99", "clip-eps=0.1,0.2") and sweep.seed == 1
    wrapper = parse_run(["--wrapper", "a:b", "--sweep", "gamma=0.9,1", "--wrapper", "c:d", "e:f", "--seed", "2"])
    assert (wrapper.wrapper, wrapper.sweep, wrapper.seed) == (("a:b", "c:d", "e:f"), ("gamma=0.9,1",), 2)
    both = parse_run(["--wrapper=a:b", "--seed", "2", "--wrapper", "c:d"])
    assert (both.wrapper, both.seed) == (("a:b", "c:d"), 2)


def test_flags_reach_the_run():
    run = parse_run(
        [
            "--algo",
            "ppo_kl",
            "--env",
            "Hopper-v5",
            "--seed",
            "3",
            "--total-steps",
            "1e6",
            "--kl-target",
            "none",
            "--clip-eps",
            "0.3",
            "--no-normalize-obs",
            "--hidden-sizes",
            "32",
            "16",
            "--stop-return",
            "100",
            "--num-epochs",
            "4",
        ]
    )
    assert (run.env, run.seed, run.total_steps, run.loop.normalize_obs, run.stop_return) == (
        "Hopper-v5",
        3,
        1_000_000,
        False,
        100,
    )
    agent = run.agent
    assert (agent.kl_target, agent.clip_eps, agent.hidden_sizes, agent.num_epochs) == (None, 0.3, (32, 16), 4)
    assert type(run) is RunConfig
    assert type(agent) is PPOConfig
    assert run.loop.normalize_reward, "what no flag touches is the task's default"


@pytest.mark.parametrize(
    "algo, own, other",
    [
        ("ppo", (PPOConfig, OnPolicySettings), OffPolicySettings),
        ("ddpg", (DDPGConfig, OffPolicySettings), OnPolicySettings),
    ],
)
def test_every_setting_has_a_flag_with_a_word_on_it(capsys, algo, own, other):
    with pytest.raises(SystemExit) as end:
        train_command(["--algo", algo, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in [field.name for kind in (RunConfig, *own) for field in dataclasses.fields(kind)]:
        if name in ("agent", "loop", "anneal_updates"):
            continue
        flag = f"--{name.replace('_', '-')}"
        described = re.search(rf"{flag}[ ,].*?\(default", " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split()))
        assert described and len(described[0]) > len(flag) + 20, flag
    for field in dataclasses.fields(other):
        assert f"--{field.name.replace('_', '-')}" not in text


def test_the_console_command(finished_run, capsys):
    assert main([]) == 0
    assert "jaxrl train" in capsys.readouterr().out
    assert main(["evaluate", str(finished_run), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("200 steps") == 2
    assert "mean return" in out
    assert main(["dance"]) == 2
    assert "train or evaluate" in capsys.readouterr().err


def test_evaluating_twice_gives_the_same_and_sampling_something_else(finished_run, capsys):
    outs = []
    for flags in ([], [], ["--stochastic"], ["--seed", "5"]):
        assert evaluate_command([str(finished_run), "--episodes", "2", "--max-episode-steps", "30", *flags]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]
    assert len(set(outs)) == 3
    assert "30 steps" in outs[0]


def test_a_window_is_shown_where_there_is_a_screen(monkeypatch, capsys):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(
        "gymnasium.envs.classic_control.pendulum.PendulumEnv.metadata",
        {"render_modes": ["human", "rgb_array"], "render_fps": 10_000},
    )
    assert train_command([*QUICK, "--total-steps", "64", "--render", "--run-dir", "shown"]) == 0
    assert evaluate_command(["shown", "--episodes", "1", "--render"]) == 0
    assert "mean return" in capsys.readouterr().out


def test_the_compilation_cache_is_private(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | {
        "XDG_CACHE_HOME": str(tmp_path)
    }
    command = [
        sys.executable,
        "-c",
        "import sys; from jaxrl.cli.main import train_command as c; sys.exit(c(sys.argv[1:]))",
        *QUICK,
    ]
    subprocess.run([*command, "--run-dir", "run"], env=env, check=True, capture_output=True)
    folder = tmp_path / "jaxrl" / "xla"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(list(folder.iterdir())) >= 3
