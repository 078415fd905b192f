"""Collecting results for a report: of models that nnU-Net trained, and of finished jobs of a benchmark."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark import analysis, results, score
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.results import from_benchmark, from_models
from nnunet_ext.benchmark.spec import parse
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.splits.files import write_folds
from nnunet_ext.splits.folds import Fold
from nnunet_ext.splits.subjects import Grouping
from tests import tiny

STOCK, OTHER = "nnUNetTrainer__nnUNetPlans__3d_fullres", "nnUNetTrainerPnPNet__nnUNetPlans__3d_fullres"


@pytest.fixture
def root(nnunet_folders, monkeypatch):
    monkeypatch.setattr(results, "evaluate_folders", functools.partial(results.evaluate_folders, processes=1))
    return nnunet_folders()


def predict(root: Path, folder: Path, cases: list[str], wrong: float = 0.1) -> None:
    """Predictions of these cases: their references, without this share of the foreground."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(len(folder.parts[-2]))
    for case in cases:
        reference = sitk.ReadImage(str(root / "raw" / tiny.DATASET / "labelsTr" / f"{case}.nii.gz"))
        array = sitk.GetArrayFromImage(reference)
        array[draw.random(array.shape) < wrong] = 0
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(reference)
        sitk.WriteImage(image, str(folder / f"{case}.nii.gz"))


def model(root: Path, name: str, folds: dict[int, list[str]], under: str = "results") -> Path:
    """A model of the tiny data set that has validated these cases."""
    folder = root / under / tiny.DATASET / name
    for fold, cases in folds.items():
        validation = folder / f"fold_{fold}" / "validation"
        predict(root, validation, cases)
        (validation / "summary.json").write_text("{}")
    preprocessed = root / "preprocessed" / tiny.DATASET
    shutil.copy(preprocessed / "dataset.json", folder)
    shutil.copy(preprocessed / "nnUNetPlans.json", folder / "plans.json")
    return folder


def test_one_model_named_twice_is_one_training(root, monkeypatch):
    models = [model(root, name, {0: ["tiny_4", "tiny_5"]}) for name in (STOCK, OTHER)]
    monkeypatch.chdir(models[0].parent)
    again = [f"{STOCK}/", f"./{OTHER}"]
    assert [t.seed for t in from_models([*models, *again], "nnUNetTrainer").trainings] == [0, 0]
    elsewhere = [model(root, name, {0: ["tiny_4", "tiny_5"]}, under="again") for name in (STOCK, OTHER)]
    assert {t.seed for t in from_models([*models, *elsewhere], "nnUNetTrainer").trainings} == {0, 1}


def test_what_else_nnunet_writes_beside_models_is_left_out(root, capsys):
    folder = model(root, STOCK, {0: ["tiny_4"]}).parent
    model(root, OTHER, {0: ["tiny_4"]})
    (folder / "ensembles").mkdir()
    (folder / "inference_information.json").write_text("{}")
    found = from_models(sorted(folder.iterdir()), "nnUNetTrainer")
    assert set(found.arms) == {"nnUNetTrainer", "nnUNetTrainerPnPNet"}
    assert capsys.readouterr().out.endswith("TRAINER__PLANS__CONFIGURATION: ensembles, inference_information.json\n")
    for wrong in ([folder / "ensembles"], [*folder.iterdir(), folder / "nnUNetTrainer"]):
        with pytest.raises(InputError, match="is no trained model"):
            from_models(wrong, "nnUNetTrainer")


def test_the_baseline_may_be_a_trainer_if_one_model_has_it(root):
    models = [model(root, name, {0: ["tiny_4"]}) for name in (STOCK, OTHER, OTHER.replace("nnUNetPlans", "lowPlans"))]
    assert from_models(models, "nnUNetTrainer").baseline == STOCK
    with pytest.raises(InputError, match="'nnUNetTrainerPnPNet' is not compared here; there are"):
        from_models(models, "nnUNetTrainerPnPNet")


def test_the_log_is_the_newest_by_the_numbers_in_its_name(root):
    models = [model(root, name, {0: ["tiny_4"]}) for name in (STOCK, OTHER)]
    for time in ("2025_9_30_12_00_00", "2025_10_1_08_00_00", "2025_3_9_23_59_59"):
        (models[0] / "fold_0" / f"training_log_{time}.txt").touch()
    found = [training.log for training in from_models(models, "nnUNetTrainer").trainings]
    assert [log and log.name for log in found] == ["training_log_2025_10_1_08_00_00.txt", None]


def test_copies_of_a_fold_are_no_folds(root):
    models = [model(root, name, {0: ["tiny_4"]}) for name in (STOCK, OTHER)]
    for copy in ("fold_0_old", "fold_0_1", "fold_all"):
        shutil.copytree(models[0] / "fold_0", models[0] / copy)
    assert {t.fold for t in from_models(models, "nnUNetTrainer").trainings} == {0}


def test_subsets_of_different_size_are_different_groups(root):
    cases = [f"tiny_{i}" for i in range(6)]
    write_folds(
        root / "preprocessed" / tiny.DATASET / "splits_final.json",
        [Fold(tuple(cases[:size]), tuple(cases[4:])) for size in (1, 1, 4)],
        tiny.DATASET,
        Grouping("case", {case: case for case in cases}),
        "made up",
    )
    models = [model(root, name, dict.fromkeys(range(3), cases[4:])) for name in (STOCK, OTHER)]
    found = from_models(models, "nnUNetTrainer")
    assert {(t.group, t.fold) for t in found.trainings} == {
        (f"{tiny.DATASET}, 1 training subjects", 0),
        (f"{tiny.DATASET}, 1 training subjects", 1),
        (f"{tiny.DATASET}, 4 training subjects", 2),
    }
    assert {group.dataset for group in found.groups} == {tiny.DATASET}
    assert found.cases["subject"].notna().all()


