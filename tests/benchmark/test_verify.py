"""Reports as packages: whoever changes anything in one is told what, and one that was only moved is as good as new."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.benchmark import manifest
from nnunet_ext.benchmark.cells import as_csv, read_scores, write_scores
from nnunet_ext.benchmark.manifest import install, write_manifest
from nnunet_ext.benchmark.page import RENDERED
from nnunet_ext.benchmark.report import report_benchmark, write_report
from nnunet_ext.benchmark.results import Results, Unfinished, every_pair, written
from nnunet_ext.benchmark.spec import load, parse, ready_specs
from nnunet_ext.benchmark.verify import packages_in, verify, verify_package
from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from tests.benchmark.test_report import results, scores
from tests.killing import contents, killed_at_line

DOCS = Path(__file__).parents[2] / "docs" / "results"


def made(tmp_path: Path, **changes) -> Results:
    """Two arms, two seeds; all metrics, subjects, plans and logs, and a job that failed."""
    own = results(tmp_path, arms=("base", "better"))
    cases = own.cases.assign(
        subject=own.cases["case"].str[:6], betti_0_error=1.0, betti_1_error=0.0, consistency_error=0.1
    )
    pairs = cases[cases["label"] == "left"][["arm", "group", "fold", "seed", "case", "subject", "status"]]
    rng = np.random.default_rng(0)
    touching = pairs.assign(label="left | right", interface_hd95_mm=rng.random(len(pairs)), interface_nsd_1mm=0.5,
                            interface_confusion=rng.random(len(pairs)) / 9)  # fmt: skip
    plans, log = tmp_path / "Dataset1_Data" / "nnUNetPlans.json", tmp_path / "log.txt"
    plans.parent.mkdir(exist_ok=True)
    plans.write_text(json.dumps({"plans_name": "nnUNetPlans", "from": f"{tmp_path}/raw"}))
    log.write_text(f"$ nnUNetv2_train 1\nUsing splits of {tmp_path}/raw/splits_final.json\nEpoch 0\n")
    return replace(
        own,
        cases=cases,
        interfaces=touching,
        trainings=tuple(replace(t, plans=plans, log=log, command=f"train {tmp_path}/x.pth") for t in own.trainings),
        unfinished=(Unfinished("other, fold 0", f"failed: no {tmp_path}/data.json", log),),
        specification={"baseline": "base", "raw": str(tmp_path / "raw")},
        prepared={"splits": {"Dataset1_Data": [{"train": ["a"], "val": ["b"]}]}},
        **changes,
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    write_report(made(folder), folder / "report", drawn=False)
    return folder / "report"


@pytest.fixture
def package(original, tmp_path) -> Path:
    """A copy of the package to change."""
    shutil.copytree(original, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def problems(package: Path) -> list[str]:
    return list(verify_package(package).problems)


def named(found: list[str]) -> set[str]:
    """The files that the problems begin with."""
    return {each.partition(":")[0] for each in found}


# --- as it was written ------------------------------------------------------------------------------------------------


def test_a_package_that_was_only_moved_is_verified_without_anything_else(package, monkeypatch, capsys):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(package.parent)
    assert problems(package) == []
    assert main(["benchmark", "verify", str(package.parent)]) == 0
    assert f"{package}: 16 files are what was written" in capsys.readouterr().out


def test_a_package_holds_everything_and_no_folder_of_the_machine(package, original):
    assert {path.partition("/")[0] for path in contents(package)} == {
        *("manifest.json", "cases.csv", "interfaces.csv", "records.json", "specification.yaml", "prepared.json"),
        *("plans", "logs", "report.md", "report.html", "comparisons.csv", "costs.csv"),
    }
    assert len(list((package / "plans").iterdir())) == 1
    assert len(list((package / "logs").iterdir())) == 5
    for path, content in contents(package).items():
        assert str(original.parent).encode() not in content, path
    page = (package / "report.md").read_text()
    assert "- other, fold 0: failed: no …/data.json\n" in page
    assert "- `train …/x.pth`\n" in page


def test_metrics_of_interfaces_topology_and_slices_have_tables_of_their_own(package):
    page = (package / "report.md").read_text()
    for title in (
        *("Interface NSD at 1 mm", "Interface HD95 (mm)", "Confusion near the interface"),
        *("Betti 0 error (components)", "Betti 1 error (holes, in 3D loops)", "Error of slice consistency"),
    ):
        assert f"### {title}: differences to base" in page
    table = pd.read_csv(package / "comparisons.csv")
    touching = table[table.metric == "interface_confusion"]
    assert list(touching.label) == ["mean", "left | right"]
    assert set(touching.n) == {2}
    assert set(table[table.metric == "dice"].label) == {"mean", "left", "right"}


@given(
    names=st.lists(
        st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=9), min_size=2, max_size=2,
        unique_by=str.strip,
    ),
    values=st.lists(st.floats(0, 1), min_size=24, max_size=24),
    known=st.booleans(),
)  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_whatever_is_written_is_verified_where_it_was_copied_to(tmp_path_factory, names, values, known):
    folder = tmp_path_factory.mktemp("any")
    cases = pd.concat([scores(arm, seed, [f"case_{i:02d}" for i in range(6)], dice=0.5) for arm, seed in
                       [("base", 0), ("better", 0)]], ignore_index=True)  # fmt: skip
    cases = cases.assign(dice=values, arm=cases["arm"].map(dict(zip(("base", "better"), names, strict=True))))
    cases = cases.assign(subject=cases["case"].str[:6] + "NA" if known else None)
    own = results(folder, arms=("base", "better"), seeds=(0,))
    trainings = tuple(replace(t, arm=name) for t, name in zip(own.trainings, names, strict=True))
    own = replace(own, cases=cases, baseline=names[0], arms=tuple(names), trainings=trainings)
    write_report(own, folder / "report", html=False, drawn=False)
    shutil.move(folder / "report", folder / "other place")
    assert verify_package(folder / "other place").problems == ()


def test_scores_are_read_as_they_were_written(tmp_path):
    table = pd.DataFrame({"arm": ["NA", 'a,"b"'], "group": ["null", "1"], "fold": [0, 1], "seed": [0, 0],
                          "case": ["007", "nan"], "subject": ["s", None], "label": ["True", "x"],
                          "dice": [1 / 3, np.nan], "hd95_mm": [1.0, 1e-9]})  # fmt: skip
    write_scores(tmp_path / "one.csv", table)
    found = read_scores(tmp_path / "one.csv")
    write_scores(tmp_path / "two.csv", found)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    for name in ("arm", "group", "case", "label"):
        assert found[name].tolist() == table[name].tolist()
    assert found["dice"][0] == 0.33333333
    assert found["subject"].tolist() == ["s", None]


def test_numbers_of_tables_do_not_depend_on_the_last_bits():
    table = pd.DataFrame({"p": [0.1 + 0.2, 1.2345678e-12], "weights": [31_234_567.0, np.nan]})
    other = table.assign(p=[0.3, 1.2345678000000002e-12])
    assert as_csv(table, 6) == as_csv(other, 6) == "p,weights\n0.3,31234567\n1.23457e-12,\n"


def test_pages_and_tables_are_written_anew_from_the_package_alone(package):
    before = contents(package)
    (package / "report.md").write_text("lost")
    (package / "figures").mkdir()
    (package / "figures" / "data_ranks.png").write_bytes(b"a figure")
    report_benchmark(package)
    assert problems(package) == []
    after = contents(package)
    assert "![How stable the ranking is](figures/data_ranks.png)" in after.pop("report.md").decode()
    shutil.rmtree(package / "figures")
    report_benchmark(package)
    assert contents(package) == before
    with pytest.raises(InputError, match="only written anew in its place"):
        report_benchmark(package, package.parent / "other")
    with pytest.raises(InputError, match="only written anew in its place"):
        report_benchmark(package, drawn=False)
    assert "report.html" in before
    report_benchmark(package, html=False)
    assert "report.html" not in contents(package)
    assert problems(package) == []


# --- as it was not written --------------------------------------------------------------------------------------------


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def first_dice(package: Path) -> str:
    header, row = (package / "cases.csv").read_text().splitlines()[:2]
    return row.split(",")[header.split(",").index("dice")]


def test_an_altered_number_is_named_with_the_tables_that_it_changes(package, capsys):
    changed(package / "cases.csv", first_dice(package), "0.1")
    found = problems(package)
    assert named(found) == {"cases.csv", "report.md", "comparisons.csv"}
    assert "but the scores give" in "".join(found)
    assert main(["benchmark", "verify", str(package)]) == 1
    assert "cases.csv" in capsys.readouterr().out


def test_an_altered_number_is_found_even_if_the_manifest_was_written_anew(package):
    changed(package / "cases.csv", first_dice(package), "0.1")
    write_manifest(package)
    assert named(problems(package)) == {"report.md", "comparisons.csv"}


@pytest.mark.parametrize("name", RENDERED)
def test_an_altered_table_is_named_with_its_first_line(package, name):
    lines = (package / name).read_text(encoding="utf-8").split("\n")
    place = next(place for place, line in enumerate(lines) if place > 0 and "base" in line)
    lines[place] = lines[place].replace("base", "BASE")
    (package / name).write_text("\n".join(lines), encoding="utf-8")
    digest, table = problems(package)
    assert digest == f"{name}: has another SHA-256 than in manifest.json; it was changed later"
    assert table.startswith(f"{name}: line {place + 1} is ")
    assert "BASE" in table


def test_a_file_that_is_missing_or_was_added_is_named(package):
    (package / "prepared.json").unlink()
    (package / "notes.txt").write_text("mine")
    (package / ".hidden").write_text("of the desktop")
    assert problems(package) == [
        "prepared.json: is missing",
        "notes.txt: is not in manifest.json; it was added later",
    ]


def test_scores_and_tables_must_be_there_whatever_the_manifest_says(package):
    for name in ("report.md", "cases.csv"):
        (package / name).unlink()
    write_manifest(package)
    missing, other, again = problems(package)
    assert (missing, other) == ("cases.csv: is missing", "report.md: is missing")
    assert "cases.csv cannot be read as a CSV table" in again


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds no JSON object"),
        ('{"files": []}', "has no list of files"),
        ('{"files": {"../x": {"sha256": "0", "bytes": 1}}}', "'../x' is no file of the package"),
        ('{"files": {"cases.csv": {"bytes": 1}}}', "'cases.csv' is no file of the package"),
        (None, "the report was not written to its end"),
    ],
)
def test_a_broken_manifest_is_named(package, text, words):
    (package / "manifest.json").unlink()
    if text is not None:
        (package / "manifest.json").write_text(text)
    [found] = problems(package)
    assert "manifest.json" in found
    assert words in found
    assert packages_in(package.parent) == [package]  # a report it still is


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("records.json", '"baseline": "base"', '"baseline": "nobody"', "The baseline nobody has no finished training"),
        ("records.json", '"baseline"', '"bose"', "has no baseline, which is required"),
        ("cases.csv", "fold,seed", "fold,sead", "has no column 'seed'"),
        ("cases.csv", "base,data,0,0", "base,data,zero,0", "column 'fold': invalid literal"),
        ("cases.csv", "base,data,0,0,case_00", "base,data,0,0,case_99", "cannot be computed again: There is no value"),
        ("records.json", '"weights": 1000000', '"weights": "many"', "cannot be computed again (TypeError"),
    ],
)
def test_what_no_tables_can_be_computed_from_is_named(package, file, old, new, words):
    changed(package / file, old, new)
    write_manifest(package)
    [found] = problems(package)
    assert words in found
    assert str(package.parent) not in found


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no report"):
        verify(tmp_path)


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_report_that_was_killed_is_ended_by_the_next(tmp_path, monkeypatch):
    def folder(name: str, files: dict[str, str]) -> Path:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        write_manifest(tmp_path / name)
        return tmp_path / name

    old = {"a.txt": "old", "figures/b.png": "old", "logs/c.txt": "same"}
    new = {"a.txt": "new", "logs/c.txt": "same", "d.txt": "new"}
    number, killed = 0, True
    while killed:
        number += 1
        shutil.rmtree(tmp_path, ignore_errors=True)
        target = folder("report", old)
        (target / "mine.txt").write_text("of the user")
        again, fresh = folder("again", new), folder("new", new)
        killed = killed_at_line(lambda fresh=fresh, target=target: install(fresh, target), number, {"manifest.py"})
        there = contents(target)
        assert all(there[name].decode() in (old.get(name), new.get(name)) for name in there if name in {**old, **new})
        install(again, target)
        assert contents(target).keys() == {*new, "mine.txt", manifest.MANIFEST}
        assert (target / "a.txt").read_text() == "new"
        assert not (target / "figures").exists()
    assert number > 10


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_pair_that_touches_in_one_training_only_does_not_count_in_the_others():
    cases = pd.concat([scores("base", 0), scores("better", 0)], ignore_index=True).assign(subject=None)
    one = cases[(cases["arm"] == "base") & (cases["label"] == "left")].drop(columns=["label", "dice"])
    pairs = every_pair(one.assign(labels="left | right", interface_confusion=0.5), cases)
    assert len(pairs) == 40
    other = pairs[pairs["arm"] == "better"]
    assert other["interface_confusion"].isna().all()
    assert set(other["status"]) == {"both empty"}
    assert not len(every_pair(pd.DataFrame(columns=["case", "labels"]), cases))


@pytest.mark.parametrize("package", packages_in(DOCS) if DOCS.is_dir() else [], ids=lambda path: path.name)
def test_every_report_of_the_documentation_is_verified(package):
    assert problems(package) == []
    assert sum(path.stat().st_size for path in package.rglob("*")) < 2_000_000


@pytest.mark.parametrize("name", ready_specs())
def test_the_specification_of_a_package_can_be_run_again(name):
    spec = load(name)
    content = yaml.safe_load(yaml.safe_dump(written(spec)))
    assert parse(content, "specification.yaml", "another").as_dict() == spec.as_dict()
