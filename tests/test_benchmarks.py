"""The benchmark scripts run to the end on something tiny and report every number they promise."""

import json
import math
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from benchmarks import (
    click_summary,
    elsewhere,
    extreme_points,
    gradient_shares,
    over_time,
    postprocessing,
    surface_at_landmarks,
    sweep,
)
from nnunet_ext.benchmark.folder import BenchmarkFolder
from nnunet_ext.benchmark.prepare import prepare
from nnunet_ext.benchmark.spec import parse
from nnunet_ext.discovery import discovery_folder
from nnunet_ext.errors import InputError
from tests import tiny
from tests.landmarks.raw import Case, write_dataset

pytestmark = pytest.mark.slow  # nobody needs them to use the package, and most start a process for every measurement

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_step_cost_reports_ratios_for_every_trainer_and_names_the_one_that_fails(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "step_cost.py"), "--patch-size", "16", "16", "16", "--batch-size", "1"]
    command += ["--repeats", "1", "--warmup", "0", "--threads", "1", "--json", str(tmp_path / "out.json")]
    # BatchNorm and batch size 1: the published code cannot train
    trainers = ["nnUNetTrainerReference", "nnUNetTrainerSDM", "nnUNetTrainerPnPNetPaper"]
    result = subprocess.run([*command, "--trainers", *trainers], capture_output=True, text=True)
    assert result.returncode == 1
    measured = json.loads((tmp_path / "out.json").read_text())["trainers"]
    assert list(measured) == ["nnUNetTrainer", *trainers]
    assert "batch size 1" in measured.pop("nnUNetTrainerPnPNetPaper")["error"]
    for name, cost in measured.items():
        assert f"| {name} |" in result.stdout
        assert cost["error"] is None
        numbers = [*cost["step_ratio"].values(), *cost["inference_ratio"].values(), cost["saved_ratio"]]
        assert all(math.isfinite(number) and number > 0 for number in [*numbers, *cost["step_seconds"]])
    assert measured["nnUNetTrainerReference"]["saved_ratio"] == 1
    assert measured["nnUNetTrainerSDM"]["saved_ratio"] > 1


def test_step_cost_measures_a_trainer_with_options(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "step_cost.py"), "--patch-size", "16", "16", "16", "--batch-size", "1"]
    command += ["--repeats", "1", "--warmup", "0", "--threads", "1", "--trainers", "nnUNetTrainerPnPNet"]

    def parameters(*options: str) -> float:
        subprocess.run([*command, "--json", str(tmp_path / "out.json"), *options], check=True, capture_output=True)
        return json.loads((tmp_path / "out.json").read_text())["trainers"]["nnUNetTrainerPnPNet"]["parameters_million"]

    assert parameters("--options", '{"pnpnet": {"push": true}}') > parameters()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("push", "no JSON"),
        ('{"push": true}', "by method"),
        ('{"pnpnett": {"push": true}}', "no options of 'pnpnett'"),
        ('{"pnpnet": {"pusch": true}}', "pusch"),
    ],
)
def test_step_cost_refuses_options_that_name_no_method(options, problem):
    run = [sys.executable, str(BENCHMARKS / "step_cost.py"), "--options", options]
    result = subprocess.run(run, capture_output=True, text=True)
    assert result.returncode == 2
    assert problem in result.stderr


