"""A study on a real Ray of two nodes: what one of them was doing when it was killed goes on at the other."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_study_files import SCRIPT, rows, rows_alone, run, study

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


def test_mistakes(tmp_path, cluster):
    folder = study(tmp_path, **{'"--checkpoint-every 500"': '"--nope"'})
    _, err = (process := start(folder, cluster.address)).communicate(timeout=120)
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert "exit code 2: " in err and "Unrecognized options: --nope" in err
    greedy = study(tmp_path / "greedy", **{"seeds =": "gpus = 2\nseeds ="})
    process = start(greedy, cluster.address)
    assert process.stdout.readline() == "2 runs, 0 done\n"
    assert process.stdout.readline() == "no node has 1 cores and 2 GPUs, which a run takes: waiting for one\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    for address, words in {"127.0.0.1:1": "cannot be reached", "here": "it must be HOST:PORT"}.items():
        _, err = (process := start(folder, address)).communicate(timeout=120)
        assert (process.returncode, err.count("\n")) == (2, 1), err
        assert words in err
