"""Runs docs/tutorial.ipynb again and stores its outputs, which the documentation site shows.

python tools/run_notebook.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ in every run
        # Warnings name paths of the machine.
        outputs = [one for one in cell.get("outputs", []) if one.get("name") != "stderr"]
        for output in outputs:
            if "image/jpeg" in output.get("data", {}):
                del output.data["image/png"]
        if cell.cell_type == "code":
            cell.outputs = outputs
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
