"""A small task for the off-policy kernels, and random batches of it."""

import numpy as np
from gymnasium import spaces

from jaxrl import Transition

S, A = 3, 2
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (S,))
ACTIONS = spaces.Box(np.array([-2.0, 0.1], np.float32), np.array([2.0, 0.7], np.float32))


def random_batch(seed=0, size=48, actions=ACTIONS, **changes):
    rng = np.random.default_rng(seed)
    return Transition(
        obs=rng.normal(size=(size, S)),
        action=rng.uniform(actions.low, actions.high, (size, A)),
        reward=rng.normal(size=size),
        next_obs=rng.normal(size=(size, S)),
        terminated=rng.random(size) < 0.2,
        truncated=rng.random(size) < 0.2,
    )._replace(**changes)
