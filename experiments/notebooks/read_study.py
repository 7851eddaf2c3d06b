# %% [markdown]
# # Reading a study
#
# A study leaves one table: every evaluation of every run, with its task, variant and seed. This notebook reads the
# comparison of the PPO paper in small (`experiments/studies/paper.toml`), asks what its few seeds can tell, and sets it
# beside what others have published. Nothing but NumPy, SciPy and matplotlib.

# %%
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import jaxrl

RESULTS = Path(jaxrl.__file__).parent.parent / "experiments" / "results"


def read(name):
    """The rows of a table."""
    with (RESULTS / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def curves(rows, task, variant):
    """Steps, and the returns of each seed at them, `(seeds, steps)`. PPO is evaluated at the ends of rollouts, which
    come at the same steps in every run here."""
    mine = [row for row in rows if row["env"] == task and row["variant"] == variant]
    seeds = sorted({row["seed"] for row in mine})
    each = [[(int(row["step"]), float(row["mean_return"])) for row in mine if row["seed"] == seed] for seed in seeds]
    steps = np.array(each[0])[:, 0]
    return steps, np.array([np.interp(steps, *np.array(one).T) for one in each])


rows = read("paper")
TASKS = list(dict.fromkeys(row["env"] for row in rows))
VARIANTS = list(dict.fromkeys(row["variant"] for row in rows))
print(TASKS)
print(VARIANTS)


# %% [markdown]
# ## A curve and how far to trust it
#
# The band is a 95 % bootstrap interval of the mean: draw as many seeds again from those there are, with replacement, a
# few thousand times. Three seeds make a rough band. It still says more than the standard deviation, which describes
# the runs and not the mean.


# %%
def interval(returns):
    """Bounds of the mean over the first axis, 95 %."""
    found = stats.bootstrap((returns,), np.mean, axis=0, n_resamples=2_000, method="percentile", rng=0)
    return found.confidence_interval


shown = ["clip 0.2", "fixed KL 1", "adaptive KL 0.01", "neither"]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for task, panel in zip(["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"], panels, strict=True):
    for variant in shown:
        steps, returns = curves(rows, task, variant)
        (line,) = panel.plot(steps, returns.mean(axis=0), label=variant)
        panel.fill_between(steps, *interval(returns), color=line.get_color(), alpha=0.15, lw=0)
    panel.set(title=task, xlabel="environment steps")
panels[0].set_ylabel("return, mean and 95 % interval")
panels[0].legend(frameon=False, fontsize=8)

# %% [markdown]
# ## Does one beat the other?
#
# Of two variants, take a run of each on the same task: how often does the first end higher? One half means that nothing
# can be said. This asks nothing of the size of a lead, so one lucky seed does not carry a task.


# %%
def wins(first, second):
    """The share of pairs of runs that the first variant wins, a tie being half a win, over all tasks."""
    shares = []
    for task in TASKS:
        (_, ours), (_, theirs) = curves(rows, task, first), curves(rows, task, second)
        ahead = ours[:, -1, None] - theirs[None, :, -1]
        shares.append(np.mean((ahead > 0) + 0.5 * (ahead == 0)))
    return np.mean(shares)


for second in shown[1:]:
    print(f"clip 0.2 ends above {second:17} in {wins('clip 0.2', second):.0%} of the pairs")

# %% [markdown]
# ## On one scale, beside the paper
#
# The paper scores a task so that a random policy gets 0 and the best variant 1, and takes the mean over tasks and seeds.
# Its runs are three times as long, its tasks older versions, and it scores the last noisy episodes of training, where
# here the last evaluation counts, without noise.

# %%
zero = {row["env"]: float(row["mean_return"]) for row in read("random")}
paper = {row["variant"]: float(row["score"]) for row in read("ppo_paper")}

score = dict.fromkeys(VARIANTS, 0.0)
for task in TASKS:
    ends = {variant: curves(rows, task, variant)[1][:, -1].mean() for variant in VARIANTS}
    for variant, end in ends.items():
        score[variant] += (end - zero[task]) / (max(ends.values()) - zero[task]) / len(TASKS)

both = [variant for variant in VARIANTS if variant in paper]
places = np.arange(len(both))
figure, panel = plt.subplots(figsize=(9, 3.2), layout="constrained")
panel.bar(places - 0.2, [score[variant] for variant in both], 0.4, label="here, 300,000 steps")
panel.bar(places + 0.2, [paper[variant] for variant in both], 0.4, label="the paper, 1,000,000 steps")
panel.axhline(0, color="0.5", lw=0.8)
panel.set_xticks(places, both, rotation=30, ha="right")
panel.set(ylabel="normalised score")
panel.legend(frameon=False)
# %% [markdown]
# ## Beside published returns
#
# A million steps of PPO with the clip, five seeds. The dots are our runs, the bars what others have published with the
# spread that they give. Mind what is compared: published figures are mostly of training episodes, with noise, and of
# older versions of the tasks.

# %%
million, others = read("ppo"), read("published")
figure, panels = plt.subplots(1, 4, figsize=(11, 3.4), layout="constrained")
for task, panel in zip(dict.fromkeys(row["env"] for row in million), panels, strict=True):
    ends = curves(million, task, "ppo")[1][:, -1]
    panel.plot(np.zeros(len(ends)), ends, "o", alpha=0.6)
    panel.plot([-0.3, 0.3], [ends.mean()] * 2, lw=2, color="C0")
    quoted = [row for row in others if row["task"] == task.removesuffix("-v5")]
    for place, row in enumerate(quoted, 1):
        panel.errorbar(place, float(row["mean"]), float(row["std"] or 0), fmt="s", color="0.4", capsize=3)
    names = ["jaxrl"] + [f"{row['source'].split(',')[0]}, {row['version']}" for row in quoted]
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    panel.set(title=task)
panels[0].set_ylabel("return after 1,000,000 steps")
