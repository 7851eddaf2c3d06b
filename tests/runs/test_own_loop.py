"""A loop of one's own, on no environment, keeps a folder, checkpoints and tables, and resumes to the same bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from left_behind import tables

from jaxrl import BadInput, replay_add, replay_init
from jaxrl.data.transition import Transition
from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.loggers.csv_files import CsvFiles
from jaxrl.loggers.logger import Clock, Evaluation
from jaxrl.loggers.metrics import MetricsBuffer
from jaxrl.runs.checkpoints import Checkpoints
from jaxrl.runs.folder import RunFolder, claim_folder

MEANS = jnp.array([0.1, 0.9, 0.5])
METRICS = "loss", "reward"
TOTAL, SAVE_EVERY, LOG_EVERY = 60, 16, 10


class PowerCut(Exception):
    pass


@jax.jit
def update(learner):
    """One pull of a bandit with three arms, and a step of REINFORCE."""
    key, arm_key, noise_key = jax.random.split(learner["key"], 3)
    arm = jax.random.categorical(arm_key, learner["logits"])
    reward = MEANS[arm] + 0.1 * jax.random.normal(noise_key)
    loss, grad = jax.value_and_grad(lambda logits: -reward * jax.nn.log_softmax(logits)[arm])(learner["logits"])
    return {"logits": learner["logits"] - 0.5 * grad, "key": key}, jnp.stack([loss, reward])


def train(path, resume=False, cut_at=None):
    learner, saved = {"logits": jnp.zeros(3), "key": jax.random.key(7)}, {}
    with RunFolder(path if resume else claim_folder(path)) as folder:
        checkpoints = Checkpoints(folder.path)
        if resume:
            learner, saved, _ = checkpoints.load(like=learner)
            checkpoints.tidy_up()
        folder.write_config({"bandit": MEANS.tolist()})
        csv = CsvFiles(folder.path, METRICS, saved.get("rows"))
        clock = Clock(saved.get("step", 0), saved.get("wall_time", 0.0))
        buffer = MetricsBuffer(METRICS, saved.get("pending", ()))
        for step in range(saved.get("step", 0) + 1, TOTAL + 1):
            learner, metrics = update(learner)
            buffer.add(metrics)
            csv.episodes(step, [FinishedEpisode(0, float(metrics[1]), 1)], clock.wall_time)
            if step % LOG_EVERY == 0:
                buffer.close_row(step, clock.wall_time)
                for row in buffer.rows():
                    csv.metrics(*row)
                csv.progress(step, clock.steps_per_second(step), clock.wall_time)
                csv.evaluation(Evaluation(step, *[float(learner["logits"].max())] * 4, 1, clock.wall_time))
            if step % SAVE_EVERY == 0:
                notes = {"step": step, "rows": csv.sync(), "pending": buffer.pending(), "wall_time": clock.wall_time}
                checkpoints.save(learner, notes)
            if step == cut_at:
                raise PowerCut
        csv.close()
    return learner


def bits(learner):
    return np.asarray(learner["logits"]).tobytes(), np.asarray(jax.random.key_data(learner["key"])).tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return bits(train(folder)), tables(folder)


@pytest.mark.parametrize("cut_at", [16, 27, 45])  # Where it was saved, between rows, and after the second checkpoint.
def test_it_resumes_to_the_same_bits_and_the_same_rows(tmp_path, whole, cut_at):
    with pytest.raises(PowerCut):
        train(tmp_path / "run", cut_at=cut_at)
    learner = train(tmp_path / "run", resume=True)
    assert (bits(learner), tables(tmp_path / "run")) == whole
    assert [row[0] for row in whole[1]["metrics"]] == ["step", "10", "20", "30", "40", "50", "60"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, whole):
    with pytest.raises(PowerCut):
        train(tmp_path / "run", cut_at=45)
    (tmp_path / "run" / "checkpoints" / "latest.npz").write_bytes(b"rubbish")
    assert bits(train(tmp_path / "run", resume=True)) == whole[0]


REFUSED = {
    "no folder": (lambda path: RunFolder(path / "none"), "there is no folder"),
    "a folder with something in it": (claim_folder, "is not empty"),
    "a folder in use": (RunFolder, "another process trains there"),
    "no checkpoint": (lambda path: Checkpoints(path / "none").load({}), "there is no"),
    "another tree": (lambda path: Checkpoints(path).load({"weights": jnp.zeros(3)}), "another kind of state"),
    "no such note": (
        lambda path: Checkpoints(path).load(lambda notes: notes["x"]),
        "notes that are damaged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, name):
    call, words = REFUSED[name]
    with RunFolder(claim_folder(tmp_path / "run")) as folder:
        Checkpoints(folder.path).save({"logits": jnp.zeros(3)}, {})
        with pytest.raises(BadInput, match=words) as complaint:
            call(folder.path)
    assert "\n" not in str(complaint.value)


def test_a_replay_buffer_comes_back_beside_the_tree(tmp_path):
    row = functools.partial(np.full, (1,), dtype=np.float32)
    replay, checkpoints = replay_init(4, 1, 1), Checkpoints(tmp_path)
    for step in range(1, 7):
        flags = np.zeros(1, bool), np.zeros(1, bool)
        obs = row(step)[:, None]
        replay = replay_add(replay, Transition(obs, obs, row(step), obs, *flags))
        if step in (3, 6):
            checkpoints.save({"x": jnp.zeros(())}, {"step": step}, replay, stored=step)
    _, notes, filled = Checkpoints(tmp_path).load({"x": jnp.zeros(())}, replay_init(4, 1, 1))
    assert notes["step"] == 6 and int(filled.size) == 4
    np.testing.assert_array_equal(filled.rows.reward, replay.rows.reward)
