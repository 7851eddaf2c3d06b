"""Executes notebooks that are kept as text, and writes each beside it with what it showed.

    python docs/tools/notebook.py experiments/notebooks/*.py

They run in an empty folder, which is removed. The text is what is edited; cells, in the percent format of jupytext.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from jaxrl.studies.script import Parser


def cells_of(path: Path) -> Any:
    """The notebook that a text file stands for, not executed. Its cells are named by their places; names by chance
    would be others each time."""
    import jupytext

    notebook = jupytext.read(path)
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place}"
    return notebook


def execute(notebook: Any) -> None:
    """Runs its cells and keeps what they show in it.

    Raises:
      CellExecutionError: a cell failed.
    """
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        kernel = KernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")  # No port is opened.
        resources = {"metadata": {"path": folder}}
        try:
            NotebookClient(
                notebook, kernel, timeout=1200, resources=resources, record_timing=False, coalesce_streams=True
            ).execute()
        finally:
            if kernel.has_kernel:
                kernel.shutdown_kernel(now=True)


def main() -> int:
    """Reads the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK.py")
    given = parser.parse_args()
    for name in ("jupytext", "nbclient", "ipykernel"):
        try:
            __import__(name)
        except ImportError:
            parser.error(f"{name} is not there: pip install 'jaxrl-kernels[notebooks]'")
    for path in given.notebooks:
        if path.suffix != ".py" or not path.is_file():
            parser.error(f"{path} is no notebook's text: it must be a file that ends in .py")
        import nbformat
        from nbclient.exceptions import CellExecutionError

        notebook = cells_of(path)
        try:
            execute(notebook)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            return 1
        notebook.metadata.pop("jupytext", None)
        nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(path.with_suffix(".ipynb"))
    return 0


if __name__ == "__main__":
    # Python looks for modules beside a script first, where this one has the name of Jupyter's.
    sys.path = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]
    sys.exit(main())
