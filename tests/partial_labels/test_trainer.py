"""The trainer for partially annotated cases: its loss, what nnU-Net logs, and a training on files."""

import json
import multiprocessing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_ext.attenscribble.paper_trainer import nnUNetTrainerAttenScribblePaper
from nnunet_ext.errors import InputError
from nnunet_ext.medcontext.trainer import MedContext
from nnunet_ext.partial_labels.trainer import SUMMARY, PartialLabels, nnUNetTrainerPartialLabels
from nnunet_ext.selftraining.trainer import nnUNetTrainerSelfTraining
from tests import tiny

PARTIAL = {"tiny_0": ["left"], "tiny_4": ["left"], "tiny_5": []}
REGIONS = {"tiny_0": ["whole"], "tiny_4": ["whole"], "tiny_5": []}


@pytest.fixture
def annotate(monkeypatch):
    """``annotate(entries, root)``: data sets of this test say so, and the raw one below ``root``."""

    def use(entries, root=None):
        stock = tiny.dataset_json
        if root is not None:
            file = root / "raw" / tiny.DATASET / "dataset.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "annotated_labels": entries}))
        monkeypatch.setattr(tiny, "dataset_json", lambda kind="classes": {**stock(kind), "annotated_labels": entries})

    return use


def batch(trainer, keys=("tiny_0", "tiny_1"), seed=0):
    return {**tiny.batch(trainer, seed), "keys": np.array(keys)}


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("kind", tiny.LABELS)
def test_two_steps_and_a_validation_on_every_kind_of_labels(make_trainer, annotate, kind, configuration):
    annotate(REGIONS if "regions" in kind else PARTIAL)
    trainer = make_trainer("nnUNetTrainerPartialLabels", kind=kind, configuration=configuration)
    before = [p.detach().clone() for p in trainer.network.parameters()]
    for seed, keys in enumerate([("tiny_0", "tiny_1"), ("tiny_5", "tiny_5")]):
        assert np.isfinite(trainer.train_step(batch(trainer, keys, seed))["loss"])
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    trainer.network.eval()
    with torch.no_grad():
        assert trainer.validation_step(batch(trainer))["tp_hard"].shape == (2,)


@pytest.mark.parametrize("kind", tiny.LABELS)
def test_in_completely_annotated_cases_it_is_the_reference(make_trainer, annotate, kind):
    annotate(REGIONS if "regions" in kind else PARTIAL)
    ours = make_trainer("nnUNetTrainerPartialLabels", kind=kind)
    reference = make_trainer("nnUNetTrainerReference", kind=kind)
    for seed in range(2):
        a, b = (t.train_step(batch(t, ("tiny_1", "tiny_2"), seed)) for t in (ours, reference))
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-5)
    for name in ("tp_hard", "fp_hard", "fn_hard"):
        a, b = (t.validation_step(batch(t, ("tiny_1", "tiny_2"))) for t in (ours, reference))
        assert np.array_equal(a[name], b[name])


@pytest.mark.parametrize("kind", tiny.LABELS)
def test_the_pseudo_dice_counts_a_label_only_where_it_was_annotated(make_trainer, annotate, kind):
    """``right`` is annotated in the second sample alone; there the counts are nnU-Net's own."""
    annotate(REGIONS if "regions" in kind else PARTIAL)
    trainer = make_trainer("nnUNetTrainerPartialLabels", kind=kind, configuration="2d")
    trainer.network.eval()
    trainer.batch_size = 2
    full = batch(trainer)
    second = {"data": full["data"][1:], "target": [t[1:].clone() for t in full["target"]], "keys": full["keys"][1:]}
    counts = ("tp_hard", "fp_hard", "fn_hard")
    with torch.no_grad():
        alone, both = trainer.validation_step(second), trainer.validation_step(full)
        output = trainer.network(full["data"])
    assert [both[c][1] for c in counts] == [alone[c][1] for c in counts]
    assert sum(both[c][0] for c in counts) > sum(alone[c][0] for c in counts)
    assert not trainer.network._forward_hooks
    # the hook did not change the network: without keys of partial cases nnU-Net sees its own output
    assert torch.equal(output[0], trainer.network(full["data"])[0])


