"""The tutorial notebook runs from top to bottom and teaches what it says."""

import nbformat
import pytest
from nbclient import NotebookClient
from pages import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


def test_the_stored_outputs_are_whole():
    """The site shows them: no error, no warning, nothing of the machine that ran it."""
    notebook = nbformat.read(NOTEBOOK, 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(outputs) > 8
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    assert "/home/" not in NOTEBOOK.read_text()
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    results = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    shown = " ".join(output.data.get("text/plain", "") for output in results)
    assert "last round is better than first round" in shown
    assert "Verdict(wrong, 'a photo of four airplanes', 'expected airplane<5, found 5')" in shown
