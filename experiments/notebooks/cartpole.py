# %% [markdown]
# # PPO with a KL penalty learns CartPole
#
# A pole stands on a cart; the policy pushes the cart left or right, and each step that the pole stays up is worth 1.
# An episode ends when the pole falls, or is cut after 500 steps.
#
# PPO improves the policy on what it has just seen, and must not go too far from the policy that saw it. Here a
# penalty holds it back:
#
# $$ \max_\theta\; \mathbb{E}\left[\frac{\pi_\theta(a|s)}{\pi_{old}(a|s)} A(s,a)\right] - \beta\, \mathbb{E}\left[KL(\pi_{old}(\cdot|s)\,\|\,\pi_\theta(\cdot|s))\right] $$
#
# and after every update the coefficient $\beta$ is doubled if the policy went further than 1.5 times a target, and
# halved if it stayed within the target / 1.5.

# %%
import csv
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

from jaxrl import train_many
from jaxrl.cli.main import evaluate_command
from jaxrl.runs.config import default_run

STEPS = 100_000
SEEDS = 3

# %% [markdown]
# `default_run` gives the settings that the command line would start from. A run is an ordinary dataclass: change what
# you like.

# %%
run = replace(
    default_run("ppo_kl", "CartPole-v1"),
    total_steps=STEPS,
    num_seeds=SEEDS,
    eval_every=10_000,
    eval_episodes=20,
    log_every=1,
)
print(run.agent)

# %%
results = train_many(run)

# %% [markdown]
# ## Returns
#
# Each evaluation plays 20 episodes with the most probable action, in environments of its own.

# %%
figure, panel = plt.subplots(figsize=(6, 3.5))
for result in results:
    steps = [evaluation.step for evaluation in result.evaluations]
    returns = [evaluation.mean_return for evaluation in result.evaluations]
    panel.plot(steps, returns, marker="o", ms=3, label=f"seed {result.run.seed}")
panel.set(xlabel="environment steps", ylabel="return, mean of 20 episodes", ylim=(0, 520))
panel.legend(frameon=False)
# %% [markdown]
# ## How far each update went
#
# `metrics.csv` in a run's folder has a row every `log_every` steps, here for every update. `kl` is the exact mean
# divergence over the rollout, after the update's last step; `kl_coef` is the coefficient that the next update will
# use.

# %%
with (Path(results[0].run_dir) / "metrics.csv").open() as file:
    rows = list(csv.DictReader(file))
step, kl, kl_coef = (np.array([float(row[name]) for row in rows]) for name in ("step", "kl", "kl_coef"))

figure, (above, below) = plt.subplots(2, 1, figsize=(6, 4.5), sharex=True)
above.semilogy(step, kl)
target = float(run.agent.kl_target)
above.axhspan(target / 1.5, target * 1.5, color="0.9")
above.set(ylabel="KL(old || new)", title="grey: where the coefficient stays as it is")
below.semilogy(step, kl_coef)
below.set(ylabel="coefficient", xlabel="environment steps")
# %% [markdown]
# ## The policy at work
#
# Every run keeps its best policy in its folder. `load_policy` makes a function of it, from observations to actions;
# here the command that evaluates a policy films it as well.

# %%
film = Path(results[0].run_dir) / "film.gif"
evaluate_command([str(results[0].run_dir), "--episodes", "1", "--max-episode-steps", "200", "--video", str(film)])
Image(film.read_bytes())
