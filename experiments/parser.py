"""A parser of flags for the scripts beside it, whose complaints are one line, as those of train.py."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Shows a script's own description in `--help`; a mistake ends the script with exit code 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong."""
        self.exit(2, f"{Path(sys.argv[0]).name}: {message}; see --help\n")
