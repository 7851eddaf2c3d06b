# %% [markdown]
# # Your own loop around the kernels
#
# The kernels know nothing of environments. Here they are driven by a loop that has nothing of jaxrl's but `ppo_init`,
# `ppo_act`, `ppo_update` and the record `Transition`: eight plain Gymnasium environments in a list.

# %%
import gymnasium as gym
import jax
import matplotlib.pyplot as plt
import numpy as np

from jaxrl import PPOConfig, Transition, ppo_act, ppo_init, ppo_update

UPDATES = 100
NUM_ENVS, NUM_STEPS = 8, 128

# %% [markdown]
# The config holds what an update reads. Its numbers can be changed later without anything being compiled anew
# (`state.replace_config(gamma=0.9)`); what fixes the program's structure, such as the number of minibatches, cannot.

# %%
config = PPOConfig(
    num_epochs=10,
    num_minibatches=4,
    clip_eps=0.2,
    gae_lambda=0.8,
    gamma=0.98,
    actor_learning_rate=1e-3,
    critic_learning_rate=1e-3,
)
envs = [gym.make("CartPole-v1") for _ in range(NUM_ENVS)]
state = ppo_init(jax.random.key(0), config, envs[0].observation_space, envs[0].action_space)

act = jax.jit(ppo_act)
update = jax.jit(ppo_update, donate_argnums=0)  # The loop does not need the old state: its memory is reused.
rng = np.random.default_rng(0)

# %% [markdown]
# ## The one thing to get right
#
# A row's `next_obs` is what `env.step` returned, also at an episode's end, and the two flags are Gymnasium's own. The
# next episode's first observation goes into the next row's `obs`, and nowhere else. Then no row links two episodes,
# values are bootstrapped through a time limit and not through a fall, and there is nothing more to think of.


# %%
def collect(state, obs, episodes):
    """A rollout of `(NUM_STEPS, NUM_ENVS)` rows, and the observations to go on from."""
    rows = []
    for _ in range(NUM_STEPS):
        actions = act(state, obs).sample(rng)
        steps = [env.step(int(action)) for env, action in zip(envs, actions, strict=True)]
        next_obs, reward, terminated, truncated = (np.stack(each) for each in list(zip(*steps, strict=True))[:4])
        rows.append((obs, actions, reward.astype(np.float32), next_obs, terminated, truncated))
        obs = next_obs.copy()
        for index, env in enumerate(envs):
            episodes[index] += 1
            if terminated[index] or truncated[index]:
                obs[index], _ = env.reset()
                lengths.append(episodes[index])
                episodes[index] = 0
    return Transition(*(np.stack(field) for field in zip(*rows, strict=True))), obs


# %%
lengths, history = [], []
obs = np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(envs)])
episodes = [0] * NUM_ENVS
for _ in range(UPDATES):
    rollout, obs = collect(state, obs, episodes)
    state, metrics = update(state, rollout)
    history.append({name: float(value) for name, value in metrics.items()})
print(sorted(history[-1]))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(lengths, ".", ms=2, color="0.6")
if len(lengths) >= 20:
    left.plot(np.arange(19, len(lengths)), np.convolve(lengths, np.ones(20) / 20, "valid"))
left.set(xlabel="episode", ylabel="length, and mean of 20")
right.plot([row["explained_variance"] for row in history])
right.set(xlabel="update", ylabel="explained variance of the critic", ylim=(-0.5, 1.05))
# %% [markdown]
# ## The policy afterwards
#
# `ppo_act` gives a distribution; its `mode()` is the policy without noise.

# %%
env, returns = gym.make("CartPole-v1"), []
for seed in range(10):
    obs, _ = env.reset(seed=1000 + seed)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(int(act(state, obs[None]).mode()[0]))
        total, over = total + reward, terminated or truncated
    returns.append(total)
print("10 episodes without noise:", returns)
