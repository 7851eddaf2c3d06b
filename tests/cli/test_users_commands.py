"""The commands as users meet them: modules of their own, exits that look like success, platforms that are not there,
forks, and figures of whatever a run logged."""

import contextlib
import csv
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from gymnasium import spaces

import jaxrl
from jaxrl import BadInput, EnvironmentLost, device
from jaxrl.cli.main import evaluate_command, main, train_command
from jaxrl.cli.startup import current_folder_first
from jaxrl.envs.registry import find_callable, find_spec
from jaxrl.studies import plot

SCRIPTS = Path(__file__).parents[2] / "experiments"
SMALL = ["--total-steps", "32", "--num-envs", "2", "--num-steps", "16", "--num-minibatches", "2", "--num-epochs", "1"]
SMALL += ["--hidden-sizes", "4", "--eval-episodes", "1"]
MINE = """
import gymnasium as gym

class Mine(gym.Wrapper):
    pass

def make(**options):
    return gym.make("CartPole-v1", max_episode_steps=9).unwrapped

gym.register("users/Mine-v0", make, max_episode_steps=9)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, where modules can be written that no other test sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run in an environment and under a wrapper of the user's, trained from their folder."""
    folder = tmp_path_factory.mktemp("users")
    (folder / "users_env.py").write_text(MINE)
    with contextlib.chdir(folder):
        flags = ["--env", "users_env:users/Mine-v0", "--wrapper", "users_env:Mine", *SMALL]
        assert train_command([*flags, "--run-dir", "run"]) == 0
    assert str(folder) not in sys.path
    return folder / "run"


# --- Modules in the current folder ------------------------------------------------------------------------------------

NAMED = ["--env", "users_env:users/Mine-v0", "--wrapper", "users_env:Mine"]


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["train", "--resume", "run", "--total-steps", "64", *NAMED], id="resume"),
        pytest.param(["train", "--init-from", "run", *NAMED, *SMALL, "--run-dir", "other"], id="init from"),
        pytest.param(["evaluate", "run", "--episodes", "1", *NAMED], id="evaluate"),
    ],
)
def test_each_command_finds_a_module_in_the_current_folder(run_dir, monkeypatch, argv):
    monkeypatch.chdir(run_dir.parent)
    monkeypatch.delitem(sys.modules, "users_env", raising=False)
    assert main(argv) == 0


def test_spawned_processes_find_it_too(folder, monkeypatch):
    (folder / "users_spawned.py").write_text(MINE.replace("Mine-v0", "Spawned-v0"))
    flags = ["--env", "users_spawned:users/Spawned-v0", "--env-backend", "async", *SMALL, "--run-dir", "run"]
    assert train_command(flags) == 0


def test_in_python_the_path_is_the_users_own_affair(folder):
    (folder / "users_own.py").write_text(MINE)
    with pytest.raises(BadInput, match="No module named 'users_own'"):
        find_spec("users_own:users/Mine-v0")


@pytest.mark.parametrize(
    "copy, place", [(None, 0), ("another", -1), ("ours", 0)], ids=["no copy", "another copy", "our own"]
)
def test_the_folder_is_searched_first_unless_another_copy_of_the_package_is_there(folder, copy, place):
    if copy == "another":
        (folder / "jaxrl").mkdir()
    elif copy == "ours":
        (folder / "jaxrl").symlink_to(Path(jaxrl.__file__).parent)
    before = list(sys.path)
    with current_folder_first():
        assert sys.path[place] == str(folder)
        assert [each for each in sys.path if each != str(folder)] == before
    assert sys.path == before


def test_a_folder_that_has_been_removed_is_searched_by_nobody(folder):
    (gone := folder / "gone").mkdir()
    before = list(sys.path)
    with contextlib.chdir(gone):
        gone.rmdir()
        with current_folder_first():
            assert sys.path == before
        os.chdir(folder)


def test_a_safe_path_stays_safe(folder):
    (folder / "users_env.py").write_text(MINE)
    code = "import sys; from jaxrl.cli.startup import current_folder_first as first\nwith first(): print(sys.path[0])"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() != str(folder)


@pytest.mark.parametrize("name", ["evaluate", "plot", "train", "study"])
@pytest.mark.parametrize("where", ["in the current folder", "installed"])
def test_a_scripts_neighbours_shadow_no_module(folder, monkeypatch, capsys, name, where):
    (home := folder if where == "in the current folder" else folder / "site").mkdir(exist_ok=True)
    (home / f"{name}.py").write_text(f"raise RuntimeError('this is the user's {name}')".replace("user's", "users"))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *(each for each in sys.path if each != str(SCRIPTS)), str(home)])
    monkeypatch.setattr(sys, "argv", ["train.py", "--env", f"{name}:X-v0"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPTS / "train.py"), run_name="__main__")
    assert f"this is the users {name}" in capsys.readouterr().err


