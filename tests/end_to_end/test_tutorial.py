"""The tutorial is run, with a schedule of a few iterations, and its committed outputs are those of a whole run."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"
SCHEDULE = "epochs, iterations = 8, 40"


@pytest.fixture
def notebook():
    return nbformat.read(TUTORIAL, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_tutorial_runs_from_raw_data_to_an_exported_model(notebook, tmp_path, monkeypatch):
    first, *_ = cells = code(notebook)
    assert SCHEDULE in first.source
    first.source = first.source.replace(SCHEDULE, "epochs, iterations = 1, 2")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [out.text for cell in cells for out in cell.outputs if out.output_type == "stream"]
    # every command writes into a file of its own, and only shows it when it fails
    assert [text for text in said if " pull" not in text] == []
    assert (tmp_path / "pnpnet.zip").is_file()
    assert "Reference" in cells[-3].outputs[-1].data["text/html"]


def test_the_committed_outputs_are_complete_and_name_no_machine(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = str([cell.outputs for cell in cells])
    assert outputs.count("image/png") == 2
    assert not re.search(r"(/home|/root|/tmp|/Users|C:\\\\)", outputs)
