"""The report on made-up scores: what it claims, what it does not claim, and that it can be read anywhere."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark import analysis, figures
from nnunet_ext.benchmark.report import write_report
from nnunet_ext.benchmark.results import Group, Results, Training, Unfinished
from nnunet_ext.benchmark.subjects import with_subjects
from nnunet_ext.errors import InputError
from nnunet_ext.splits.files import write_folds
from nnunet_ext.splits.subjects import Grouping
from tests.killing import contents

DESCRIPTION = {"labels": {"background": 0, "left": 1, "right": 2}, "file_ending": ".nii.gz"}
CASES = [f"case_{i:02d}" for i in range(20)]
SETTINGS = {"batch_size": 2, "nnunet_ext": {"schedule": {"epochs": 2}}}
DICE = {"base": 0.8, "better": 0.85, "same": 0.8, "worse": 0.7}


def scores(arm: str, seed: int, cases=CASES, fold: int = 0, dice: float | None = None) -> pd.DataFrame:
    """Cases are hard or easy for everybody; arms differ by a constant and a little noise."""
    level = DICE[arm] if dice is None else dice
    noise = np.random.default_rng([*map(ord, arm), seed, fold]).normal(0, 0.01, (len(cases), 2))
    rows = [
        {"case": case, "label": label, "dice": level + 0.002 * int(case[-2:]) + noise[i, j], "status": "both"}
        for i, case in enumerate(cases)
        for j, label in enumerate(("left", "right"))
    ]
    frame = pd.DataFrame(rows).assign(arm=arm, group="data", fold=fold, seed=seed)
    return frame.assign(iou=frame.dice / (2 - frame.dice), hd95_mm=5 - 4 * frame.dice, assd_mm=1 - frame.dice,
                        nsd_1mm=frame.dice)  # fmt: skip


def training(arm: str, seed: int, folder: Path, **settings) -> Training:
    about = {
        "weights": 2_000_000 if arm == "better" else 1_000_000,
        "epoch_seconds": [4.0, 6.0] if arm == "better" else [2.0, 3.0],
        "curves": {name: [0.5, 0.4] for name in ("train_losses", "val_losses", "ema_fg_dice")},
        "settings": {**SETTINGS, **settings},
        "late_gain": 0.0,
    }
    hardware = {"processor": "a <processor>"}
    return Training(arm, "data", 0, seed, folder, about, {"host_mib": 1024.0}, {"torch": "2"}, hardware, f"train {arm}")


def results(tmp_path: Path, arms=("base", "better", "same", "worse"), seeds=(0, 1), **changes) -> Results:
    content = {
        "name": "made up",
        "description": "nothing <real>",
        "baseline": "base",
        "arms": tuple(arms),
        "groups": (Group("data", "Dataset1_Data", tmp_path / "gt", DESCRIPTION, "SimpleITKIO"),),
        "cases": pd.concat([scores(arm, seed) for arm in arms for seed in seeds], ignore_index=True),
        "trainings": tuple(training(arm, seed, tmp_path / arm) for arm in arms for seed in seeds),
        "definitions": ("definition surface: …",),
    }
    return Results(**{**content, **changes})


def verdicts(out: Path) -> dict[str, str]:
    table = pd.read_csv(out / "comparisons.csv")
    own = table[(table.metric == "dice") & (table.label == "mean")]
    return dict(zip(own.arm, own.verdict, strict=True))


# --- what it claims ---------------------------------------------------------------------------------------------------


def test_better_and_worse_are_said_where_they_are_shown_and_only_there(tmp_path):
    said = write_report(results(tmp_path, seeds=(0, 1, 2)), tmp_path / "out")
    assert verdicts(tmp_path / "out") == {"better": "better", "same": "no difference shown", "worse": "worse"}
    assert "better is better than base" in said
    assert "worse is worse than base" in said
    assert "same against base: no difference shown" in said
    for sentence in (line for line in said.splitlines() if line.startswith("- ")):
        assert "20 cases" in sentence
        assert "3 seeds" in sentence


def test_seeds_that_disagree_are_no_difference(tmp_path):
    cases = pd.concat(
        [scores("base", 0), scores("base", 1), scores("better", 0, dice=0.9), scores("better", 1, dice=0.79)]
    )
    write_report(results(tmp_path, arms=("base", "better"), cases=cases), tmp_path / "out")
    assert verdicts(tmp_path / "out") == {"better": "no difference shown"}


def learning(results: Results, **gains: float | None) -> Results:
    """The same results, with what arms gained over the last quarter of their schedules."""
    trainings = tuple(replace(t, about={**t.about, "late_gain": gains.get(t.arm)}) for t in results.trainings)
    return replace(results, trainings=trainings)


def test_a_baseline_that_still_learns_gets_no_verdict(tmp_path):
    said = write_report(learning(results(tmp_path), base=0.0051), tmp_path / "out")
    assert set(verdicts(tmp_path / "out").values()) == {"still learning: no verdict"}
    assert "better against base: still learning: no verdict, +0.0" in said
    page = (tmp_path / "out" / "report.md").read_text()
    assert "the baseline gained +0.51 points of pseudo Dice, so it still learns" in page
    assert "better is better" not in page
    costs = pd.read_csv(tmp_path / "out" / "costs.csv").set_index("arm")
    assert costs.loc["base", "late_gain"] == 0.0051


def test_a_flat_baseline_gets_verdicts_whatever_the_others_still_learn(tmp_path):
    write_report(learning(results(tmp_path, seeds=(0, 1, 2)), base=0.0049, better=0.1), tmp_path / "out")
    assert verdicts(tmp_path / "out") == {"better": "better", "same": "no difference shown", "worse": "worse"}
    page = (tmp_path / "out" / "report.md").read_text()
    assert "the baseline gained +0.49 points of pseudo Dice, so it is flat (up to 0.5 points)" in page
    assert "| +10.00 |" in page


def test_a_baseline_that_is_not_known_to_be_flat_gets_no_verdict(tmp_path):
    write_report(learning(results(tmp_path)), tmp_path / "out")
    assert set(verdicts(tmp_path / "out").values()) == {"not known to be flat: no verdict"}
    assert "whether the baseline still learns is not known" in (tmp_path / "out" / "report.md").read_text()


def test_folds_with_the_same_validation_cases_are_repeats(tmp_path):
    cases = pd.concat(
        [scores(arm, seed, fold=fold) for arm in ("base", "better") for fold in (0, 1) for seed in (0, 1)]
    )
    said = write_report(results(tmp_path, arms=("base", "better"), cases=cases), tmp_path / "out")
    assert verdicts(tmp_path / "out") == {"better": "better"}
    assert "20 cases, 2 seeds" in said  # the seeds of a subset are one repeat
    disagree = [scores("base", 0), scores("base", 0, fold=1), scores("better", 0, dice=0.9)]
    disagree.append(scores("better", 0, fold=1, dice=0.79))
    write_report(results(tmp_path, arms=("base", "better"), cases=pd.concat(disagree)), tmp_path / "out")
    assert verdicts(tmp_path / "out") == {"better": "no difference shown"}


def test_a_single_training_is_called_one(tmp_path):
    said = write_report(results(tmp_path, seeds=(0,)), tmp_path / "out")
    assert "one training each" in said
    assert set(verdicts(tmp_path / "out").values()) == {"one training: no verdict"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "one training: no verdict" in page


def test_cases_of_one_subject_are_one(tmp_path):
    made = results(tmp_path)
    subjects = made.cases["case"].map(lambda case: f"patient {int(case[-2:]) // 2}")
    said = write_report(results(tmp_path, cases=made.cases.assign(subject=subjects)), tmp_path / "out")
    assert "10 subjects, 20 cases, 2 seeds" in said
    table = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    assert set(table.unit) == {"subject"}
    assert set(table.n) == {10}
    unknown = write_report(results(tmp_path, cases=made.cases.assign(subject=None)), tmp_path / "unknown")
    assert "20 cases, 2 seeds" in unknown
    assert "which cases are one subject is unknown" in unknown


def test_subjects_come_from_what_explains_the_folds(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    cases = pd.DataFrame({"group": ["a", "a", "b"], "case": ["x1", "x2", "x1"], "dice": [0.1, 0.2, 0.3]})
    folder = tmp_path / "Dataset1_A"
    folder.mkdir()
    write_folds(folder / "splits_final.json", [], "Dataset1_A", Grouping("pairs", {"x1": "x", "x2": "x"}), "none")
    found = with_subjects(cases, {"a": "Dataset1_A", "b": "Dataset2_B"})
    assert found["subject"].tolist() == ["x", "x", None]


def test_the_correction_runs_over_the_whole_table(tmp_path):
    write_report(results(tmp_path), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    own = table[table.metric == "dice"]
    assert len(own) == 3 * 3
    larger = own[["p_value", "p_interval"]].max(axis=1)
    assert own.loc[larger.idxmin()].p_corrected == pytest.approx(min(1, larger.min() * len(own)))


def test_too_few_cases_are_described_and_not_tested(tmp_path):
    few = pd.concat([scores(arm, 0, CASES[:5]) for arm in ("base", "better")])
    said = write_report(results(tmp_path, arms=("base", "better"), seeds=(0,), cases=few), tmp_path / "out")
    assert "too few cases to test" in said
    assert "p =" not in said


def test_what_is_missing_is_said_and_only_common_trainings_are_compared(tmp_path):
    made = results(tmp_path)
    cases = made.cases[~((made.cases.arm == "better") & (made.cases.seed == 1))]
    said = write_report(
        results(tmp_path, cases=cases, unfinished=(Unfinished("better, seed 1", "not started"),)), tmp_path / "out"
    )
    assert "better against base: one training: no verdict" in said
    table = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    assert set(table[table.arm == "better"].seeds) == {1}
    assert set(table[table.arm == "worse"].seeds) == {2}
    assert "1 jobs are not done" in (tmp_path / "out" / "report.html").read_text()
    assert "- better, seed 1: not started\n" in (tmp_path / "out" / "report.md").read_text()


def test_a_case_that_does_not_count_for_one_counts_for_none(tmp_path):
    made = results(tmp_path, arms=("base", "better"))
    row = (made.cases.arm == "better") & (made.cases.case == CASES[3]) & (made.cases.label == "left")
    cases = made.cases.assign(dice=made.cases.dice.mask(row))
    tables = analysis.values(results(tmp_path, cases=cases), "data", ["base", "better"], "dice")
    left = tables["left"]
    assert left[left.case == CASES[3]]["value"].isna().all()
    mean = tables[analysis.MEAN]
    right = tables["right"]
    for arm in ("base", "better"):  # the mean of the case is then that of its other label
        select = lambda t, arm=arm: t[(t.arm == arm) & (t.case == CASES[3])].sort_values("seed")["value"].to_numpy()  # noqa: E731
        np.testing.assert_allclose(select(mean), select(right))


def test_folds_are_more_cases_and_seeds_are_not(tmp_path):
    other = [f"case_{i}" for i in range(40, 60)]
    cases = pd.concat(
        [
            scores(arm, seed, cases, fold)
            for arm in ("base", "better")
            for seed in (0, 1)
            for fold, cases in enumerate((CASES, other))
        ]
    )
    made = results(tmp_path, arms=("base", "better"), cases=cases)
    [finding, *_] = analysis.findings(made, "data", analysis.metrics_of(cases)[0])
    assert (finding.comparison.n, finding.comparison.seeds) == (40, 2)


# --- what was different -----------------------------------------------------------------------------------------------


def test_an_arm_with_other_plans_is_named_with_what_differs(tmp_path):
    made = results(tmp_path, arms=("base", "better"))
    changed = tuple(
        training(t.arm, t.seed, t.predictions, nnunet_ext={"schedule": {"epochs": 3}}) if t.arm == "better" else t
        for t in made.trainings
    )
    write_report(results(tmp_path, arms=("base", "better"), trainings=changed), tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "better differs from the baseline in nnunet_ext.schedule.epochs: 3 (baseline: 2)" in page


def test_equal_plans_and_cases_are_said_to_be_verified(tmp_path):
    write_report(results(tmp_path), tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "all trainers had the same plans, schedule, patch and batch size" in page
    assert "every training of a fold was validated on the same cases" in page
    made = results(tmp_path)
    fewer = made.cases[~((made.cases.arm == "same") & (made.cases.case == CASES[0]))]
    assert not analysis.same_cases(results(tmp_path, cases=fewer), "data")


def test_costs_are_ratios_to_the_baseline(tmp_path):
    rows = {row["arm"]: row for row in analysis.costs(results(tmp_path), "data")}
    assert rows["better"]["weights_ratio"] == 2
    assert (rows["better"]["epoch_seconds"], rows["better"]["epoch_seconds_ratio"]) == (5, 2)
    assert rows["base"]["host_mib_ratio"] == 1
    assert np.isnan(rows["base"]["gpu_mib"])


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_other_file_and_escapes_names(tmp_path):
    write_report(results(tmp_path), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "nothing &lt;real&gt;" in page
    assert "a &lt;processor&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert "@media print" in page
    markdown = (tmp_path / "out" / "report.md").read_text()
    for name in re.findall(r"\(figures/(.+?\.png)\)", markdown):
        assert (tmp_path / "out" / "figures" / name).read_bytes().startswith(b"\x89PNG")
    widths = {
        len(row.split("|")) for row in re.findall(r"^\|.*\|$", markdown.split("### Means")[1].split("\n\n")[1], re.M)
    }
    assert len(widths) == 1  # every row of a table has as many cells as its header


def test_no_two_arms_look_the_same():
    arms = [f"arm {i}" for i in range(29)]
    styles = figures.styles(arms, "arm 3")
    assert len({(style.colour, style.line) for style in styles.values()}) == 29
    assert len({(style.colour, style.marker) for style in styles.values()}) == 29
    assert styles["arm 3"].colour == figures.BASELINE_COLOUR


def extents(figure):
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    [legend] = figure.legends
    return legend.get_window_extent(renderer), [axes.get_tightbbox(renderer) for axes in figure.axes]


def test_legends_cover_nothing(tmp_path):
    arms = ["base", *(f"a trainer with a long name, number {i}" for i in range(12))]
    trainings = [replace(training("base", 0, tmp_path), arm=arm) for arm in arms]
    styles = figures.styles(arms, "base")
    table = pd.DataFrame(np.full((13, 13), 1 / 13), index=arms, columns=range(1, 14))
    [dice, hd95, *_] = analysis.metrics_of(scores("base", 0))
    for figure in (figures.curves(trainings, styles), figures.rank_bars({dice: table, hd95: table}, styles)):
        legend, panels = extents(figure)
        assert not any(legend.overlaps(panel) for panel in panels)
        assert legend.x1 <= figure.bbox.x1
        assert legend.y0 >= 0
        assert legend.y1 <= figure.bbox.y1
        assert len(figure.legends[0].get_texts()) == 13


def test_ranks_are_written_into_their_bars():
    table = pd.DataFrame({1: [0.7, 0.3], 2: [0.3, 0.7]}, index=["base", "better"])
    [dice, *_] = analysis.metrics_of(scores("base", 0))
    figure = figures.rank_bars({dice: table}, figures.styles(["base", "better"], "base"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "1", "2", "2"]


def test_names_change_nothing_but_themselves_in_markdown(tmp_path):
    arms = ("base", "better")
    names = {"base": "a|b <b> *c*", "better": "_d_ [e](f) `g`\nh"}
    made = results(tmp_path, arms=arms)
    renamed = {
        "baseline": names["base"],
        "arms": tuple(names.values()),
        "cases": made.cases.assign(arm=made.cases.arm.map(names)),
        "trainings": tuple(replace(one, arm=names[one.arm], command="train `x`") for one in made.trainings),
    }
    write_report(replace(made, **renamed), tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| a\\|b \\<b\\> \\*c\\* (baseline) |" in page
    assert "| \\_d\\_ \\[e\\](f) \\`g\\` h |" in page
    assert "- `` train `x` ``\n" in page
    for table in re.findall(r"(?:^\|.*\n)+", page, re.M):
        cells = {len(re.split(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1


def test_the_report_is_written_file_by_file_as_a_whole(tmp_path, monkeypatch):
    made = results(tmp_path)
    write_report(made, tmp_path / "out")
    before = contents(tmp_path / "out")
    half = []

    def savefig(self, place, **_):
        Path(place).write_bytes(b"half a picture")
        half.append(place)
        raise OSError("No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    with pytest.raises(OSError, match="No space"):
        write_report(made, tmp_path / "out")
    assert half
    assert contents(tmp_path / "out") == before


def test_every_score_and_cost_is_in_a_file(tmp_path):
    made = results(tmp_path)
    write_report(made, tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "cases.csv")) == len(made.cases)
    assert list(pd.read_csv(tmp_path / "out" / "costs.csv").arm) == list(made.arms)


def test_a_baseline_without_results_is_refused(tmp_path):
    made = results(tmp_path)
    with pytest.raises(InputError, match="The baseline base has no finished training"):
        write_report(results(tmp_path, cases=made.cases[made.cases.arm != "base"]), tmp_path / "out")


def test_the_largest_gains_and_losses_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    raw = tmp_path / "raw" / "Dataset1_Data"
    label = np.zeros((4, 12, 12), np.uint8)
    label[:, 3:9, 3:6], label[:, 3:9, 6:9] = 1, 2
    for folder, ending in [
        ("gt", ""),
        ("base", ""),
        ("better", ""),
        (raw / "imagesTr", "_0000"),
        (raw / "labelsTr", ""),
    ]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for case in CASES:
            sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / folder / f"{case}{ending}.nii.gz"))
    description = {**DESCRIPTION, "channel_names": {"0": "MRI"}, "numTraining": 20}
    (raw / "dataset.json").write_text(json.dumps(description))
    write_report(results(tmp_path, arms=("base", "better")), tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "better: largest gains and losses in Dice" in page
    assert (tmp_path / "out" / "figures" / "data_better_cases.png").stat().st_size > 20_000
