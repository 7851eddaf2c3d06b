"""W&B and MLflow hear what the CSV files hear: read back by their own readers. Slow, as the packages are; what needs no
package is not."""

import csv
import functools
import json
import math
import os
import struct
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from jaxrl import BadInput
from jaxrl.cli.main import train_command
from jaxrl.loggers.logger import Evaluation
from jaxrl.loggers.named import named_loggers
from jaxrl.loggers.scalars import Scalars

TINY = "--env Pendulum-v1 --num-envs 2 --num-steps 16 --num-minibatches 2 --num-epochs 1 --hidden-sizes 4,4"
TINY += " --eval-every 64 --eval-episodes 1 --eval-max-steps 9 --log-every 32"


class Kept(Scalars):
    """Keeps what it would write."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def write(self, step, numbers):
        self.rows.append((step, dict(numbers)))


def test_scalars_have_the_names_of_tensorboard_and_episodes_are_averaged():
    from jaxrl.envs.episodes import FinishedEpisode

    kept = Kept()
    kept.episodes(3, [FinishedEpisode(0, 4.0, 10), FinishedEpisode(1, 6.0, 30)], 0.1)
    kept.metrics(4, {"kl": 0.5}, 0.2)
    kept.progress(4, 100.0, 0.3)
    kept.progress(5, 100.0, 0.4)
    kept.evaluation(Evaluation(6, 1.0, 2.0, 3.0, 4.0, 5, 0.5))
    assert kept.rows[0] == (4, {"update/kl": 0.5})
    assert kept.rows[1][1]["rollout/episode_return"] == 5 and kept.rows[1][1]["rollout/episode_length"] == 20
    assert kept.rows[2] == (5, {"time/steps_per_second": 100.0, "time/wall_time": 0.4}), "no episode counts twice"
    assert kept.rows[3][1]["evaluation/mean_return"] == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    assert train_command([*TINY.split(), "--logger", name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"pip install 'jaxrl-kernels[{name}]'" in err
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_another_name_is_refused():
    with pytest.raises(BadInput, match="must be wandb or mlflow"):
        named_loggers(["comet"])


class CommError(Exception):
    """As W&B raises where it cannot be reached."""


class FakeWandB(ModuleType):
    """W&B, which raises in the calls that `fails` names: log at the third."""

    def __init__(self, fails):
        super().__init__("wandb")
        self.fails, self.logged, self.ended = fails, [], 0
        self.id, self.project = "abc", "jaxrl"

    def __getattr__(self, name):
        if name not in ("login", "init", "Settings", "define_metric", "log", "finish"):
            raise AttributeError(name)

        def call(*given, **named):
            self.logged += given if name == "log" else ()
            self.ended += name == "finish"
            if name in self.fails and (name != "log" or len(self.logged) >= 3):
                raise CommError(f"the network is down\nin {name}")
            return self

        return call


class FakeMLflow(ModuleType):
    """MLflow, likewise; `fails` may name its client's own making too."""

    def __init__(self, fails):
        super().__init__("mlflow")
        self.fails, self.logged, self.ended = fails, [], 0
        self.entities = SimpleNamespace(Param=lambda *given: given, Metric=lambda *given: given)
        self.info = SimpleNamespace(run_id="abc")

    def MlflowClient(self):
        return self.call("MlflowClient")

    def call(self, name, *given, **named):
        if name == "log_batch" and "metrics" in named:
            self.logged.append(named["metrics"])
        self.ended += name == "set_terminated"
        if name in self.fails and (name != "log_batch" or len(self.logged) >= 3):
            raise CommError(f"the network is down\nin {name}")
        return self

    def __getattr__(self, name):
        if name not in ("get_experiment_by_name", "create_run", "log_batch", "set_terminated", "experiment_id"):
            raise AttributeError(name)
        return "1" if name == "experiment_id" else functools.partial(self.call, name)


FAKES = {"wandb": FakeWandB, "mlflow": FakeMLflow}
FILES = ("metrics", "evaluations", "episodes")