def test_evaluate_py_shadows_none_either(run_dir, folder, monkeypatch, capsys):
    (folder / "plot.py").write_text("raise RuntimeError('this is mine')")
    monkeypatch.delitem(sys.modules, "plot", raising=False)
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run_dir), "--env", "plot:X-v0", "--wrapper", "none"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPTS / "evaluate.py"), run_name="__main__")
    assert "this is mine" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words",
    [
        ("ALE/Pong-v5", "module:ALE/Pong-v5"),
        ("nobody/CartPole-v1", "module:nobody/CartPole-v1"),
        ("Zzzzzzzzzz-v0", "module:Zzzzzzzzzz-v0"),
        ("CartPol-v1", "did you mean CartPole-v1"),
        ("phys2d/CartPol-v1", "did you mean phys2d/CartPole-v1"),
        ("json:Zzzzzzzzzz-v0", "pprint_registry"),  # The module is named already.
        ("json:CartPol-v1", "did you mean CartPole-v1"),
    ],
)
def test_the_hint_for_an_id_that_nobody_registered(name, words):
    with pytest.raises(BadInput) as caught:
        find_spec(name)
    assert words in str(caught.value)


# --- Exits of the user's code -----------------------------------------------------------------------------------------

EXIT = "import gymnasium as gym, sys\n"
EXITS = {
    "a module": EXIT + "sys.exit(0)",
    "a module, with words": EXIT + "sys.exit('no licence')",
    "a module, by raise": "raise SystemExit",
    "a module, with a signal's code": EXIT + "sys.exit(143)",
    "a constructor": EXIT + "def make(**options): sys.exit(0)\ngym.register('users/Exit-v0', make)",
    "a constructor, with a code": EXIT + "def make(**options): sys.exit(2)\ngym.register('users/Exit-v0', make)",
}


@pytest.mark.parametrize("code", EXITS.values(), ids=EXITS)
def test_an_exit_of_an_environment_is_no_success(folder, capsys, code):
    (folder / "users_exit.py").write_text(code)
    before = sorted(folder.iterdir())
    assert train_command(["--env", "users_exit:users/Exit-v0", *SMALL]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "exit" in err.lower(), err
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "code",
    [EXIT + "sys.exit()", "def W(env): raise SystemExit(0)"],
    ids=["its module", "its call"],
)
@pytest.mark.parametrize("command", ["train", "evaluate", "train_many"])
def test_an_exit_of_a_wrapper_is_no_success(run_dir, folder, capsys, command, code):
    (folder / "users_wrapper.py").write_text(code)
    if command == "evaluate":
        argv = ["evaluate", str(run_dir), "--env", "CartPole-v1", "--wrapper", "users_wrapper:W"]
    else:
        argv = ["train", "--env", "CartPole-v1", "--wrapper", "users_wrapper:W", *SMALL]
        argv += ["--num-seeds", "2"] if command == "train_many" else []
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "exit" in err.lower(), err


def test_from_python_an_exit_at_import_is_an_error(folder):
    (folder / "users_quits.py").write_text(EXIT + "sys.exit(0)")
    sys.path.insert(0, str(folder))
    for find in (lambda: find_spec("users_quits:X-v0"), lambda: find_callable("users_quits:W", "wrapper")):
        with pytest.raises(EnvironmentLost, match=r"users_quits called sys\.exit while"):
            find()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_still_ends_with_0(command):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code in (0, None)


# --- JAX's platform ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("no backend\nof this name"), AssertionError(), OSError("libtpu")])
@pytest.mark.parametrize("seeds", ["1", "2"])
def test_a_platform_that_is_not_there_is_one_line_before_a_folder(folder, monkeypatch, capsys, error, seeds):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert train_command(["--env", "CartPole-v1", *SMALL, "--num-seeds", seeds]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "JAX_PLATFORMS=cuda" in err, err
    assert not list(folder.iterdir())
    with pytest.raises(BadInput, match="JAX_PLATFORMS=cuda"):
        jaxrl.train(jaxrl.RunConfig(total_steps=64))


def test_a_policy_needs_no_platform(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir.parent)
    monkeypatch.setattr(jax, "devices", None)
    assert evaluate_command(["run", "--episodes", "1", *NAMED]) == 0


@pytest.mark.parametrize("command", [["train"], ["evaluate", "run"]], ids=["train", "evaluate"])
def test_a_variable_that_jax_cannot_read_is_one_line(folder, monkeypatch, capsys, command):
    class Importer:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "jax":
                raise ValueError("invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'")

    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(sys, "meta_path", [Importer, *sys.meta_path])
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "'maybe' for environment 'JAX_ENABLE_X64'" in err, err


@pytest.mark.parametrize("variable", ["JAX_PLATFORMS=nonsense", "JAX_ENABLE_X64=maybe"])
def test_the_same_seen_from_outside(folder, variable):
    name, value = variable.split("=")
    command = [sys.executable, str(SCRIPTS / "train.py"), "--env", "CartPole-v1", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {name: value})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert name in done.stderr and value in done.stderr
    assert not list(folder.iterdir())


# --- Forks ------------------------------------------------------------------------------------------------------------

SPACES = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))
PPO = jaxrl.PPOConfig(hidden_sizes=(4,), num_minibatches=1, num_epochs=1)
DDPG = jaxrl.DDPGConfig(hidden_sizes=(4, 4))


