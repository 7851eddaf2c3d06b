"""Every autoreset mode in every kind of vector environment gives the transitions, the episodes and the statistics that
a plain loop over single environments gives, byte for byte; and the loops learn the right value from each."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scripted import EPISODES, Scripted, ScriptedVector

import jaxrl
from jaxrl import Transition, make_envs
from jaxrl.data.normalize import normalize_rollout, normalizer_init
from jaxrl.envs.guard import guarded
from jaxrl.envs.processes import ProcessEnvs

GAMMA = 0.9
# Two environments that are never in step; both write every observation into one array.
SCRIPTS = EPISODES, EPISODES[2:] + EPISODES[:2]
MAKERS = [functools.partial(Scripted, episodes) for episodes in SCRIPTS]
ACTION = np.zeros((2, 1), np.float32)


def asynchronous(mode):
    if mode is AutoresetMode.SAME_STEP:  # Gymnasium's workers reset before they send: only ours, guarded, copy first.
        return ProcessEnvs([functools.partial(guarded, make, i) for i, make in enumerate(MAKERS)], mode, 60.0)
    return AsyncVectorEnv(MAKERS, context="spawn", autoreset_mode=mode)


KINDS = {
    "sync": lambda mode: SyncVectorEnv(MAKERS, autoreset_mode=mode),
    "async": asynchronous,
    "custom": lambda mode: ScriptedVector(MAKERS, mode),
}


def plain_loop(episodes, steps):
    """What one environment does, step after step: its transitions, and its episodes."""
    env, rows, finished, total, length = Scripted(episodes), [], [], 0.0, 0
    obs = np.array(env.reset()[0])
    for _ in range(steps):
        raw, reward, terminated, truncated, _ = env.step(np.zeros(1))
        rows.append((obs, reward, np.array(raw), terminated, truncated))
        obs, total, length = np.array(raw), total + reward, length + 1
        if terminated or truncated:
            finished.append((total, length))
            obs, total, length = np.array(env.reset()[0]), 0.0, 0
    return rows, finished


def collected(envs, steps):
    """A rollout in rows of their own, and the episodes of each environment."""
    rows, episodes = [], [[] for _ in range(envs.num_envs)]
    for _ in range(steps):
        rows.append(envs.step(ACTION))
        for index, episode_return, length in envs.finished:
            episodes[index].append((episode_return, length))
    return Transition(*(None if field[0] is None else np.stack(field) for field in zip(*rows, strict=True))), episodes


def assert_conforms(envs):
    normalizer = normalizer_init(2, 2, True, True)
    seen, discounted = [], []
    for _ in range(3):  # What is under way at the end of a rollout goes on in the next.
        rollout, episodes = collected(envs, 20)
        normalizer, _ = normalize_rollout(normalizer, rollout, GAMMA)
        seen.append((rollout, episodes))
    for index, script in enumerate(SCRIPTS):
        parts = [
            np.concatenate([getattr(r, name)[:, index][true_rows(r, index)] for r, _ in seen])
            for name in ("obs", "reward", "next_obs", "terminated", "truncated")
        ]
        expected, finished = plain_loop(script, len(parts[0]))
        assert len(expected) > 35
        types = np.float32, np.float32, np.float32, bool, bool
        for ours, theirs, kind in zip(parts, zip(*expected, strict=True), types, strict=True):
            assert ours.tobytes() == np.array(theirs, kind).tobytes()
        assert (parts[0][:, 0] == parts[2][:, 0]).all(), "a row links two episodes"
        assert [episode for _, episodes in seen for episode in episodes[index]] == finished
        total = 0.0
        for _, reward, _, terminated, truncated in expected:
            total = reward + GAMMA * total
            discounted.append(total)
            total *= not (terminated or truncated)
    acted_on = np.concatenate([r.obs[r.valid] if r.valid is not None else r.obs.reshape(-1, 2) for r, _ in seen])
    assert normalizer.obs.seen == normalizer.returns.seen == len(acted_on)
    np.testing.assert_allclose(normalizer.obs.mean, acted_on.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(normalizer.obs.var, acted_on.var(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(normalizer.returns.mean, np.mean(discounted), rtol=1e-12)
    np.testing.assert_allclose(normalizer.returns.var, np.var(discounted), rtol=1e-12)


def true_rows(rollout, index):
    return np.ones(len(rollout.reward), bool) if rollout.valid is None else rollout.valid[:, index]


CASES = [(kind, mode, "stop") for kind in KINDS for mode in AutoresetMode]
CASES += [("sync", mode, "reset") for mode in AutoresetMode]  # Every row then has a mask.


@pytest.mark.parametrize("kind, mode, on_fault", CASES, ids=lambda x: getattr(x, "name", x))
def test_it_is_as_if_each_environment_ran_alone(kind, mode, on_fault):
    envs = make_envs(KINDS[kind](mode), 2, 0, on_fault=on_fault)
    try:
        assert_conforms(envs)
    finally:
        envs.close()


@pytest.mark.parametrize("backend", ["gymnasium", "async"])
def test_environments_built_here_conform_too(backend):
    scripts = iter(MAKERS)
    make = (lambda: next(scripts)()) if backend == "gymnasium" else MAKERS[0]
    envs = make_envs(make, 2, 0, backend)
    try:
        if backend == "gymnasium":
            assert_conforms(envs)
            return
        rollout, _ = collected(envs, 30)
        expected, _ = plain_loop(SCRIPTS[0], 30)
        np.testing.assert_array_equal(rollout.next_obs[:, 0], [row[2] for row in expected])
        np.testing.assert_array_equal(rollout.next_obs[:, 1], rollout.next_obs[:, 0])
    finally:
        envs.close()


MUTATIONS = {
    "nothing, the control": ("", ""),
    "final_obs dropped": ("            next_obs = self._with_final(infos, ended)", "            pass"),
    "flags merged": (
        "return Transition(obs, action, narrowed(reward), next_obs, terminated, truncated, valid)",
        "return Transition(obs, action, narrowed(reward), next_obs, terminated | truncated, truncated, valid)",
    ),
    "ignored row kept": ("            valid = ~self._ended\n", "            valid = np.ones(self.num_envs, bool)\n"),
    "last observation not copied": ("            obs = copy.deepcopy(obs)\n", "            pass\n"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_in_the_adapter_does_not_pass(tmp_path, name):
    """Edits the package itself, in a copy, and runs the suite above on it."""
    package = Path(jaxrl.__file__).parent
    shutil.copytree(package, tmp_path / "jaxrl", ignore=shutil.ignore_patterns("__pycache__"))
    before, after = MUTATIONS[name]
    if before:
        [path] = [path for path in (tmp_path / "jaxrl").rglob("*.py") if before in path.read_text()]
        assert path.read_text().count(before) == 1
        path.write_text(path.read_text().replace(before, after))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-k",
        "alone and sync- and not async",
    ]
    run = subprocess.run(
        [*command, __file__, "--rootdir", str(tmp_path)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == (1 if before else 0), run.stdout[-2000:] + run.stderr[-2000:]
    assert re.search(r"\d (failed|passed)", run.stdout)
