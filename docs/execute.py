"""Run the tutorials' notebooks anew, each in a folder of its own, and store what they print: `make notebooks`.

Notebooks of example projects are named (`python docs/execute.py examples/*/walk.ipynb`), and run in a copy of their
project, with the data and the runs that are there.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parent / "tutorials"


def executed(notebook: Path, folder: str) -> nbformat.NotebookNode:
    """Return a notebook as it comes out of a run in a folder; what its code says on standard error is left out.

    Raises:
        CellExecutionError: If a cell raises.
    """
    found = nbformat.read(notebook, as_version=4)
    how = {"timeout": 600, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    NotebookClient(found, resources={"metadata": {"path": folder}}, **how).execute()
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    found.metadata = {"kernelspec": found.metadata["kernelspec"], "language_info": {"name": "python"}}
    return found


if __name__ == "__main__":
    for path in sorted(Path(word) for word in sys.argv[1:]) or sorted(TUTORIALS.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as there:
            if (path.parent / "make_data.py").exists():
                shutil.copytree(path.parent, there, dirs_exist_ok=True)
            nbformat.write(executed(path, there), path)
