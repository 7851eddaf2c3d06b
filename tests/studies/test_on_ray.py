"""A study on a real Ray of two nodes: what one of them was doing when it was killed goes on at the other. And a search
there."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_study_files import SCRIPT, rows, rows_alone, run, study

from jaxrl.studies.study_run import JAXRL

ray = pytest.importorskip("ray", reason="Ray has no wheel for this Python")

from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow  # A minute; .ci/run runs it by itself.


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def start(folder, address):
    command = [sys.executable, str(SCRIPT), "study.toml", "--ray", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def until(process, true):
    end = time.monotonic() + 120
    while not true():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def test_a_lost_node_loses_no_run(tmp_path, cluster):
    second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    cut = study(tmp_path / "cut", steps=20_000)
    runs = [cut / f"runs/studies/small/CartPole-v1/clip-0.2/seed-{seed}" for seed in "01"]
    logs = [folder.with_suffix(".log") for folder in runs]
    process = start(cut, cluster.address)
    until(process, lambda: all((folder / "checkpoints/latest.npz").is_file() for folder in runs))
    cluster.remove_node(second, allow_graceful=False)
    # The one that lost its node waits for the other's core, and goes on there.
    until(process, lambda: any("resuming" in log.read_text() for log in logs))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, process.communicate()
    stopped = [folder for folder in runs if not (folder / "done").exists()]
    assert len(stopped) == 1
    # It saved what it had: not only what its checkpoints' interval would have kept.
    assert "stopped" in stopped[0].with_suffix(".log").read_text()
    assert run(cut)[0] == 0
    assert rows(cut) == rows_alone(tmp_path, 20_000)


def tune(folder, address):
    words = f"tune --ray {address} --trials 3 --space space.toml --folder search --seed 5 --env CartPole-v1 --gamma 0.9"
    words += " --num-envs 2 --num-steps 25 --num-minibatches 1 --num-epochs 1 --hidden-sizes 4 --total-steps 1500"
    words += " --eval-every 100 --eval-episodes 1 --eval-max-steps 20 --num-threads 1 --checkpoint-every 200"
    command = [*JAXRL, *words.split()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def test_a_search_runs_its_trials_there_and_goes_on_where_it_was_stopped(tmp_path, cluster):
    optuna = pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text("[space]\ngamma = {low = 0.8, high = 0.999}\n")
    process = tune(tmp_path, cluster.address)
    until(process, lambda: (tmp_path / "search/trial-1/seed-5/checkpoints/latest.npz").is_file())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, ""), err
    assert out.startswith("trial-0: --gamma 0.9: "), "the first trial is the start"
    # The run was told: it saved what it had.
    assert "stopped by SIGINT" in (tmp_path / "search/trial-1/seed-5.log").read_text()
    out, err = (process := tune(tmp_path, cluster.address)).communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resuming" in (tmp_path / "search/trial-1/seed-5.log").read_text()
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{tmp_path}/search/trials.db")
    ended = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert sorted(trial.user_attrs["named"] for trial in ended) == ["trial-0", "trial-1", "trial-3"]
    assert "best of" in out and "jaxrl study" in out
    _, err = (process := tune(tmp_path, "127.0.0.1:1")).communicate(timeout=300)
    assert (process.returncode, err.count("\n")) == (2, 1) and "cannot be reached" in err


def test_mistakes(tmp_path, cluster):
    folder = study(tmp_path, **{'"--checkpoint-every 500"': '"--nope"'})
    _, err = (process := start(folder, cluster.address)).communicate(timeout=300)
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert "exit code 2: " in err and "Unrecognized options: --nope" in err
    greedy = study(tmp_path / "greedy", **{"seeds =": "gpus = 2\nseeds ="})
    process = start(greedy, cluster.address)
    assert process.stdout.readline() == "2 runs, 0 done\n"
    assert process.stdout.readline() == "no node has 1 cores and 2 GPUs, which a run takes: waiting for one\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    for address, words in {"127.0.0.1:1": "cannot be reached", "here": "it must be HOST:PORT"}.items():
        _, err = (process := start(folder, address)).communicate(timeout=300)
        assert (process.returncode, err.count("\n")) == (2, 1), err
        assert words in err
