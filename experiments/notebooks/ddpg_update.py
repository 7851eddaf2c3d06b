# %% [markdown]
# # One update of DDPG, by hand
#
# `ddpg_update(state, batch)` is all that DDPG learns by. Here the same update is done line by line, with nothing but
# `jax.numpy`, and at the end the two are compared. Read it beside `jaxrl/algos/ddpg.py`: the lines stand in the same order.

# %%
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

import jaxrl
from jaxrl import DDPGConfig, Transition, ddpg_init, ddpg_update

# %% [markdown]
# ## A batch
#
# 256 steps of Pendulum by a random policy. A row is one step: `(obs, action, reward, next_obs, terminated,
# truncated)`. When an episode is cut by its time limit, `next_obs` is the observation at the cut, not the first one
# of the next episode: nothing has ended there, so its value counts.

# %%
env = gym.make("Pendulum-v1")
env.action_space.seed(0)
obs, _ = env.reset(seed=0)
rows = []
for _ in range(256):
    action = env.action_space.sample()
    next_obs, reward, terminated, truncated, _ = env.step(action)
    rows.append((obs, action, np.float32(reward), next_obs, terminated, truncated))
    obs = next_obs
    if terminated or truncated:
        obs, _ = env.reset()
batch = Transition(*map(np.stack, zip(*rows, strict=True)))
print({name: field.shape for name, field in batch._asdict().items() if field is not None})
print("terminated", batch.terminated.sum(), "truncated", batch.truncated.sum())

# %% [markdown]
# ## A learner
#
# Two networks, each with a slow copy of itself, the target. The critic takes the action in after its first layer. At
# the beginning the copies are equal, which would hide a mistake: one update moves them apart first.

# %%
config = DDPGConfig(gamma=0.99, tau=0.005)
state = ddpg_init(jax.random.key(0), config, env.observation_space, env.action_space)
state, _ = ddpg_update(state, batch)
print(jax.tree.map(jnp.shape, state.critic.params))


# %%
def mu(params, obs):
    """The policy: two ReLU layers, and a tanh that ends at the bounds, here -2 and 2."""
    layers = params["params"]
    x = obs
    for name in ("Dense_0", "Dense_1"):
        x = jax.nn.relu(x @ layers[name]["kernel"] + layers[name]["bias"])
    return 2 * jnp.tanh(x @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"])


def Q(params, obs, action):
    """The value of an action: `(B,)`."""
    layers = params["params"]
    x = jax.nn.relu(obs @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
    x = jnp.concatenate([x, action], axis=-1)
    x = jax.nn.relu(x @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"])
    return (x @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"])[:, 0]


# %% [markdown]
# ## 1. The target
#
# $$ y = r + \gamma\,(1 - \text{terminated})\; Q'(s', \mu'(s')) $$
#
# Both networks in it are the slow copies. `truncated` does not occur.

# %%
next_action = mu(state.actor.target_params, batch.next_obs)
next_value = Q(state.critic.target_params, batch.next_obs, next_action)
target = batch.reward + config.gamma * (1 - batch.terminated) * next_value
print(target.shape, float(target.mean()))


# %% [markdown]
# ## 2. The critic
#
# It regresses $Q(s, a)$ on the target. The decay is *coupled*: it is added to the gradient, so that Adam scales it
# with the rest. (In AdamW it would not be.)


# %%
def critic_loss(params):
    return jnp.square(Q(params, batch.obs, batch.action) - target).mean()


def moments_of(learner):
    """Adam's running means of the gradient and of its square, and how many steps they have seen."""
    adam = next(part for part in jax.tree.leaves(learner.opt_state, is_leaf=is_adam) if is_adam(part))
    return adam.mu, adam.nu, adam.count


def is_adam(part):
    return hasattr(part, "mu") and hasattr(part, "nu")


def adam_step(learner, grads, rate):
    """One step of Adam, as in its paper."""
    m, v, count = moments_of(learner)
    t = count + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, grads)
    return jax.tree.map(
        lambda p, m, v: p - rate * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), learner.params, m, v
    )


loss, grads = jax.value_and_grad(critic_loss)(state.critic.params)
grads = jax.tree.map(lambda g, p: g + config.critic_weight_decay * p, grads, state.critic.params)
new_critic = adam_step(state.critic, grads, config.critic_learning_rate)
print("critic loss", float(loss), "->", float(critic_loss(new_critic)))


# %% [markdown]
# ## 3. The actor
#
# It climbs the critic, through the action: $\max \mathbb{E}[Q(s, \mu(s))]$. The critic in it is the *new* one.


# %%
def actor_loss(params):
    return -Q(new_critic, batch.obs, mu(params, batch.obs)).mean()


grads = jax.grad(actor_loss)(state.actor.params)
new_actor = adam_step(state.actor, grads, config.actor_learning_rate)
print("value of the policy's actions", -float(actor_loss(state.actor.params)), "->", -float(actor_loss(new_actor)))


# %% [markdown]
# ## 4. The slow copies
#
# $$ \theta' \leftarrow (1 - \tau)\,\theta' + \tau\,\theta $$


# %%
def follow(target_params, params):
    return jax.tree.map(lambda slow, new: (1 - config.tau) * slow + config.tau * new, target_params, params)


new_actor_target = follow(state.actor.target_params, new_actor)
new_critic_target = follow(state.critic.target_params, new_critic)

# %% [markdown]
# ## The same in one call
#
# `ddpg_update` is pure: it gives a new state and leaves the old one as it was.

# %%
new_state, metrics = jax.jit(ddpg_update)(state, batch)

by_hand = {"actor": new_actor, "critic": new_critic}
by_hand |= {"actor's target": new_actor_target, "critic's target": new_critic_target}
by_kernel = {"actor": new_state.actor.params, "critic": new_state.critic.params}
by_kernel |= {"actor's target": new_state.actor.target_params, "critic's target": new_state.critic.target_params}
for name in by_hand:
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), by_hand[name], by_kernel[name])
    farthest = max(jax.tree.leaves(apart))
    print(f"{name:16} furthest apart: {farthest:.1e}")
    assert farthest < 1e-5
assert np.isclose(float(metrics["critic_loss"]), float(loss), rtol=1e-5)

# %% [markdown]
# ## Another algorithm is another word
#
# TD3 and SAC take the same spaces, the same batch and the same calls. Replace `sac` by `td3` or `ddpg`; so does
# `--algo` in a command.

# %%
algo = "sac"
init, update = (getattr(jaxrl, f"{algo}_{part}") for part in ("init", "update"))
config = getattr(jaxrl, f"{algo.upper()}Config")()

learner = init(jax.random.key(0), config, env.observation_space, env.action_space)
update = jax.jit(update)
for _ in range(200):
    learner, metrics = update(learner, batch)
print(algo, {name: round(float(value), 2) for name, value in metrics.items()})
assert metrics["skipped_updates"] == 0
