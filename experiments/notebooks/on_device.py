# %% [markdown]
# # The whole loop on the device
#
# gymnax has environments that are JAX functions, MinAtar's small Atari games among them. With one of them collecting
# and learning are one program. Here it trains two seeds at once, and the host does nothing between its begin and its
# end.
#
# gymnax is an extra, `pip install 'jaxrl-kernels[gymnax]'`. Without it, `"jax", "CartPole-v1"` in the first cell takes
# a task that is built in.

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxrl import (
    PPOConfig,
    RunConfig,
    behaviour_policy,
    collect,
    evaluate_on_device,
    make_device_envs,
    ppo_act,
    ppo_init,
    ppo_update,
    train,
)

BACKEND, TASK = "gymnax", "Breakout-MinAtar"
SEEDS = 2
UPDATES = 100
NUM_ENVS, NUM_STEPS = 64, 64

envs = make_device_envs(TASK, NUM_ENVS, BACKEND)
print(f"{TASK}: observations {envs.observation_space.shape}, {envs.action_space.n} actions, limit {envs.time_limit}")

# %% [markdown]
# ## One program
#
# `collect` gives the very record that `ppo_update` takes, with true successors and both flags of an episode's end. All
# keys of the environments are in `env_state`. The mean return of a rollout's episodes is estimated: it is the sum of
# its rewards over the number of episodes that ended in it.

# %%
config = PPOConfig(num_epochs=4, num_minibatches=8, actor_learning_rate=1e-3, critic_learning_rate=1e-3)


def train_one(key):
    first, second = jax.random.split(key)
    state = ppo_init(first, config, envs.observation_space, envs.action_space)

    def update(carry, _):
        state, env_state = carry
        env_state, rollout = collect(envs, env_state, behaviour_policy("ppo", state), NUM_STEPS)
        state, metrics = ppo_update(state, rollout)
        ends = (rollout.terminated | rollout.truncated).sum()
        return (state, env_state), (rollout.reward.sum() / jnp.maximum(ends, 1), metrics["entropy"])

    (state, _), curves = jax.lax.scan(update, (state, envs.reset(second)), length=UPDATES)
    return state, curves


# %% [markdown]
# `vmap` makes it several seeds. The kernels and the environments are pure, so nothing else changes. The time is that of
# the processor, because other work may share it.

# %%
keys = jax.random.split(jax.random.key(0), SEEDS)
began = time.process_time()
program = jax.jit(jax.vmap(train_one)).lower(keys).compile()
print(f"compiled in {time.process_time() - began:.1f} s of the processor")
began = time.process_time()
states, (returns, entropy) = jax.block_until_ready(program(keys))
seconds, steps = time.process_time() - began, SEEDS * UPDATES * NUM_ENVS * NUM_STEPS
print(f"{steps:,} steps in {seconds:.1f} s of the processor: {steps / seconds:,.0f} steps/s")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
at = np.arange(1, UPDATES + 1) * NUM_ENVS * NUM_STEPS / 1000
left.plot(at, np.asarray(returns).T)
left.set(xlabel="thousand steps of one seed", ylabel="mean return in a rollout", title=TASK)
right.plot(at, np.asarray(entropy).T)
right.set(xlabel="thousand steps of one seed", ylabel="entropy of the policy")
# %% [markdown]
# ## The policies afterwards
#
# `evaluate_on_device` runs whole episodes, the same number in every environment, under the most probable actions.


# %%
@jax.jit
@jax.vmap
def evaluate(state):
    return evaluate_on_device(envs, lambda obs: ppo_act(state, obs).mode(), jax.random.key(1), num_episodes=20)


for seed, (episodes, lengths) in enumerate(zip(*evaluate(states), strict=True)):
    print(f"seed {seed}: mean return {episodes.mean():.1f}, mean length {lengths.mean():.0f}")

# %% [markdown]
# ## The same as a run
#
# With `env_backend` the command and `train` do the same, and leave what every run leaves: tables, checkpoints to resume
# from, and a policy that `load_policy` and `jaxrl evaluate` read.

# %%
run = RunConfig.of(
    "ppo", TASK, env_backend=BACKEND, total_steps=UPDATES * NUM_ENVS * NUM_STEPS // 10, num_envs=NUM_ENVS,
    num_steps=NUM_STEPS, num_epochs=4, num_minibatches=8, actor_learning_rate=1e-3, critic_learning_rate=1e-3,
    eval_every=None, run_dir="run",
)  # fmt: skip
result = train(run)
print(sorted(path.name for path in result.run_dir.iterdir() if not path.name.startswith("events")))
