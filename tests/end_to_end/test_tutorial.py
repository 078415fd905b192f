"""Every tutorial is run, with a schedule of a few iterations; its committed outputs are those of a whole run."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[2] / "docs"
SCHEDULE = re.compile(r"\bepochs, iterations = \d+, \d+")
ENDS_WITH = {
    "touching_structures": ("pnpnet.zip", "Reference"),
    "scribbles": ("MaskedCRF/metrics.csv", "MaskedCRF"),
    "few_labels": ("MedContext/metrics.csv", "MedContext"),
    "landmarks": ("rule_errors/landmarks_metrics.csv", "constant guess"),
    "slices_and_clicks": ("predicted/evaluation/metrics.csv", "bright"),
}
"""The file that the last command of each tutorial writes, and a word of the table with its measurements."""


@pytest.fixture(params=sorted((DOCS / "tutorials").glob("*.ipynb")), ids=lambda file: file.stem)
def tutorial(request):
    return request.param


@pytest.fixture
def notebook(tutorial):
    return nbformat.read(tutorial, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(notebook):
    """Return what was printed. A command writes into a file of its own, which is only shown when the command fails."""
    return [out.text for cell in code(notebook) for out in cell.outputs if out.output_type == "stream"]


@pytest.mark.slow
def test_a_tutorial_runs_from_raw_data_to_its_last_picture(tutorial, notebook, tmp_path, monkeypatch):
    first, *_ = cells = code(notebook)
    first.source, replaced = SCHEDULE.subn("epochs, iterations = 1, 2", first.source)
    assert replaced == 1
    for cell in cells:
        cell.outputs = []
        # importing PyTorch in every process is most of the time here
        cell.source = cell.source.replace(' = "2"', ' = "1"').replace("-np 2 -npfp 2", "-np 1 -npfp 1")
        # stock nnU-Net's training is in other tests, and in the tutorial that names both one by one
        cell.source = cell.source.replace('trainers = ("Reference"', '_, *trainers = ("Reference"')
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # nnU-Net sets the number of threads itself; where cores are busy, threads that spin while they wait double the time
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [text for text in said(notebook) if " pull" not in text] == []
    file, word = ENDS_WITH[tutorial.stem]
    assert (tmp_path / file).is_file()
    tables = [out.data["text/html"] for cell in cells for out in cell.outputs if "text/html" in out.get("data", {})]
    assert [table for table in tables if word in table] != []


def test_the_committed_outputs_are_complete_and_name_no_machine(tutorial, notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [text for text in said(notebook) if " pull" not in text] == []
    outputs = str([cell.outputs for cell in cells])
    assert outputs.count("image/png") == sum("plt.subplots" in cell.source for cell in cells) > 0
    assert not re.search(r"(/home|/root|/tmp|/Users|C:\\\\)", outputs)
    assert tutorial.stat().st_size < 150_000


def test_links_of_a_tutorial_lead_to_pages(tutorial, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert links
    assert [link for link in links if not (tutorial.parent / link).exists()] == []


def test_every_tutorial_is_in_the_navigation(tutorial):
    assert tutorial.relative_to(DOCS).as_posix() in (DOCS.parent / "mkdocs.yml").read_text()
