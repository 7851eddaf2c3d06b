"""Runs from settings by name, wherever in a RunConfig each belongs."""

from jaxrl.algos.ppo import PPOConfig
from jaxrl.runs.algorithms import name_for
from jaxrl.runs.config import RunConfig


def run_config(env="CartPole-v1", agent=None, **settings):
    agent = PPOConfig() if agent is None else agent
    return RunConfig.of(name_for(agent), env, agent=agent, **settings)