@pytest.mark.parametrize(
    ("name", "where"), [("wandb", "login"), ("wandb", "init"), ("mlflow", "MlflowClient"), ("mlflow", "create_run")]
)
def test_a_service_that_cannot_be_used_is_said_at_the_start_and_nothing_is_written(
    name, where, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, name, FAKES[name]({where}))
    monkeypatch.chdir(tmp_path)
    assert train_command([*TINY.split(), "--run-dir", "run", "--logger", name]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"CommError: the network is down in {where}; " in err
    assert {"wandb": "WANDB_MODE=offline", "mlflow": "MLFLOW_TRACKING_URI"}[name] in err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tables of a run without a service."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train_command([*TINY.split(), "--total-steps", "128", "--run-dir", str(folder)]) == 0
    return tables(folder)


def tables(folder):
    """The rows of each table, but for the times."""
    found = {}
    for name in FILES:
        with (folder / f"{name}.csv").open() as file:
            found[name] = [{key: row[key] for key in row if key != "wall_time"} for row in csv.DictReader(file)]
    return found


@pytest.mark.parametrize(
    ("name", "where", "count", "ended"),
    [
        ("wandb", "log", 3, 0),
        ("wandb", "finish", None, 1),
        ("mlflow", "log_batch", 3, 0),
        ("mlflow", "set_terminated", None, 1),
    ],
)
def test_a_service_that_fails_in_the_middle_costs_its_curves_alone(
    name, where, count, ended, whole, tmp_path, monkeypatch, capsys
):
    fake = FAKES[name]({where})
    monkeypatch.setitem(sys.modules, name, fake)
    assert (
        train_command([*TINY.split(), "--total-steps", "128", "--run-dir", str(tmp_path / "run"), "--logger", name])
        == 0
    )
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"--logger {name} failed: CommError: the network is down in {where}; " in err
    assert "the run's CSV files have all" in err
    assert tables(tmp_path / "run") == whole and len(whole["metrics"]) > 2
    assert count in (None, len(fake.logged)), "it is not tried again"
    assert fake.ended == ended


def columns(folder, table, names):
    """Of each column of a CSV file, `{step: number}`."""
    with (folder / f"{table}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: {int(row["step"]): float(row[name]) for row in rows} for name in names}


def assert_equal_to_the_files(folder, curve):
    """`curve(name)` gives `{step: number}`; of a step that was logged twice the numbers must be equal."""
    for table, prefix, names in (
        ("metrics", "update", ("value_loss", "kl", "entropy")),
        ("evaluations", "evaluation", ("mean_return", "std_return")),
    ):
        for name, expected in columns(folder, table, names).items():
            found = curve(f"{prefix}/{name}")
            assert found.keys() == expected.keys() and len(found) > 1, name
            for step, number in expected.items():
                assert math.isclose(found[step], number, rel_tol=1e-7), (name, step)


def wandb_records(folder):
    """The records in the offline files of a run, in order. Such a file is a log of LevelDB's kind: blocks of 32 KiB, in
    them parts with checksum, length and kind (1 whole, 2 first, 3 middle, 4 last); a record is a message of W&B's."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, whole = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            if 2**15 - at % 2**15 < 7:  # The rest of a block is too short for a part.
                at += 2**15 - at % 2**15
                continue
            _, length, kind = struct.unpack("<IHB", data[at : at + 7])
            whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                record = Record()
                record.ParseFromString(whole)
                yield record


def wandb_curve(folder, name):
    found = {}
    for record in wandb_records(folder):
        if record.WhichOneof("record_type") == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            if name in row:
                assert found.setdefault(row["step"], row[name]) == row[name]
    return found


@pytest.mark.slow
def test_wandb_offline_has_the_curves_of_the_files_also_of_a_run_that_resumed(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train_command([*TINY.split(), "--total-steps", "128", "--run-dir", "run", "--logger", "wandb"]) == 0
    known = json.loads((tmp_path / "run/wandb.json").read_text())["id"]
    assert train_command(["--resume", "run", "--total-steps", "256", "--logger=wandb"]) == 0
    ids = {record.run.run_id for record in wandb_records(tmp_path / "run") if record.WhichOneof("record_type") == "run"}
    assert ids == {known}, "a run that resumes continues its own"
    assert_equal_to_the_files(tmp_path / "run", lambda name: wandb_curve(tmp_path / "run", name))


@pytest.mark.slow
def test_wandb_groups_a_sweep(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [
        *TINY.split(),
        "--total-steps",
        "64",
        "--run-dir",
        "many",
        "--sweep",
        "gamma=0.9,0.99",
        "--logger",
        "wandb",
    ]
    assert train_command(words) == 0
    for folder in ("gamma=0.9", "gamma=0.99"):
        runs = [
            each.run for each in wandb_records(tmp_path / "many" / folder) if each.WhichOneof("record_type") == "run"
        ]
        assert {run.run_group for run in runs} == {"many"}
        assert_equal_to_the_files(
            tmp_path / "many" / folder, lambda name, at=folder: wandb_curve(tmp_path / "many" / at, name)
        )


@pytest.mark.slow
def test_wandb_without_a_login_names_offline(tmp_path):
    pytest.importorskip("wandb")
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    code = "import sys; from jaxrl.cli.main import train_command as train; sys.exit(train(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *TINY.split(), "--logger", "wandb"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "WANDB_MODE=offline" in run.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_mlflow_has_the_curves_of_the_files_also_of_a_run_that_resumed(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert train_command([*TINY.split(), "--total-steps", "128", "--run-dir", "run", "--logger", "mlflow"]) == 0
    assert train_command(["--resume", "run", "--total-steps", "256", "--logger", "mlflow"]) == 0
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("jaxrl").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["agent.gamma"] == "0.9"

    def curve(name):
        return {each.step: each.value for each in client.get_metric_history(run.info.run_id, name)}

    assert_equal_to_the_files(tmp_path / "run", curve)