def test_step_cost_measures_trainers_of_landmarks(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "step_cost.py"), "--patch-size", "16", "16", "16", "--landmarks", "2"]
    command += ["--repeats", "1", "--warmup", "0", "--threads", "1", "--json", str(tmp_path / "out.json")]
    result = subprocess.run([*command, "--trainers", "nnUNetTrainerBaBLoss"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    cost = json.loads((tmp_path / "out.json").read_text())["trainers"]["nnUNetTrainerBaBLoss"]
    assert cost["saved_ratio"] > 1


def test_step_cost_measures_scribble_trainers_with_an_ignore_label(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "step_cost.py"), "--patch-size", "16", "16", "16", "--batch-size", "1"]
    command += ["--repeats", "1", "--warmup", "0", "--threads", "1", "--trainers", "nnUNetTrainerMaskedCRF"]
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode == 1
    assert "has no ignore label" in without.stdout
    result = subprocess.run(
        [*command, "--ignore", "--json", str(tmp_path / "out.json")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out.json").read_text())["trainers"]["nnUNetTrainerMaskedCRF"]["step_ratio"]


def test_bridge_loss_compares_the_losses_and_the_gradients_of_the_maps(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "bridge_loss.py"), "--landmarks", "2", "--patch", "40", "40", "40"]
    result = subprocess.run(
        [*command, "--repeats", "1", "--json", str(tmp_path / "out.json")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "out.json").read_text())
    assert measured["gradient_differences"].keys() == measured["distance_map"].keys() == {"boxes", "pooled", "ours"}
    for rows in (measured["loss"], measured["distance_map"]):
        assert next(iter(rows.values()))["time_ratio"] == 1
        for name, row in rows.items():
            assert f"| {name} |" in result.stdout
            assert all(math.isfinite(number) and number > 0 for number in row.values())


def test_s2v_inference_plans_and_measures_time_and_memory(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "s2v_inference.py"), "--shape", "8", "32", "32", "--spacing", "4", "1"]
    ways = ["3d_fullres", "S2VNet A", "S2VNet B, both, bfloat16"]
    command += ["1", "--ways", *ways, "--mirroring", "on", "--repeats", "1", "--volume", "6", "32", "32"]
    command += ["--threads", "1", "--json", str(tmp_path / "out.json")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "out.json").read_text())
    assert list(measured["plans"]["configurations"]) == ["2d", "3d_fullres"]
    assert list(measured["measured"]) == ["with mirroring"]
    assert list(measured["measured"]["with mirroring"]) == ways
    for name, row in measured["measured"]["with mirroring"].items():
        assert f"| {name} |" in result.stdout
        assert row["grid"] == [6, 32, 32]
        numbers = [*row["seconds"], *row["time_ratio"].values(), row["peak_bytes"], row["peak_ratio"]]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert row["patch"] == [6, 32, 32]
    claim, goal = result.stdout.split("\n\n")[1].splitlines()[-2:]
    assert "claim" in claim
    assert claim.count("|") == goal.count("|") == 9
    assert re.search(r"goal.*float32 0\.077, bfloat16 0\.050.*0\.350", goal)