def test_the_loss_that_is_validated_is_the_one_that_is_trained(make_trainer, annotate):
    annotate(PARTIAL)
    trainer = make_trainer("nnUNetTrainerPartialLabels", configuration="2d")
    given = batch(trainer)
    copy = {**given, "target": [t.clone() for t in given["target"]]}
    with torch.no_grad():
        validated = trainer.validation_step(copy)["loss"]
    assert float(validated) == pytest.approx(float(trainer.train_step(given)["loss"]), rel=1e-5)


def test_nothing_annotated_gives_no_gradient_to_the_network(make_trainer, annotate):
    annotate(PARTIAL)
    trainer = make_trainer("nnUNetTrainerPartialLabels")
    trainer.train_step(batch(trainer, ("tiny_5", "tiny_5")))
    assert max(p.grad.abs().max() for p in trainer.network.parameters() if p.grad is not None) < 1e-6


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({}, r"nnUNetTrainerPartialLabels learns from .*dataset\.json does not say which; add for example"),
        ({"tiny_0": ["heart"]}, r"annotated_labels of tiny_0 names \['heart'\]"),
    ],
)
def test_a_data_set_without_entries_or_with_wrong_ones_is_refused(make_trainer, annotate, entries, said):
    annotate(entries)
    with pytest.raises(InputError, match=said):
        make_trainer("nnUNetTrainerPartialLabels")


class Optional(PartialLabels):
    """A trainer for data sets with and without partial annotations."""

    needs_annotated_labels = False


def test_a_method_may_take_data_sets_without_entries_too(make_trainer):
    optional, reference = make_trainer(Optional), make_trainer("nnUNetTrainerReference")
    a, b = (t.train_step(batch(t)) for t in (optional, reference))
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-5)


class Wrapped(PartialLabels, MedContext):
    """Around a method of several passes."""


class Refused(PartialLabels, nnUNetTrainerAttenScribblePaper):
    """Around a method with a loss of its own."""


def test_around_another_trainer(make_trainer, annotate):
    annotate(PARTIAL)
    step = make_trainer(Wrapped, configuration="2d")
    result = step.train_step(batch(step))
    assert {"loss_segmentation", "loss_consistency"} <= set(result)
    assert np.isfinite([float(value) for value in result.values()]).all()
    with pytest.raises(InputError, match="this trainer has PartialCrossEntropy"):
        make_trainer(Refused, kind="ignore", configuration="2d")


class SelfTraining(PartialLabels, nnUNetTrainerSelfTraining):
    """Around a method with nnU-Net's loss on the network's own labels."""


@pytest.mark.parametrize("patches", [1, 2])
def test_labels_that_the_network_makes_itself_are_complete(make_trainer, annotate, patches):
    annotate(PARTIAL)
    ours, plain = (make_trainer(each, configuration="2d") for each in (SelfTraining, nnUNetTrainerSelfTraining))
    results = []
    for trainer in (ours, plain):
        trainer.network.eval()
        torch.manual_seed(0)
        results.append(trainer.train_step(batch(trainer) | {"unlabelled": torch.randn(patches, 1, 16, 16)}))
    a, b = results
    assert float(a["loss_pseudo_segmentation"]) == pytest.approx(float(b["loss_pseudo_segmentation"]), rel=1e-5)
    assert float(a["loss_segmentation"]) != pytest.approx(float(b["loss_segmentation"]), rel=1e-3)


def test_distributed_with_one_process_it_is_the_same(make_trainer, annotate, tmp_path):
    annotate(PARTIAL)
    alone, shared = (make_trainer("nnUNetTrainerPartialLabels", configuration="2d") for _ in range(2))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        shared.is_ddp = True
        shared.network = DistributedDataParallel(shared.network)
        alone.is_ddp = True  # the same small weight for the coarsest layer
        for trainer in (alone, shared):
            trainer.loss = trainer._build_loss()
        assert shared.partial_loss.over_processes is not None
        for keys in (("tiny_0", "tiny_1"), ("tiny_5", "tiny_5"), ("tiny_0", "tiny_5")):
            a, b = (t.train_step(batch(t, keys)) for t in (alone, shared))
            assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4)
    finally:
        dist.destroy_process_group()