def test_only_cases_of_every_training_are_compared(root):
    models = [model(root, STOCK, {0: ["tiny_4", "tiny_5"], 1: ["tiny_0"]})]
    models.append(model(root, OTHER, {0: ["tiny_5"], 1: ["tiny_0"]}))
    found = from_models(models, "nnUNetTrainer")
    assert not analysis.same_cases(found, tiny.DATASET)
    table = analysis.values(found, tiny.DATASET, found.arms, "dice")[analysis.MEAN]
    assert sorted(zip(table["arm"], table["case"], strict=True)) == [
        (arm, case) for arm in found.arms for case in ("tiny_0", "tiny_5")
    ]
    [finding, *_] = analysis.findings(found, tiny.DATASET, analysis.metrics_of(found.cases)[0])
    assert finding.comparison.n == 2


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"definition": "voxel"}, "with another definition of distances than"),
        ({"nsd_tolerances_mm": [2]}, "with other NSD tolerances than"),
        ({"topology": True}, "without topology, which"),
        ({"consistency": True}, "without consistency, which"),
        ({"interfaces": True}, "without interfaces, which"),
    ],
)
def test_scores_of_other_metrics_are_not_mixed(root, metrics, said):
    benchmark = BenchmarkFolder(root / "benchmark")
    content = {
        "baseline": "nnUNetTrainerReference",
        "trainers": ["nnUNetTrainerReference", "nnUNetTrainerPnPNet"],
        "datasets": [901],
        "folds": [0],
        "device": "cpu",
    }
    for asked, arm in ((metrics, 0), ({}, 1), (metrics, None)):
        spec = parse({**content, "metrics": asked}, "mine.yaml", "mine")
        jobs = prepare(spec, benchmark)
        if arm is not None:
            predict(root, benchmark.predictions(jobs[arm]), ["tiny_4", "tiny_5"])
            about = {"training": {}, "memory": {}, "versions": {}, "hardware": {}, "command": ""}
            scored = score.evaluate(benchmark, jobs[arm], spec.metrics)
            write_json(benchmark.of(jobs[arm]) / "record.json", {**about, "evaluation": scored})
    with pytest.raises(InputError, match=rf"PnPNet, .* was scored {said} .*record\.json"):
        from_benchmark(benchmark)
    (benchmark.of(jobs[1]) / "record.json").unlink()
    assert set(from_benchmark(benchmark).cases["arm"]) == {"nnUNetTrainerReference"}


def test_how_far_slices_are_from_agreeing_as_those_of_the_truth_is_a_metric(root):
    """Too smooth is as wrong as flickering, so the mean is one of absolute differences."""
    benchmark = BenchmarkFolder(root / "benchmark")
    content = {"baseline": "nnUNetTrainerReference", "trainers": ["nnUNetTrainerReference"], "datasets": [901]}
    spec = parse(
        {**content, "folds": [0], "device": "cpu", "metrics": {"consistency": True}}, "mine.yaml", "mine", alone=True
    )
    [job] = prepare(spec, benchmark)
    predict(root, benchmark.predictions(job), ["tiny_4", "tiny_5"])
    about = {"training": {}, "memory": {}, "versions": {}, "hardware": {}, "command": ""}
    scored = score.evaluate(benchmark, job, spec.metrics)
    write_json(benchmark.of(job) / "record.json", {**about, "evaluation": scored})
    found = from_benchmark(benchmark)
    errors = found.cases["consistency_error"].to_numpy()
    assert errors == pytest.approx(abs(found.cases["consistency"] - found.cases["consistency_reference"]))
    assert (errors > 0).any()
    [metric] = [one for one in analysis.metrics_of(found.cases) if one.column == "consistency_error"]
    assert not metric.higher_is_better
    table = analysis.values(found, found.groups[0].name, found.arms, "consistency_error")[analysis.MEAN]
    assert table["value"].mean() == pytest.approx(errors.mean())


def test_single_slices_have_no_consistency(root):
    plans = root / "preprocessed" / tiny.DATASET / "nnUNetPlans.json"
    known = json.loads(plans.read_text())
    write_json(plans, {**known, "original_median_shape_after_transp": [1, 16, 16]})
    content = {"baseline": "nnUNetTrainerReference", "trainers": ["nnUNetTrainerReference"], "datasets": [901]}
    spec = parse(
        {**content, "folds": [0], "device": "cpu", "metrics": {"consistency": True}}, "mine.yaml", "mine", alone=True
    )
    with pytest.raises(InputError, match="single slices, which have no neighbours; leave metrics: consistency out"):
        prepare(spec, BenchmarkFolder(root / "benchmark"))


def test_dataset_json_of_the_models_is_enough(root, monkeypatch):
    models = [model(root, name, {0: ["tiny_4"]}) for name in (STOCK, OTHER)]
    monkeypatch.delenv("nnUNet_preprocessed")
    found = from_models(models, "nnUNetTrainer")
    assert json.loads((models[0] / "dataset.json").read_text()) == found.groups[0].description