CALLS = {
    "train": lambda: jaxrl.train(jaxrl.RunConfig(total_steps=64)),
    "train_many": lambda: jaxrl.train_many(jaxrl.RunConfig(total_steps=64, num_seeds=2)),
    "ppo_init": lambda: jaxrl.ppo_init(None, PPO, *SPACES),
    "ppo_act": lambda: jaxrl.ppo_act(None, None),
    "ppo_update": lambda: jaxrl.ppo_update(None, None),
    "ppo_update, jitted": lambda: jax.jit(jaxrl.ppo_update)(None, None),
    "ddpg_init": lambda: jaxrl.ddpg_init(None, DDPG, *SPACES),
    "ddpg_act": lambda: jaxrl.ddpg_act(None, None),
    "ddpg_update": lambda: jaxrl.ddpg_update(None, None),
    "replay_init": lambda: jaxrl.replay_init(10, 3, 1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_after_a_fork_every_entry_to_jax_is_refused(folder, monkeypatch, call):
    device.check_process()
    monkeypatch.setattr(os, "getpid", os.getppid)  # As a forked process finds itself: another than the one before.
    with pytest.raises(BadInput, match=r"forked after JAX was used.*'spawn'"):
        call()
    assert not list(folder.iterdir())


def _in_child(run_dir, said):
    try:
        jaxrl.ppo_init(None, PPO, *SPACES)
    except BadInput as error:
        action = jaxrl.load_policy(run_dir)(np.zeros((3, 4), np.float32))
        said.send((str(error), action.shape))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a fork")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_process_is_refused_and_a_policy_acts_in_it(run_dir):
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(run_dir, theirs))
    child.start()
    try:
        assert ours.poll(30), "the child hangs"
        said, shape = ours.recv()
    finally:
        child.kill()
        child.join()
    assert "forked after JAX was used" in said and shape == (3,)


# --- Figures ----------------------------------------------------------------------------------------------------------


def draw(monkeypatch, *arguments, write=False):
    """The figure that the command draws, and its data; writing them takes the longest."""
    kept, save = [], plot.save
    monkeypatch.setattr(plot, "save", lambda *given: (kept.append(given), save(*given) if write else None))
    assert main(["plot", *arguments]) == 0
    plt.close("all")
    [(figure, data, _)] = kept
    return figure, data


def table(path, *variants, encoding="utf-8"):
    text = "".join(f"A-v1,{name},0,{step},{step}\n" for name in variants for step in (0, 10))
    path.write_text(f"env,variant,seed,step,mean_return\n{text}", encoding=encoding)


NAMES = ["_base", "_", r"$\frac{1}$", "a$b", r"\$x\$", "$x$ and $", "clip 0.2", "100 % ^_{}"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["curves", "bars", "reference"])
def test_a_name_is_drawn_as_it_is_written(folder, monkeypatch, kind, name):
    table(folder / "study.csv", name if kind != "reference" else "other", "second")
    flags = ["--ends"] if kind == "bars" else []
    if kind == "reference":
        (folder / "r.csv").write_text(f"task,source,step,mean_return\nA,{name},0,1\nA,{name},10,1\n")
        flags = ["--reference", "r.csv"]
    figure, _ = draw(monkeypatch, "study.csv", "--out", "figure", *flags)
    panel = figure.axes[0]
    texts = panel.get_xticklabels() if kind == "bars" else panel.get_legend().get_texts()
    [text] = [text for text in texts if text.get_text().startswith(name)]
    assert text.get_text() in (name, f"{name} (1 seed)", f"{name}\n10 steps")
    assert not text.get_parse_math()
    if kind != "bars":
        assert len(texts) == (2 if kind == "curves" else 3)


@pytest.mark.parametrize("out", ["figure", "figure.png", "figure.svg", "figure.csv", "figure.PNG", "of/figure.png"])
def test_the_figures_ending_may_be_given(folder, monkeypatch, out):
    table(folder / "study.csv", "a")
    draw(monkeypatch, "study.csv", "--out", out, write=True)
    found = {path.name for path in (folder / out).parent.iterdir()} - {"study.csv"}
    assert found == {"figure.png", "figure.svg", "figure.csv"}


def test_another_ending_is_part_of_the_name(folder, monkeypatch):
    table(folder / "study.csv", "a")
    draw(monkeypatch, "study.csv", "--out", "clip0.2", write=True)
    assert (folder / "clip0.2.png").is_file()


def test_a_figure_does_not_write_over_the_table_that_it_draws(folder, monkeypatch, capsys):
    table(folder / "study.csv", "a")
    before = (folder / "study.csv").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        draw(monkeypatch, "study.csv", "--out", "study.png")
    assert "would write over study.csv" in capsys.readouterr().err
    assert [path.read_bytes() for path in folder.iterdir()] == [before]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_a_column(folder, monkeypatch, encoding):
    table(folder / "study.csv", "a", encoding=encoding)
    _, data = draw(monkeypatch, "study.csv", "--out", "figure")
    assert [row["middle"] for row in data] == [0.0, 10.0]


GAPS = {
    "never a number": ["nan", "nan", "nan"],
    "rare": ["nan", "2", "nan"],
    "huge": ["1e300", "-1e300", "inf"],
    "infinite": ["inf", "-inf", "0"],
    "all there": ["1", "2", "3"],
}


@pytest.mark.parametrize("values", GAPS.values(), ids=GAPS)
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_a_gap_in_the_diagnostics(folder, monkeypatch, values):
    lines = [f"{step},{value},{step}\n" for step, value in enumerate(values, 1)]
    (folder / "metrics.csv").write_text(f"step,explained_variance,wall_time\n{''.join(lines)}")
    figure, data = draw(monkeypatch, ".", "--diagnostics", "--out", "figure")
    [line] = figure.axes[1].lines
    numbers = np.array(values, float)
    right = np.where(np.isfinite(numbers), numbers, np.nan)
    np.testing.assert_array_equal(line.get_ydata(), right)
    np.testing.assert_array_equal([row["explained_variance"] for row in data], right)


@pytest.mark.parametrize("column", ["step", "wall_time"])
def test_a_row_without_a_step_or_a_time_is_refused(folder, monkeypatch, capsys, column):
    row = {"step": "2", "kl": "1", "wall_time": "2"} | {column: "nan"}
    (folder / "metrics.csv").write_text(f"step,kl,wall_time\n1,1,1\n{','.join(row.values())}\n")
    with pytest.raises(SystemExit, match="2"):
        draw(monkeypatch, ".", "--diagnostics", "--out", "figure")
    assert f"column {column} holds what is not finite" in capsys.readouterr().err


def test_rewards_that_explain_nothing_train_and_draw_without_a_word(folder, monkeypatch, capfd, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder / "users_env.py").write_text(MINE)
    (folder / "users_reward.py").write_text(
        "import gymnasium as gym\ndef W(env): return gym.wrappers.TransformReward(env, lambda reward: 0.0)"
    )
    flags = [*NAMED[:2], "--wrapper", "users_reward:W", *SMALL, "--total-steps", "64", "--log-every", "32"]
    assert train_command([*flags, "--gamma", "0", "--run-dir", "run"]) == 0
    assert (capfd.readouterr().err, caplog.text) == ("", "")
    with (folder / "run/metrics.csv").open() as file:
        assert [row["explained_variance"] for row in csv.DictReader(file)] == ["nan", "nan"]
    events = EventAccumulator("run").Reload()
    assert np.isnan([event.value for event in events.Scalars("update/explained_variance")]).tolist() == [True, True]
    draw(monkeypatch, "run", "--diagnostics", "--out", "sheet", write=True)
    assert (folder / "sheet.png").is_file()


def test_events_of_numbers_that_are_none_can_be_read(folder, capfd, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from jaxrl.loggers.tensorboard import TensorBoard

    board = TensorBoard(folder)
    for step, value in enumerate([1.5, float("nan"), np.float32(np.inf), np.float64(2)]):
        board.add_scalar("update/explained_variance", value, step)
    board.close()
    assert (capfd.readouterr().err, caplog.text) == ("", "")
    events = EventAccumulator(str(folder)).Reload()
    found = [event.value for event in events.Scalars("update/explained_variance")]
    np.testing.assert_array_equal(found, [1.5, np.nan, np.inf, 2])
