"""docs/on_device.md: its examples run, and the loop learns."""

import re
from pathlib import Path

import jax
import pytest

import jaxrl
from jaxrl import collect, make_device_envs

PAGE = (Path(jaxrl.__file__).parents[1] / "docs" / "on_device.md").read_text()
LOOP, OWN = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.slow
def test_the_loop_learns_cartpole():
    names = {}
    exec(LOOP, names)
    assert names["returns"].mean() > 400 and names["metrics"]["skipped_updates"].sum() == 0


def test_an_environment_of_ones_own():
    names = {}
    exec(OWN, names)
    envs = names["envs"]
    _, rollout = jax.jit(lambda state: collect(envs, state, lambda key, obs: (-obs, -obs), 101))(
        envs.reset(jax.random.key(0))
    )
    assert rollout.truncated.sum() == 8 and abs(rollout.obs[50:]).mean() < 0.3
    assert make_device_envs(names["Drift"](), 8) == envs
