"""Trains: python experiments/train.py --algo ppo_kl --env CartPole-v1"""

import sys

from jaxrl.cli import train_command

if __name__ == "__main__":
    sys.exit(train_command())
