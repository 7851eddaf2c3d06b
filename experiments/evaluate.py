"""Runs a saved policy: python experiments/evaluate.py runs/ppo_kl-CartPole-v1-seed0"""

import sys

from jaxrl.cli import evaluate_command

if __name__ == "__main__":
    sys.exit(evaluate_command())
