"""The end of a run names the commands that show it; each of them does what it says."""

import shlex
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from jaxrl.cli.main import main
from jaxrl.envs.video import can_be_recorded

TINY = "--num-envs 2 --num-steps 16 --num-minibatches 2 --num-epochs 1 --total-steps 32 --hidden-sizes 4,4"
TINY += " --eval-episodes 1"
MINE = """
import flax.linen as nn
import gymnasium as gym
from jaxrl import Categorical

class Bare(gym.Wrapper):
    pass

class Plain(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)
    metadata = {"render_modes": ["ansi"]}

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}

class Actor(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return Categorical(nn.Dense(2)(obs))

def small(observation_space, action_space):
    return Actor(), None

gym.register("Plain-v0", Plain, max_episode_steps=5)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "next_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("next_mine", None)
    gym.registry.pop("Plain-v0", None)


def said(command, capsys):
    """What stands after the line of a run's end: each command by its name."""
    assert main(["train", *command.split(), *TINY.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    [done] = [at for at, line in enumerate(lines) if line.startswith("done: ")]
    return {name: shlex.split(words) for name, _, words in (line.partition(":") for line in lines[done + 1 :])}


def test_each_command_of_a_run_does_what_it_says(capsys):
    pytest.importorskip("imageio_ffmpeg")
    found = said("--env Pendulum-v1 --run-dir runs/a'b", capsys)
    assert found == {
        "curve": ["jaxrl", "plot", "runs/a'b"],
        "policy": ["jaxrl", "evaluate", "runs/a'b"],
        "film": ["jaxrl", "evaluate", "runs/a'b", "--video"],
    }
    assert main(found["curve"][1:]) == 0 and Path("plots/returns.png").is_file()
    assert main(found["policy"][1:]) == 0 and "mean return" in capsys.readouterr().out
    assert main([*found["film"][1:], "--episodes", "1", "--max-episode-steps", "5"]) == 0
    assert Path("runs/a'b/video/episode-0.mp4").is_file()


def test_code_of_the_users_own_is_named_and_what_cannot_be_drawn_is_not_filmed(capsys):
    flags = "--env next_mine:Plain-v0 --wrapper next_mine:Bare --networks next_mine:small --eval-every none --run-dir r"
    found = said(flags, capsys)
    assert found.keys() == {"policy"}, "nothing was evaluated, nothing draws"
    assert main(found["policy"][1:]) == 0 and "mean return" in capsys.readouterr().out
    assert main(found["policy"][1:3]) == 2, "without the names it would not run"


def test_what_says_that_it_draws_frames_can_be_recorded():
    import next_mine  # noqa: F401

    gym.register("Made-v0", lambda: gym.make("CartPole-v1"))
    gym.register("Drawn-v0", type(gym.make("CartPole-v1").unwrapped))
    drawn = [env for env in ("CartPole-v1", "Ant-v5", "Drawn-v0", "Plain-v0", "Made-v0") if can_be_recorded(env)]
    assert drawn == ["CartPole-v1", "Ant-v5", "Drawn-v0"]
    gym.registry.pop("Made-v0")
    gym.registry.pop("Drawn-v0")
