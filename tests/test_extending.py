"""docs/extending.md: each of its examples runs, from Python and by the command. An algorithm and a network of one's own
have what the built-in ones have."""

import csv
import dataclasses
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import BadInput, RunConfig, load_policy, register, train, train_many
from jaxrl.cli.main import main
from jaxrl.runs.algorithms import ROWS, find
from jaxrl.runs.record import load_run

ROOT = Path(jaxrl.__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(
    zip(("reinforce", "networks", "walk", "best"), re.findall(r"```python\n(.*?)```", PAGE, re.S), strict=True)
)
TINY = "--env CartPole-v1 --num-envs 2 --num-steps 16 --total-steps 320 --eval-episodes 2 --eval-every 160"
TINY += " --checkpoint-every 64 --log-every 32"
SMALL = {"total_steps": 320, "num_envs": 2, "num_steps": 16, "eval_every": 160, "eval_episodes": 2}
SMALL |= {"checkpoint_every": 64, "log_every": 32}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the examples in files, as a user has them."""
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in EXAMPLES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("jaxrl.runs.algorithms.ROWS", dict(ROWS))
    return tmp_path


def digest(folder):
    """Of all that a run has learned."""
    with np.load(Path(folder) / "checkpoints" / "latest.npz") as arrays:
        names = sorted(name for name in arrays.files if name.startswith("state."))
        assert names
        return hashlib.sha256(b"".join(arrays[name].tobytes() for name in names)).hexdigest()


def line_of(command, capfd):
    """What a command says that is refused."""
    assert main(command) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    return err


KILLED = """
import os, signal, sys
from jaxrl import RunConfig, train
from reinforce import REINFORCE
run = RunConfig.of(REINFORCE, "CartPole-v1", run_dir="cut", **{settings})
train(run, lambda snapshot: os.kill(os.getpid(), signal.SIGKILL) if snapshot.step > 200 else None)
"""


def test_an_algorithm_of_ones_own_is_killed_and_goes_on_to_the_same_bits(folder, capfd):
    assert EXAMPLES["reinforce"].count("\n") <= 80
    assert main(["train", "--algo", "reinforce:REINFORCE", *TINY.split(), "--run-dir", "whole"]) == 0
    from reinforce import REINFORCE, Actor

    code = KILLED.format(settings=SMALL)
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode
        == -9
    )
    assert "named reinforce" not in line_of(["train", "--resume", "whole", "--algo", "ppo"], capfd)
    result = train(load_run("cut", REINFORCE))
    assert result.step >= 320
    assert digest("cut") == digest("whole")
    with Path("whole/metrics.csv").open() as file:
        assert list(csv.DictReader(file))[-1].keys() == {"step", "loss", "return", "wall_time"}
    policy = load_policy("whole", actor=Actor(2))
    assert policy(np.zeros(4, np.float32)) in (0, 1)
    with pytest.raises(BadInput, match="actor="):
        load_policy("whole")


def test_an_algorithm_of_ones_own_is_named_again_where_it_goes_on(capfd):
    command = ["train", "--algo", "reinforce:REINFORCE", *TINY.split(), "--run-dir", "run"]
    assert main(command) == 0
    capfd.readouterr()
    ROWS_NOW = sys.modules["jaxrl.runs.algorithms"].ROWS
    ROWS_NOW.pop("reinforce:REINFORCE")
    assert "an algorithm of your own: name it too" in line_of(["train", "--resume", "run"], capfd)
    again = ["train", "--resume", "run", "--algo", "reinforce:REINFORCE", "--total-steps", "352"]
    assert main(again) == 0
    assert main(["evaluate", "run", "--episodes", "1"]) == 2  # Its network is one's own too.


def test_a_run_goes_on_under_either_name_of_its_algorithm():
    from reinforce import REINFORCE

    settings = {**SMALL, "total_steps": 64, "eval_every": None}
    train(RunConfig.of(REINFORCE, "CartPole-v1", run_dir="python", **settings))
    again = ["train", "--resume", "python", "--algo", "reinforce:REINFORCE", "--total-steps", "96"]
    assert main(again) == 0
    train(RunConfig.of("reinforce:REINFORCE", "CartPole-v1", run_dir="named", **settings))
    assert train(dataclasses.replace(load_run("named", REINFORCE), total_steps=96)).step >= 96


def test_a_number_of_ones_own_algorithm_is_swept(capfd):
    command = ["train", "--algo", "reinforce:REINFORCE", *TINY.split(), "--run-dir", "swept"]
    assert main([*command, "--sweep", "learning_rate=0.001,0.01"]) == 0
    with Path("swept/results.csv").open() as file:
        assert [row["learning_rate"] for row in csv.DictReader(file)] == ["0.001", "0.01"]
    assert "can sweep gamma, learning_rate" in line_of([*command[:-1], "other", "--sweep", "hidden=1,2"], capfd)


def test_it_has_help_of_its_own(capfd):
    with pytest.raises(SystemExit) as end:
        main(["train", "--algo", "reinforce:REINFORCE", "--help"])
    text = capfd.readouterr().out
    assert end.value.code == 0
    assert "--learning-rate FLOAT" in text and "Adam's learning rate." in text and "(default: 0.003)" in text
    assert "--clip-eps" not in text and "--buffer-size" not in text


def changed(**parts):
    from reinforce import REINFORCE

    return REINFORCE._replace(**parts)


def with_metrics(metrics):
    from reinforce import update

    return lambda state, rollout: (update(state, rollout)[0], metrics)


REFUSED = {
    "no function": (lambda: changed(update=None), "reinforce has None as update: it must be a function"),
    "half an update": (lambda: changed(update_actor=len), "it must have both or none"),
    "a loop that is none": (lambda: changed(loop="sideways"), "on_policy, off_policy or a function"),
    "another loop's settings": (lambda: changed(loop="off_policy"), "whose settings must be ReplaySettings"),
    "no metric": (lambda: changed(metrics=()), "one or more"),
    "a metric that is missing": (lambda: changed(update=with_metrics({"loss": jnp.zeros(())})), "lacks return"),
    "a metric beside": (
        lambda: changed(update=with_metrics(dict.fromkeys(("loss", "return", "x"), jnp.zeros(())))),
        "gives x beside them",
    ),
    "a metric of several numbers": (
        lambda: changed(update=with_metrics(dict.fromkeys(("loss", "return"), jnp.zeros(2)))),
        "a metric must be a scalar",
    ),
    "metrics that are no dict": (lambda: changed(update=with_metrics(jnp.zeros(2))), "must be a dict by name"),
    "a state of another type": (
        lambda: changed(update=lambda state, _: (state.replace(num_updates=0.5), {"loss": 0.0, "return": 0.0})),
        "it must keep shapes and types",
    ),
    "an update that gives one thing": (lambda: changed(update=lambda state, _: state), "a state and its metrics"),
    "an actor that is none": (
        lambda: changed(init=lambda key, config, *spaces: sys.modules["reinforce"].State(3, jnp.zeros(()), config)),
        "it must be a Flax TrainState",
    ),
    "a state without its parts": (lambda: changed(init=lambda *_: {"w": 1.0}), "without actor"),
    "another act than the actor": (
        lambda: changed(act=lambda state, obs: jaxrl.Categorical(jnp.ones((len(obs), 2)) * jnp.arange(2.0))),
        "it must be state.actor.apply_fn",
    ),
    "the name of a built-in": (lambda: changed(name="ppo"), "give it another"),
    "a name of two words": (lambda: changed(name="my algorithm"), "one word"),
    "a config without a default": (
        lambda: changed(config=dataclasses.make_dataclass("Bare", ["gamma"])),
        "no default for gamma",
    ),
    "a setting that every run has": (
        lambda: changed(config=dataclasses.make_dataclass("Odd", [("seed", int, 3)])),
        "has a setting seed, which stands elsewhere in a run",
    ),
    "a distribution that cannot be sampled": (
        lambda: changed(
            init=lambda *given: (state := sys.modules["reinforce"].init(*given)).replace(
                actor=state.actor.replace(apply_fn=lambda params, obs: jaxrl.Deterministic(obs[:, :1]))
            )
        ),
        "gives a Deterministic without sample: it must be a distribution",
    ),
    "a loop with a buffer for whole numbers": (
        lambda: changed(loop="off_policy", settings=jaxrl.ReplaySettings),
        "Discrete is not supported by the loop off_policy",
    ),
    "no row at all": (lambda: 3, "it must be a jaxrl.Algorithm"),
}


@pytest.mark.parametrize("row, words", REFUSED.values(), ids=REFUSED)
def test_a_row_that_cannot_work_is_refused_before_anything_is_written(folder, row, words):
    before = sorted(folder.iterdir())
    with pytest.raises(BadInput) as complaint:
        algorithm = row()
        train(RunConfig(env="CartPole-v1", total_steps=64), algorithm=algorithm)
    assert words in str(complaint.value) and "\n" not in str(complaint.value)
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize(
    "name, words",
    [
        ("nomodule:ROW", "algorithm nomodule:ROW cannot be imported: No module named 'nomodule'"),
        ("reinforce:NOTHING", "reinforce has no NOTHING"),
        ("reinforce:Actor", "is a type: it must be a jaxrl.Algorithm"),
        ("pppo", "must be ppo, ppo_kl, ddpg, td3, sac"),
    ],
)
def test_a_row_that_is_not_there_is_refused(folder, name, words, capfd):
    assert words in line_of(["train", "--algo", name, "--run-dir", "run"], capfd)
    assert not (folder / "run").exists()


def test_a_setting_by_its_name_goes_where_it_belongs():
    from reinforce import REINFORCE

    run = RunConfig.of(REINFORCE, "CartPole-v1", gamma=0.5, num_steps=8, total_steps=99)
    assert (run.agent.gamma, run.loop.num_steps, run.total_steps, run.algo) == (0.5, 8, 99, "reinforce")
    assert run.with_settings(gamma=0.6, num_steps=4).agent.gamma == 0.6
    with pytest.raises(BadInput, match="reinforce has no setting gama; perhaps you meant gamma"):
        RunConfig.of(REINFORCE, "CartPole-v1", gama=0.5)
    with pytest.raises(BadInput, match=r"RunConfig has no num_steps: RunConfig.of\(algo, env, num_steps"):
        RunConfig(num_steps=8)
    with pytest.raises(BadInput, match="it must be a PPOConfig with ppo"):
        RunConfig(algo="ppo", agent=jaxrl.DDPGConfig())
    no_gamma = dataclasses.make_dataclass("NoGamma", [("rate", float, 0.1)])
    row = changed(name="no_gamma", config=no_gamma)
    with pytest.raises(BadInput, match="normalize_reward needs a discount"):
        train(RunConfig.of(row, "CartPole-v1", normalize_reward=True))


def one_rollout(run, training, runner, policy_now):
    """A loop of one's own: two steps, then an update from them."""
    from jaxrl.training.scheduler import Update, take_step

    while runner.after_update():
        policy, rows = policy_now(), []
        for _ in range(run.loop.length):
            action = policy(training.envs.obs).sample(training.rng)
            rows.append(take_step(training, runner, action))
        columns = zip(*rows, strict=True)
        yield Update(type(rows[0])(*(None if column[0] is None else np.stack(column) for column in columns)))


def test_a_loop_of_ones_own_with_settings_of_its_own_is_resumed():
    settings = dataclasses.make_dataclass("Length", [("length", int, 4)], frozen=True)
    row = changed(name="by_hand", loop=one_rollout, settings=settings)
    register(row)
    run = RunConfig.of(row, "CartPole-v1", total_steps=96, num_envs=2, length=6, eval_every=None, checkpoint_every=24)
    whole = train(dataclasses.replace(run, run_dir="whole"))
    assert whole.step >= 96 and int(whole.state.num_updates) >= 8
    train(dataclasses.replace(run, run_dir="cut"), lambda snapshot: snapshot.step < 48)
    train(load_run("cut"))
    assert digest("cut") == digest("whole")
    two = train_many(dataclasses.replace(run, num_seeds=2, run_dir="two"))
    assert jax.tree.all(jax.tree.map(np.array_equal, two[0].state.actor.params, whole.state.actor.params))


def test_a_loop_that_yields_something_else_is_refused():
    def odd(run, training, runner, policy_now):
        yield {"rollout": 1}

    row = changed(name="odd", loop=odd, settings=dataclasses.make_dataclass("Nothing", [], frozen=True))
    with pytest.raises(BadInput, match="the loop yielded a dict: it must yield Update"):
        train(RunConfig.of(row, "CartPole-v1", total_steps=8, eval_every=None))


def test_networks_by_name_are_trained_resumed_and_evaluated(folder, capfd):
    command = ["train", "--algo", "ppo", *TINY.split(), "--num-minibatches", "2", "--num-epochs", "1"]
    command += ["--no-anneal-learning-rate", "--networks", "networks:normalised"]
    assert main([*command, "--num-seeds", "2", "--run-dir", "many"]) == 0
    assert main([*command, "--run-dir", "alone"]) == 0
    assert digest("alone") == digest("many/seed-0")
    assert load_run("alone").networks == "networks:normalised"
    capfd.readouterr()
    assert "say --networks networks:normalised" in line_of(["train", "--resume", "alone"], capfd)
    resume = ["train", "--resume", "alone", "--networks", "networks:normalised", "--total-steps", "352"]
    assert main(resume) == 0
    assert main(["evaluate", "alone", "--episodes", "1"]) == 2
    assert main(["evaluate", "alone", "--episodes", "1", "--networks", "networks:normalised"]) == 0


NETWORKS = """
import flax.linen as nn, jax.numpy as jnp
class Actor(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.tanh(nn.Dense(1)(nn.relu(nn.LayerNorm()(nn.Dense(16)(obs)))))
class Critic(nn.Module):
    @nn.compact
    def __call__(self, obs, action):
        x = nn.relu(nn.LayerNorm()(nn.Dense(16)(jnp.concatenate([obs, action], -1))))
        return jnp.squeeze(nn.Dense(1)(x), -1)
def make(observation_space, action_space):
    return Actor(), Critic()
"""


def test_ddpg_with_layer_normalisation_goes_on_to_the_same_bits(folder):
    (folder / "with_norm.py").write_text(NETWORKS)
    run = RunConfig.of(
        "ddpg", "Pendulum-v1", total_steps=120, learning_starts=40, batch_size=8, buffer_size=100, eval_every=None,
        checkpoint_every=40, networks="with_norm:make",
    )  # fmt: skip
    train(dataclasses.replace(run, run_dir="whole"))
    train(dataclasses.replace(run, run_dir="cut"), lambda snapshot: snapshot.step < 80)
    train(load_run("cut"))
    assert digest("cut") == digest("whole")


def test_networks_that_an_algorithm_does_not_take_are_refused():
    from reinforce import REINFORCE

    with pytest.raises(BadInput, match="init of reinforce takes no actor and critic"):
        train(RunConfig.of(REINFORCE, "CartPole-v1", networks="networks:normalised"))


def test_an_environment_and_a_logger_of_ones_own(capfd):
    text = re.search(r"jaxrl (train --env walk:Walk-v0.*)", PAGE)[1]
    assert main([*text.replace("10000", "512").split(), "--eval-every", "none"]) == 0
    names = {}
    exec(compile(EXAMPLES["best"].replace("2048", "256").replace("1024", "256"), "best.py", "exec"), names)
    assert names["best"].mean_return > 0


def test_each_command_of_the_page_is_one(folder):
    from jaxrl.cli.arguments import parse_run

    commands = [line for line in re.findall(r"^jaxrl train (.*)$", PAGE, re.M) if "--resume" not in line]
    assert len(commands) >= 4
    for line in commands:
        assert parse_run(line.split()).run_dir is not None or "--sweep" in line
    assert find("reinforce:REINFORCE").name == "reinforce"


PIXELS = """
import flax.linen as nn, gymnasium as gym, jax.numpy as jnp, numpy as np
class Spot(gym.Env):
    '''A bright spot; the reward is for the action that says on which side it is.'''
    observation_space = gym.spaces.Box(0, 255, (6, 6, 1), np.uint8)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    def picture(self):
        self.column = int(self.np_random.integers(6))
        picture = np.zeros((6, 6, 1), np.uint8)
        picture[2, self.column] = 255
        return picture
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.picture(), {}
    def step(self, action):
        reward = float(action[0]) * (1 if self.column > 2 else -1)
        self.count += 1
        return self.picture(), reward, False, self.count == 8, {}
def seen(obs):
    x = obs.reshape(*obs.shape[:-1], 6, 6, 1) / 255
    return nn.relu(nn.Conv(4, (3, 3), strides=2)(x)).reshape(*obs.shape[:-1], -1)
class Actor(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return nn.tanh(nn.Dense(1)(seen(obs)))
class Critic(nn.Module):
    @nn.compact
    def __call__(self, obs, action):
        x = nn.relu(nn.Dense(16)(jnp.concatenate([seen(obs), action], -1)))
        return jnp.squeeze(nn.Dense(1)(x), -1)
def make(observation_space, action_space):
    return Actor(), Critic()
"""


def test_pixels_are_learned_from_by_a_network_that_takes_them(folder):
    (folder / "pixels.py").write_text(PIXELS)
    import pixels

    run = RunConfig.of(
        "ddpg", pixels.Spot, total_steps=96, learning_starts=32, batch_size=8, buffer_size=64, eval_every=96,
        eval_episodes=1, checkpoint_every=32, networks=pixels.make,
    )  # fmt: skip
    whole = train(dataclasses.replace(run, run_dir="whole"))
    [*_, part] = sorted(Path("whole/checkpoints").glob("replay-*.npz"))
    with np.load(part) as arrays:
        assert arrays["rows.obs"].dtype == np.uint8 and set(np.unique(arrays["rows.obs"])) == {0, 255}
    train(dataclasses.replace(run, run_dir="cut"), lambda snapshot: snapshot.step < 64)
    resumed = train(dataclasses.replace(load_run("cut"), env=pixels.Spot, networks=pixels.make))
    assert resumed.step == 96 and int(resumed.state.num_updates) == int(whole.state.num_updates)
    picture = np.zeros((6, 6, 1), np.uint8)
    assert load_policy("whole", networks=pixels.make)(picture).shape == (1,)
    assert whole.state.actor.params["params"]["Conv_0"]["kernel"].shape == (3, 3, 1, 4)
    with pytest.raises(BadInput, match="networks of your own can take pixels"):
        train(dataclasses.replace(run, networks=None))
