"""Trains: python experiments/train.py --algo ppo_kl --env CartPole-v1"""

import sys
from pathlib import Path

from jaxrl.cli.main import train_command

if __name__ == "__main__":
    # Python looks for modules beside a script first, where a module of the user's may have the name of one of ours.
    sys.path = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]
    sys.exit(train_command())
