"""What the documentation promises: its example runs, its links lead somewhere, and it names every trainer."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ext.catalogue import TRAINERS
from nnunet_ext.discovery import VARIABLE, extended_value
from tests import tiny

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture
def own_trainers(tmp_path, monkeypatch):
    """The files of docs/own_trainer.md, found as its commands say."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", (DOCS / "own_trainer.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    for name, code in blocks:
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([extended_value(None), str(tmp_path / "own" / "my_door")]))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_methods"]:
        del sys.modules[name]


def test_the_trainer_of_the_documentation_is_found_by_nnunet_and_trains(own_trainers, make_trainer):
    trainer = make_trainer(recursive_find_trainer_class_by_name("nnUNetTrainerEntropy"))
    step = trainer.train_step(tiny.batch(trainer))
    assert step.keys() == {"loss", "loss_segmentation", "loss_entropy", "stat_largest_entropy"}
    assert step["stat_largest_entropy"] >= step["loss_entropy"] > 0
    assert step["loss"] == pytest.approx(step["loss_segmentation"] + 0.1 * step["loss_entropy"], rel=1e-5)


@pytest.mark.parametrize(("name", "term"), [("FewScribbles", "crf"), ("SureTeacher", "entropy")])
def test_the_framework_goes_around_another_trainer_in_two_lines(own_trainers, make_trainer, name, term):
    from my_methods import with_teacher

    trainer = make_trainer(getattr(with_teacher, f"nnUNetTrainer{name}"), kind="ignore")
    step = trainer.train_step(tiny.batch(trainer))
    assert {f"loss_{term}", f"loss_masked_{term}", "loss_consistency"} <= step.keys()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "plans/README.md"])
def test_links_outside_of_the_site_lead_somewhere(page):
    """Those of the site are checked when it is built."""
    file = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text())
    assert [link for link in links if not (file.parent / link).exists()] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in navigation] == []
    yaml.safe_load(navigation)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_readme_names_every_trainer(name):
    assert f"`{name}`" in (ROOT / "README.md").read_text()