def test_s2v_memory_profile_draws_the_memory_of_every_way_from_its_beginning_to_its_end(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "s2v_memory_profile.py"), "--shape", "8", "32", "32", "--spacing", "4"]
    ways = ["3d_fullres", "S2VNet B, both"]
    files = ["--figure", str(tmp_path / "profile.png"), "--csv", str(tmp_path / "profile.csv")]
    result = subprocess.run([*command, "1", "1", "--ways", *ways, *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "profile.png").stat().st_size > 1000
    profiles = pd.read_csv(tmp_path / "profile.csv", index_col="part")
    assert profiles.shape == (300, 2)
    assert profiles.notna().all(axis=None)
    for way in ways:
        found = re.search(rf"{way}: read at most (\d+) MiB, by the kernel (\d+) MiB", result.stdout)
        read, counted = map(int, found.groups())
        assert abs(read - profiles[way].max()) <= 0.6  # both are rounded
        # a short peak may fall between two readings; the kernel misses none
        assert 0.5 * counted < read <= counted + 1
        assert profiles[way].iloc[0] < 0.5 * read


def test_s2v_inference_refuses_plans_of_single_slices(tmp_path):
    (tmp_path / "plans.json").write_text(json.dumps({"plans_name": "flat", "configurations": {"2d": {}}}))
    command = [sys.executable, str(BENCHMARKS / "s2v_inference.py"), "--plans", str(tmp_path / "plans.json")]
    result = subprocess.run(
        [*command, "--shape", "1", "9", "9", "--spacing", "1", "1", "1"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "no configuration 3d_fullres" in result.stderr


def test_the_gpu_page_is_filled_from_the_costs_of_the_planned_networks(nnunet_folders, tmp_path):
    nnunet_folders()
    command = [sys.executable, str(BENCHMARKS / "gpu_page.py"), "--datasets", "901", "--configurations", "2d"]
    command += ["--device", "cpu", "--repeats", "1", "--warmup", "0", "--out", str(tmp_path / "gpu.md"), "--trainers"]
    trainers = ["nnUNetTrainerPartialLabels", "nnUNetTrainerLandmark"]
    result = subprocess.run([*command, *trainers], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "gpu.md").read_text()
    assert "### Dataset901_Tiny, `2d`" in page
    for name in trainers:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert len(re.findall(r"\d+\.\d\d \(", row)) == 2, row
    assert "Not measured yet" in page.partition("## Accuracy")[2]


def test_a_benchmark_is_trained_elsewhere_and_comes_back(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))  # restored when prepare has set it
    spec = {
        "name": "mine",
        "baseline": "nnUNetTrainerReference",
        "trainers": [
            "nnUNetTrainerReference",
            {"name": "as long", "trainer": "nnUNetTrainerReference", "time_of": "nnUNetTrainerReference"},
        ],
        "datasets": ["synthetic"],
        "synthetic_cases": 10,
        "configurations": ["2d"],
        "plans": {"epochs": 1, "iterations": 1, "batch_size": 2},
        "folds": [0],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(spec))
    here, there, packed, back = (tmp_path / name for name in ("here", "there", "pack", "back.tar.gz"))
    own = str(tmp_path / "mine.yaml")
    assert elsewhere.main(["pack", str(packed), own, "--device", "cpu", "--folder", str(here)]) == 0
    (job,) = BenchmarkFolder(here / "mine").load()[1]  # the one whose iterations need no clock
    assert elsewhere.main(["run", str(packed), "--folder", str(there), "--at-once", "2", "--minutes", "10"]) == 0
    assert elsewhere.main(["collect", str(back), "--folder", str(there), "--weights", "Reference"]) == 0
    with tarfile.open(back) as tar:
        tar.extractall(here)
    benchmark = BenchmarkFolder(here / "mine")
    assert benchmark.record(job)["key"] == job.key
    assert (benchmark.of(job) / "metrics.csv").is_file()
    saved = torch.load(benchmark.fold(job) / "checkpoint_final.pth", weights_only=False)
    assert {value.dtype for value in saved["network_weights"].values()} == {torch.float16}


def test_what_cannot_be_run_elsewhere_gets_one_sentence(tmp_path, capsys):
    run = ["run", str(tmp_path / "pack"), "--folder", str(tmp_path / "there"), "--minutes"]
    assert elsewhere.main([*run, "1"]) == 2
    assert "is not there; give the file that elsewhere.py pack wrote" in capsys.readouterr().err
    assert elsewhere.main([*run, "0"]) == elsewhere.main([*run, "1", "--at-once", "0"]) == 2
    assert "but both must be positive" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_travels_is_rounded_to_a_256th_and_labels_not_at_all():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 3, (1, 3, 5, 6)).astype(np.float32)
    image[0, 0, 0, :3] = 60, -60, 60
    back = elsewhere.restored(elsewhere.rounded(image), "float32")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, image, atol=1 / 512)
    for labels in (rng.integers(-1, 5, (1, 4, 5)).astype(np.int16), np.array([[300, 2]], np.int16)):
        back = elsewhere.restored(elsewhere.rounded(labels), "int16")
        assert back.dtype == np.int16
        np.testing.assert_array_equal(back, labels)


def test_ablations_of_s2vnet_answer_every_question_for_every_variant():
    command = [sys.executable, str(BENCHMARKS / "s2v_ablations.py"), "--seeds", "1", "--steps", "2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[1:-1] for line in result.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == [
        "",
        "S2VNet",
        "no propagation",
        "aggregation: last slice only",
        "aggregation: mean",
        "click decay 1 (all clicks count alike)",
        "click decay 0.25",
        "",
        *(f"interactive {share}" for share in ("0", "0.25", "0.5", "0.75")),
    ]
    for row in rows:
        if row[0].strip():
            assert all(0 <= float(cell.split()[0]) <= 1 for cell in row[1:])
            assert len(row) == 7


