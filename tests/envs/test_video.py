"""Videos of episodes: as many as were run, of their frames, for as long as they were."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest

from jaxrl import train
from jaxrl.cli.main import evaluate_command
from jaxrl.envs.video import RecordedEnv, VideoRecorder, make_rendered
from jaxrl.errors import BadInput
from jaxrl.runs.config import default_run


class Counting(gym.Env):
    """Says in its pictures which step of which episode it is at; every episode has `length` steps."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, length, render_mode=None):
        self.length, self.render_mode, self.episode = length, render_mode, -1
        self.picture = np.zeros((66, 642, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.episode, self.at = self.episode + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.zeros(1, np.float32), 0.0, False, self.at == self.length, {}

    def render(self):
        self.picture[:] = 40 * (self.episode % 3) + 2 * self.at  # Over the last one.
        return self.picture


def play(path, length=21, episodes=2):
    recorder = VideoRecorder("CartPole-v1", path)
    env = RecordedEnv(Counting(length), recorder)
    for _ in range(episodes):
        env.reset()  # The last one before an episode's first step counts: an adapter resets twice.
        env.reset()
        while not env.step(np.zeros(1))[3]:
            pass
    env.reset()
    recorder.save()


def test_an_animation_holds_every_episode_at_25_pictures_a_second(tmp_path):
    play(tmp_path / "all.gif")
    pictures = imageio.imread(tmp_path / "all.gif", index=None)
    # The first picture of 21 steps, and every other after it; episode 0 was not played, nor were 2 and 4.
    shown = [40 * (episode % 3) + 2 * at for episode in (1, 3) for at in range(0, 21, 2)]
    assert pictures[:, 0, 0, 0].tolist() == pytest.approx(shown, abs=2)
    assert pictures.shape[1:] == (22, 214, 3)
    assert imageio.immeta(tmp_path / "all.gif")["duration"] == 40


def test_videos_have_the_size_of_the_environment(tmp_path):
    play(tmp_path / "videos")
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["episode-0.mp4", "episode-1.mp4"]
    for episode, name in ((1, "episode-0.mp4"), (3, "episode-1.mp4")):
        video = imageio.imread(tmp_path / "videos" / name, index=None)
        assert video.shape == (11, 66, 642, 3)
        assert video[:, 33, 300, 0] == pytest.approx([40 * (episode % 3) + 2 * at for at in range(0, 21, 2)], abs=6)


def test_a_policy_is_recorded_from_the_command_line(finished_run, tmp_path, capsys):
    video = tmp_path / "policy.webp"
    command = [str(finished_run), "--episodes", "2", "--max-episode-steps", "40", "--video", str(video)]
    assert evaluate_command(command) == 0
    assert "over 2 episodes" in capsys.readouterr().out
    assert 2 < imageio.improps(video, index=...).n_images <= 42
    assert video.stat().st_size < 3_000_000


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "done"
    train(replace(default_run("ppo", "CartPole-v1"), total_steps=256, eval_episodes=2, run_dir=str(folder)))
    return folder


@pytest.mark.parametrize(
    "name, words",
    [
        ("no/such.gif", "in a folder that is there"),
        ("full", "is there already"),
        ("file/videos", "not a folder that can be written to"),
        ("folder.webp", "must be a file"),
    ],
)
def test_it_writes_over_nothing_else(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    for folder in ("full", "folder.webp"):
        Path(folder).mkdir()
    for file in ("full/video.mp4", "file"):
        Path(file).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=words):
        VideoRecorder("CartPole-v1", Path(name))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_written_at_the_end_is_not_passed_over(finished_run, tmp_path, capsys, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert (
        evaluate_command([str(finished_run), "--max-episode-steps", "5", "--video", str(tmp_path / "video.gif")]) == 1
    )
    out, err = capsys.readouterr()
    assert "No space left" in err and "mean return" not in out


def test_what_cannot_draw_says_so_in_one_line(finished_run, tmp_path):
    script = Path(__file__).parents[2] / "experiments" / "evaluate.py"
    command = [
        sys.executable,
        str(script),
        str(finished_run),
        "--env",
        "HalfCheetah-v5",
        "--video",
        str(tmp_path / "video"),
    ]
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(command, env=env | {"MUJOCO_GL": "glfw"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot be drawn here" in done.stderr and "libegl1" in done.stderr
    assert not (tmp_path / "video").exists()


def test_the_camera_follows_where_the_model_has_one_that_does():
    renderer = make_rendered("HalfCheetah-v5", {}).unwrapped.mujoco_renderer
    assert renderer.model.camera(renderer.camera_id).name == "track"
    assert make_rendered("InvertedPendulum-v5", {}).unwrapped.mujoco_renderer.camera_id == -1
