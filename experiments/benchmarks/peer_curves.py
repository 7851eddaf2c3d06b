"""Learning curves of SBX's SAC or TD3 with our settings, to lay beside ours:

    .venv-peers/bin/python experiments/benchmarks/peer_curves.py sac HalfCheetah-v5 --seeds 0 1 --out sbx.csv

Both libraries then have networks of 256-256, batch 256, Adam 3e-4, one update a step, the same number of random steps,
and noise-free evaluations of 10 episodes every 5,000 steps. The table has the columns of a study's. It needs an
interpreter with sbx-rl, such as the one that `benchmark.py peers` makes; a seed that the table has is not run again.
"""

import argparse
import csv
from pathlib import Path

import gymnasium as gym
import numpy as np

COLUMNS = ("env", "variant", "seed", "step", "episodes", "mean_return", "std_return")
RANDOM_STEPS = {"td3": 25_000, "sac": 10_000}


def learn(algo: str, env_id: str, seed: int, total_steps: int, every: int, episodes: int) -> list[dict]:
    """The rows of one run."""
    import sbx
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.noise import NormalActionNoise

    rows: list[dict] = []

    class Evaluations(BaseCallback):
        """Evaluates the policy without noise, on environments of its own."""

        def _on_step(self) -> bool:
            if self.num_timesteps % every == 0:
                apart = Monitor(gym.make(env_id))
                apart.reset(seed=10_000 + seed)
                returns, _ = evaluate_policy(self.model, apart, episodes, return_episode_rewards=True)
                row = (env_id, f"SBX {algo}", seed, self.num_timesteps, episodes, np.mean(returns), np.std(returns))
                rows.append(dict(zip(COLUMNS, row, strict=True)))
                print(env_id, seed, self.num_timesteps, round(float(np.mean(returns)), 1), flush=True)
            return True

    env = gym.make(env_id)
    noise = {}
    if algo == "td3":
        size = np.size(env.action_space.sample())
        noise = {"action_noise": NormalActionNoise(np.zeros(size), np.full(size, 0.1))}
    model = getattr(sbx, algo.upper())(
        "MlpPolicy", env, learning_rate=3e-4, learning_starts=RANDOM_STEPS[algo], batch_size=256, train_freq=1,
        gradient_steps=1, policy_kwargs={"net_arch": [256, 256]}, seed=seed, **noise,
    )  # fmt: skip
    model.learn(total_steps, callback=Evaluations())
    return rows


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algo", choices=RANDOM_STEPS)
    parser.add_argument("env", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--eval-every", type=int, default=5_000)
    parser.add_argument("--eval-episodes", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    there = []
    if given.out.exists():
        with given.out.open() as file:
            there = list(csv.DictReader(file))
    done = {(row["env"], row["variant"], int(row["seed"])) for row in there}
    for env_id in given.env:
        for seed in given.seeds:
            if (env_id, f"SBX {given.algo}", seed) in done:
                continue
            there += learn(given.algo, env_id, seed, given.total_steps, given.eval_every, given.eval_episodes)
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("w", newline="") as file:
                table = csv.DictWriter(file, COLUMNS)
                table.writeheader()
                table.writerows(there)


if __name__ == "__main__":
    main()
