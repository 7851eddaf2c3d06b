"""Runs a study: python experiments/study.py experiments/studies/cartpole.toml --cores 2"""

import sys
from pathlib import Path

from jaxrl.studies.study import main

if __name__ == "__main__":
    # Python looks for modules beside a script first, where a module of the user's may have the name of one of ours.
    sys.path = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]
    sys.exit(main())