def test_compiled(make_trainer, annotate):
    annotate(PARTIAL)
    plain, compiled = (make_trainer("nnUNetTrainerPartialLabels", configuration="2d") for _ in range(2))
    compiled.network = torch.compile(compiled.network, backend="eager")
    for trainer in (plain, compiled):
        trainer.network.eval()
    with torch.no_grad():
        a, b = (t.validation_step(batch(t)) for t in (plain, compiled))
    for name in ("loss", "tp_hard", "fp_hard", "fn_hard"):
        assert np.allclose(a[name], b[name], rtol=1e-5)


@pytest.fixture
def short():
    plans = tiny.plans()
    for settings in plans["configurations"].values():
        settings["nnunet_ext"] = {"schedule": {"epochs": 1, "iterations": 2, "validation_iterations": 1}}
    return plans


def test_a_training_on_files_validates_what_was_annotated(nnunet_folders, make_trainer, annotate, short, monkeypatch):
    # nnU-Net's pools as threads: starting processes takes longer than all the rest
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SimpleNamespace(Pool=ThreadPool))
    annotate(PARTIAL, nnunet_folders())
    trainer = make_trainer("nnUNetTrainerPartialLabels", configuration="2d", plans=short)
    trainer.run_training()
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder)
    stock = json.loads((folder / "validation" / "summary.json").read_text())
    own = json.loads((folder / "validation" / SUMMARY).read_text())
    assert own["cases"] == {"1": 1, "2": 0}  # of the validation cases, left was annotated in tiny_4, right in none
    (entry,) = [e for e in stock["metric_per_case"] if "tiny_4" in e["prediction_file"]]
    assert own["mean"]["1"]["TP"] == entry["metrics"]["1"]["TP"]
    log = next(folder.glob("training_log*")).read_text()
    assert "Of 4 training cases these were annotated in: {'left': 4, 'right': 3}" in log
    assert "Pseudo dice counts a label only in cases in which it was annotated" in log
    assert f"see {SUMMARY}" in log


def test_a_fold_in_which_a_label_is_annotated_nowhere_is_refused(nnunet_folders, make_trainer, annotate):
    nowhere = {f"tiny_{number}": ["left"] for number in range(6)}
    annotate(nowhere, nnunet_folders())
    trainer = make_trainer("nnUNetTrainerPartialLabels", configuration="2d")
    with pytest.raises(InputError, match=r"^No training case of fold 0 annotates right, .* remove the label\.$"):
        trainer.on_train_start()
    trainer.current_epoch = 1  # a training that goes on is not held up
    trainer.on_train_start()
    assert (
        "WARNING: no training case of fold 0 annotates right"
        in next(Path(trainer.output_folder).glob("training_log*")).read_text()
    )


def test_a_declaration_that_was_corrected_in_one_place_only_is_refused(nnunet_folders, make_trainer, annotate, capsys):
    root = nnunet_folders()
    annotate(PARTIAL)
    trainer = make_trainer("nnUNetTrainerPartialLabels", configuration="2d")
    with pytest.raises(InputError, match=r"has another 'annotated_labels' than the copy in nnUNet_preprocessed, which"):
        trainer.on_train_start()
    trainer.current_epoch = 1  # a training that goes on is not held up
    trainer.on_train_start()
    assert "WARNING" in capsys.readouterr().out
    file = root / "raw" / tiny.DATASET / "dataset.json"
    content = json.loads(file.read_text())
    # one name without a list, and a case that is not preprocessed yet
    same = {**PARTIAL, "tiny_0": "left", "new": ["left"]}
    file.write_text(json.dumps({**content, "annotated_labels": same}))
    make_trainer("nnUNetTrainerPartialLabels", configuration="2d").on_train_start()
    for damaged in (None, 3, [None]):
        file.write_text(json.dumps({**content, "annotated_labels": {**PARTIAL, "tiny_0": damaged}}))
        with pytest.raises(InputError, match=r"has another 'annotated_labels' than the copy"):
            make_trainer("nnUNetTrainerPartialLabels", configuration="2d").on_train_start()


def test_a_misspelled_case_is_found_before_the_training(nnunet_folders, make_trainer, annotate, short):
    annotate({"tiny_0.nii.gz": ["left"]}, nnunet_folders())
    trainer = make_trainer(nnUNetTrainerPartialLabels, configuration="2d", plans=short)
    with pytest.raises(InputError, match=r"case tiny_0\.nii\.gz, but there is no case of that name"):
        trainer.run_training()
