"""Draws runs: python experiments/plot.py runs/ppo-CartPole-v1-seeds0-4 --out plots/cartpole"""

import sys
from pathlib import Path

from jaxrl.studies.plot import main

if __name__ == "__main__":
    # Python looks for modules beside a script first, where a module of the user's may have the name of one of ours.
    sys.path = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]
    sys.exit(main())