def test_many_clicks_report_time_and_memory_against_the_beginning():
    command = [sys.executable, str(BENCHMARKS / "s2v_clicks.py"), "--clicks", "20", "--threads", "1"]
    result = subprocess.run([*command, "--shape", "3", "32", "32"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *_, row = result.stdout.splitlines()
    clicks, seconds, ratio, *memory = (cell.strip() for cell in row.split("|")[1:-1])
    assert clicks == "20"
    assert float(seconds) > 0
    assert float(ratio) > 0
    assert memory[1] in {"1.000", "–"}


def test_the_table_of_the_baselines_comes_from_their_packages(tmp_path):
    root = BENCHMARKS.parent
    packages = sorted(path.parent for path in (root / "docs/results").glob("low-*/records.json"))
    command = [
        sys.executable,
        str(BENCHMARKS / "baselines.py"),
        *map(str, packages),
        "--figure",
        str(tmp_path / "b.png"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(packages) >= 2
    assert result.stdout in (root / "docs/results/baselines.md").read_text(encoding="utf-8")
    assert (tmp_path / "b.png").stat().st_size > 10_000


def training(seconds, dice):
    return SimpleNamespace(about={"epoch_seconds": seconds, "curves": {"mean_fg_dice": dice}})


def test_curves_over_time_mean_trainings_at_the_same_minute():
    slow, fast = training([60.0] * 40, [0.5] * 40), training([30.0] * 40, [0.7] * 40)
    times, line = over_time.mean_curve([slow, fast])
    assert (times[0], times[-1]) == (1.0, 20.0)
    np.testing.assert_allclose(line, 0.6)


def test_curves_over_time_do_not_lag():
    rising = training([60.0] * 100, list(np.arange(1, 101) / 100))
    times, line = over_time.mean_curve([rising])
    inside = slice(over_time.POINTS // 4, -over_time.POINTS // 4)
    np.testing.assert_allclose(line[inside], times[inside] / 100, atol=0.002)


def test_curves_over_time_come_from_reports(tmp_path):
    reports = [BENCHMARKS.parent / "docs/results" / name for name in ("low-acdc-fewshot", "low-hippocampus-fewshot")]
    over_time.main([*map(str, reports), "--without", "SelfTraining", "--figure", str(tmp_path / "t.png")])
    assert (tmp_path / "t.png").stat().st_size > 10_000


def clicked(file, gains, effects):
    """Two clicks on two images of each of two subjects; the second click counts only where there is one."""
    names = ("case", "clicks", "label", "dice", "obeyed", "fixed", "broken", "slices", "seconds")
    rows = []
    for case, gain in zip(("a_1", "a_2", "b_1", "b_2"), gains, strict=True):
        rows.append((case, 0, "x", 0.5, None, None, None, None, 0.1))
        rows.append((case, 1, "x", 0.5 + gain, True, *effects, 1, 0.2))
    rows += [("b_2", 10, "x", 0.5 + gains[-1], True, 10, 0, 3, 0.4), ("b_2", 3, "x", 0.5, False, 10, 0, 3, 0.4)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(",".join("" if x is None else str(x) for x in row) for row in (names, *rows)))


def test_clicks_of_several_models_are_summed_up(tmp_path, capsys):
    for model, gain in (("first", 0.1), ("second", 0.3)):
        clicked(tmp_path / "organ" / model / "session.csv", (gain, gain + 0.1, gain, gain), (10, 5))
        clicked(tmp_path / "organ" / model / "clicked_slice.csv", (0.1, 0.1, 0.0, 0.0), (5, 10))
    clicked(tmp_path / "organ" / "second" / "walker.csv", (0, 0, 0, 0), (1, 1))  # of one model only
    ways = click_summary.read(tmp_path / "organ", "^[ab]")
    assert list(ways) == ["session", "clicked_slice"]
    np.testing.assert_allclose(ways["session"].gains, [[0.15, 0.1], [0.35, 0.3]])
    np.testing.assert_allclose(ways["clicked_slice"].gains, [[0.1, 0.0]] * 2)
    assert click_summary.read(tmp_path / "organ")["session"].gains.shape == (2, 4)
    click_summary.main([str(tmp_path / "organ"), "--by", "^[ab]", "--figure", str(tmp_path / "f.png")])
    title, _, _, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert title == "organ: 2 models, 2 subjects, 12 clicks"
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[:5] == ["session", "0.500", "0.725", "0.675", "0.725"]
    assert cells[5].startswith("+0.225 [")
    assert cells[6:] == ["", "83 %", "0.0 %", "33 %", "1.7", "0.20"]
    assert second.split("|")[7].strip().startswith("-0.175 [")
    assert second.split("|")[9].strip() == "66.7 %"
    assert (tmp_path / "f.png").stat().st_size > 5_000


def test_a_mask_is_cut_and_fitted_to_the_extreme_points_of_the_truth():
    truth = np.zeros((3, 24, 24), bool)
    truth[1, 6:18, 8:16] = True
    limits = extreme_points.extent(truth)
    assert limits.tolist() == [6, 17, 8, 15]
    small = np.zeros_like(truth)
    small[1, 8:16, 10:14] = True
    small[2, 0, 0] = True
    assert not extreme_points.cut(small, limits)[2].any()
    assert (extreme_points.cut(small, limits)[1] == small[1]).all()
    grown = extreme_points.fitted(small, limits, (10.0, 1.0, 1.0))
    assert extreme_points.extent(grown).tolist() == limits.tolist()
    large = np.zeros_like(truth)
    large[1, 2:22, 4:20] = True
    assert (extreme_points.fitted(large, limits, (10.0, 1.0, 1.0)) == truth).all()
    assert (extreme_points.fitted(truth, limits, (10.0, 1.0, 1.0)) == truth).all()


def test_the_worth_of_extreme_points_is_printed(nnunet_folders, capsys):
    source = nnunet_folders() / "raw" / tiny.DATASET
    extreme_points.main([str(source / "labelsTr"), "--dataset", tiny.DATASET, "--labels", "left", "right"])
    _, _, left, right = capsys.readouterr().out.strip().splitlines()
    assert left == "| left | 6 | 1.000 | 1.000 | 1.000 |"
    assert right.startswith("| right | 6 | 1.000 | 1.000 |")


def test_surfaces_are_measured_at_the_landmarks(tmp_path, capsys):
    cases = {name: Case(seed) for seed, name in enumerate(("one_a", "one_b", "two_a"))}
    folder = write_dataset(tmp_path, {name: (case, "landmarks") for name, case in cases.items()})
    for name, case in cases.items():
        narrow, empty = case.array.copy(), np.zeros_like(case.array)
        last = np.nonzero(narrow)[2].max()
        narrow[:, :, last - 1 :] = 0  # two voxels of 1.5 mm, on whose face one of three landmarks lies
        for kind, array in {"true": case.array, "narrow": narrow, "empty": empty}.items():
            case.write(tmp_path / kind / f"{name}.nii.gz", array)
    arguments = [str(folder), str(folder / "landmarksTr"), "--by", "[a-z]+", "--file", str(tmp_path / "out.csv")]
    arms = [f"{kind}={tmp_path / kind}" for kind in ("true", "narrow")]
    assert surface_at_landmarks.main([*arguments, *arms]) == 0
    _, _, true, narrow = capsys.readouterr().out.strip().splitlines()
    assert true == "| true | 2 | 0.00 | 0.00 | 0 | – | – |"
    assert narrow.startswith("| narrow | 2 | 1.00 | 0.00 | 0 | +1.00 [")
    assert narrow.endswith("| 0 of 2 |")
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.columns.tolist() == ["arm", "subject", "case", "landmark", "organ", "mm"]
    assert table.set_index(["arm", "case", "landmark"])["mm"]["narrow", "two_a", "left"] == pytest.approx(3.0)
    assert surface_at_landmarks.main([*arguments, f"empty={tmp_path / 'empty'}"]) == 0
    assert "| empty | 2 | nan | nan | 9 |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        surface_at_landmarks.main([*arguments[:3], "[A-Z]+", *arms])
    assert "--by '[A-Z]+' matches nothing in 3 of 3 cases (one_a, one_b, two_a)" in capsys.readouterr().err


def test_gradients_are_compared_on_the_weights_that_both_reach():
    one = [torch.tensor([3.0, 4.0]), None, torch.tensor([[9.0]])]
    other = [torch.tensor([4.0, 3.0]), torch.tensor([5.0]), None]
    assert gradient_shares.against(one, other) == pytest.approx((1.0, 24 / 25))
    assert gradient_shares.against([2 * one[0], None, None], other)[0] == pytest.approx(2.0)
    assert np.isnan(gradient_shares.against([None, None, one[2]], other)).all()


def test_the_gradient_of_every_term_is_printed(nnunet_folders, tmp_path):
    root = nnunet_folders("ignore")
    command = [sys.executable, str(BENCHMARKS / "gradient_shares.py"), tiny.DATASET, "2d", "0", "--batches", "2"]
    result = subprocess.run([*command, "-tr", "nnUNetTrainerMaskedCRF"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    _, _, segmentation, crf = result.stdout.strip().splitlines()
    assert re.fullmatch(r"\| segmentation \| 1 \| -?[\d.]+ \| 1\.000 \| \+1\.00 \|", segmentation)
    assert re.fullmatch(r"\| crf \| [\d.]+ \| [\d.]+ \| [\d.]+ \| [+-][\d.]+ \|", crf)
    assert not any((root / "results").rglob("*"))
    for arguments, said in (
        (["-tr", "nnUNetTrainer"], "is no trainer of nnunet-ext"),
        (["-tr", "nnUNetTrainerMaskedCRF", "--reference", "x"], "has no term 'x'; it has segmentation, crf"),
        (["-tr", "nnUNetTrainerMaskedCRF", "--checkpoint", str(tmp_path / "x.pth")], "is no file"),
    ):
        result = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert result.returncode == 1
        assert said in result.stderr


def test_averages_begin_as_copies_of_the_network_in_the_checkpoint(nnunet_folders, tmp_path, monkeypatch):
    plans = nnunet_folders("ignore") / "preprocessed" / tiny.DATASET / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["2d"]["nnunet_ext"] = {"attenscribble": {"pseudo_weight": 1.0}}
    plans.write_text(json.dumps(content))
    monkeypatch.setenv("nnUNet_extTrainer", str(discovery_folder()))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    asked = SimpleNamespace(dataset=tiny.DATASET, configuration="2d", fold="0", trainer="nnUNetTrainerMaskedCRF")
    asked.plans, asked.epoch, asked.device, asked.checkpoint = "nnUNetPlans", None, "cpu", None
    weights = {name: weight + 1 for name, weight in gradient_shares.started(asked).network.state_dict().items()}
    asked.checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"network_weights": weights}, asked.checkpoint)
    average = gradient_shares.started(asked).average().network.state_dict()
    assert all(torch.equal(average[name], weight) for name, weight in weights.items())


def test_what_postprocessing_leaves_is_scored_for_every_way(nnunet_folders, capsys):
    root = nnunet_folders("ignore")
    benchmark = BenchmarkFolder(root / "benchmark")
    spec = {"baseline": "nnUNetTrainerReference", "trainers": ["nnUNetTrainerReference"], "datasets": [901]}
    [job] = prepare(
        parse({**spec, "folds": [0], "configurations": ["3d_fullres"]}, "mine.yaml", "mine", alone=True), benchmark
    )
    assert postprocessing_fails(benchmark, capsys).endswith("run it with nnunet-ext benchmark run.\n")
    benchmark.of(job).mkdir(parents=True)
    (benchmark.of(job) / "record.json").write_text("{}")
    benchmark.predictions(job).mkdir(parents=True)
    for case in ("tiny_4", "tiny_5"):
        image = sitk.ReadImage(str(root / "raw" / tiny.DATASET / "labelsTr" / f"{case}.nii.gz"))
        labels = sitk.GetArrayFromImage(image)
        predicted = np.zeros_like(labels)
        for label in (1, 2):  # the boxes of the data set, without the holes where nobody annotated
            box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(labels == label))
            predicted[box] = label
        predicted[15:, 16:, 18:] = 1  # far from both, where "background" is annotated
        output = sitk.GetImageFromArray(predicted)
        output.CopyInformation(image)
        sitk.WriteImage(output, str(benchmark.predictions(job) / f"{case}.nii.gz"))
    postprocessing.main([str(benchmark.folder), "--file", str(root / "cases.csv")])
    rows = pd.read_csv(root / "cases.csv")
    assert len(rows) == 2 * 3
    means = rows.groupby("way")[["dice", "hd95_mm"]].mean()
    assert means.loc["as predicted", "dice"] < 1
    assert means.loc["as predicted", "hd95_mm"] > 1
    for way in ("nnU-Net's choice", "largest component"):
        assert means.loc[way].tolist() == [1, 0]
    printed = capsys.readouterr().out
    assert f"\n{tiny.DATASET}\n" in printed
    assert "| nnUNetTrainerReference | 1 | 0." in printed


def test_what_postprocessing_leaves_of_a_difference_is_over_subjects_and_common_seeds():
    def rows(arm, seed, gain):
        for subject, case, dice in [(f"s{n // 2}", f"case{n}", 0.5 + 0.02 * n) for n in range(16)]:
            for way in postprocessing.WAYS:
                value = dice + (gain if way == "as predicted" else 0)
                yield {
                    "arm": arm,
                    "seed": seed,
                    "subject": subject,
                    "case": case,
                    "way": way,
                    "dice": value,
                    "hd95_mm": 9,
                }

    scores = pd.DataFrame([*rows("stock", 0, 0), *rows("ours", 0, 0.1), *rows("ours", 1, 0.3), *rows("alone", 2, 0)])
    table = postprocessing.differences(scores, "stock").splitlines()
    equal = "+0.000 [+0.000, +0.000]"
    assert table[2] == f"| ours | 1 | Dice | +0.100 [+0.100, +0.100] | {equal} | {equal} |"
    assert table[4] == "| alone | 0 | Dice | – | – | – |"
    with pytest.raises(InputError, match=r"--baseline: dense has no predictions .* name one of stock, ours, alone\."):
        postprocessing.differences(scores, "dense")


def test_several_configurations_are_not_postprocessed_together(nnunet_folders, capsys):
    benchmark = BenchmarkFolder(nnunet_folders() / "benchmark")
    spec = {"baseline": "nnUNetTrainerReference", "trainers": ["nnUNetTrainerReference"], "datasets": [901]}
    content = {**spec, "folds": [0], "configurations": ["2d", "3d_fullres"]}
    for job in prepare(parse(content, "mine.yaml", "mine", alone=True), benchmark):
        benchmark.of(job).mkdir(parents=True)
        (benchmark.of(job) / "record.json").write_text("{}")
        benchmark.predictions(job).mkdir(parents=True)
    found = f"{tiny.DATASET} 2d, {tiny.DATASET} 3d_fullres; expected one data set and configuration."
    assert found in postprocessing_fails(benchmark, capsys)


def postprocessing_fails(benchmark: BenchmarkFolder, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        postprocessing.main([str(benchmark.folder)])
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_a_sweep_means_subjects_on_the_folds_that_all_arms_have():
    rows = [
        (arm, fold, 0, f"{subject}{case}", subject, label, dice, 10 * dice)
        for arm, fold, dice in (
            ("few", 0, 0.2),
            ("few", 1, 0.9),
            ("many", 0, 0.6),
            ("stock", 0, 0.4),
            ("stock", 1, 0.0),
        )
        for subject, case in (("a", 1), ("a", 2), ("b", 1))
        for label in ("x", "y")
    ]
    cases = pd.DataFrame(rows, columns=["arm", "fold", "seed", "case", "subject", "label", "dice", "hd95_mm"])
    figure = sweep.drawn(cases, {"share": {"many": 0.8, "few": 0.1}}, "stock")
    above, below = figure.axes
    for axes, factor in ((above, 1), (below, 10)):
        *subjects, mean, line = axes.lines
        assert len(subjects) == 2
        np.testing.assert_allclose(mean.get_xdata(), [0.1, 0.8])
        np.testing.assert_allclose(mean.get_ydata(), [0.2 * factor, 0.6 * factor])
        np.testing.assert_allclose(line.get_ydata(), 0.4 * factor)
    with pytest.raises(SystemExit, match="'none' is not in these reports on all folds"):
        sweep.drawn(cases, {"share": {"many": 0.8, "few": 0.1}}, "none")


def test_a_sweep_is_drawn_from_reports(tmp_path):
    report = BENCHMARKS.parent / "docs/results/low-acdc-fewshot"
    panel = ["--panel", "images", "MedContext labelled only=0", "MedContext=1"]
    sweep.main([str(report), *panel, "--line", "SelfTraining", "--figure", str(tmp_path / "s.png")])
    assert (tmp_path / "s.png").stat().st_size > 10_000
