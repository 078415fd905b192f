"""Promises of the documentation: its example runs, its links lead somewhere, and it names every trainer."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ext.catalogue import TRAINERS, in_tier
from nnunet_ext.discovery import VARIABLE, extended_value
from tests import tiny

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "plans").glob("*.md"), *sorted(DOCS.glob("*.md"))]
PAGES += [*sorted((DOCS / "results").glob("*.md")), *sorted((DOCS / "results/history").glob("*.md"))]


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
    assert {f"loss_{term}", "loss_consistency"} <= step.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix())
def test_links_lead_to_files_and_named_files_exist(page):
    """Anchors of the site are checked when it is built."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^ *```.*?^ *```|`[^`]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []
    folders = r"benchmarks|docs|nnunet_ext|packaging|plans|tests|trainers|viewer|\.ci|\.github"
    named = re.findall(rf"`((?:{folders})/[\w/.-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    scripts = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    assert [name for name in scripts if not ((ROOT / name).exists() or (ROOT / "nnunet_ext" / name).exists())] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in navigation] == []
    yaml.safe_load(navigation)


def row(name: str, start: str) -> str:
    """Row of a table of trainers: what the catalogue says, with links from a page in the folder ``start``."""
    entry = TRAINERS[name]
    page = f"docs/{entry.location.split('.')[1]}.md"
    shown = f"[`{name}`]({page.removeprefix(start)})" if (ROOT / page).is_file() else f"`{name}`"
    measured = f"[{entry.measured}]({entry.page.removeprefix(start)})"
    return f"| {entry.description} | {shown} | {entry.needs} | {entry.network} | {measured} |"


@pytest.mark.parametrize(
    ("page", "start"), [("README.md", ""), ("docs/choose.md", "docs/"), ("docs/index.md", "docs/")]
)
def test_the_first_table_of_a_page_is_that_of_the_methods_in_the_catalogue(page, start):
    """After a change of a verdict: paste what is expected."""
    table = (ROOT / page).read_text().split("|---|---|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    assert table == "\n".join(row(name, start) for name in in_tier("methods"))


def test_the_readme_shows_methods_only():
    named = set(re.findall(r"`(nnUNetTrainer\w+)`", (ROOT / "README.md").read_text()))
    assert {name.partition("_")[0] for name in named} == set(in_tier("methods"))


def test_the_picture_shows_verdicts_and_recommends_nothing_that_was_measured_worse():
    texts = re.findall(r'class="(trainer|verdict)"[^>]*>([^<]+)<', (DOCS / "figures" / "choose.svg").read_text())
    assert [kind for kind, _ in texts] == ["trainer", "verdict"] * (len(texts) // 2)
    shown = [text for _, text in texts]
    recommended = dict(zip(shown[::2], shown[1::2], strict=True))
    assert recommended == {name: f"measured: {TRAINERS[name].measured}" for name in recommended}
    assert not [name for name in recommended if TRAINERS[name].measured.startswith("worse")]
    assert set(recommended) <= set(in_tier("methods"))


@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_is_on_a_page(name):
    assert [page for page in DOCS.glob("*.md") if f"`{name}`" in page.read_text()]


AMERICAN = (
    r"\b(?:behavior|cent(?:er|ered|ers)|color(?:ed|s)?|favor|gray|(?:un)?labeled|neighbor\w*|optimizers?|tumors?)\b|"
)
AMERICAN += r"\b(?:analy|initiali|minimi|normali|optimi|organi|penali|recogni|regulari|summari)z(?:ed?|es|ing|ation)\b"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_prose_is_in_british_spelling(page):
    """Code, and titles of papers in italics, are as they are."""
    prose = re.sub(
        r"```.*?```|`[^`]*`|\*[A-Z][^*]*\*|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert re.findall(AMERICAN, prose, re.IGNORECASE) == []


COSTS = re.findall(r"^\| `(\w+)` \|(.*)\|([^|]*)\|$", (DOCS / "costs.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("name", "numbers", "source"), COSTS, ids=[name for name, *_ in COSTS])
def test_costs_are_quoted_from_the_page_where_they_were_measured(name, numbers, source):
    ((page, anchor),) = re.findall(r"\]\(([\w/.]+)#([\w-]+)\)", source)
    heading = anchor.replace("-", " ")
    sections = re.split(r"^## ", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.lower().startswith(heading)]
    measured = set(re.findall(r"\d+\.\d+", section))
    quoted = re.findall(r"\d+\.\d+", numbers)
    assert quoted
    assert [number for number in quoted if number not in measured] == []
    assert name in TRAINERS
