"""Two processes train together, as ``nnUNetv2_train -num_gpus 2`` does, on CPUs with gloo.

Each trainer of the table makes two steps, each process with samples of its own. DistributedDataParallel refuses the
second step if a parameter had no gradient in the first.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from nnunet_ext.catalogue import TRAINERS as CATALOGUE
from nnunet_ext.landmarks.training.loader import landmark_entries
from tests import tiny
from tests.structure import marks_of

RANKS, STEPS = 2, 2

pytestmark = pytest.mark.xdist_group("two processes")


@dataclass(frozen=True)
class Distributed:
    """A trainer, and what it needs.

    Attributes:
        settings: of our section of the configuration in the plans.
        batch_size: of all processes together.
        declares: what dataset.json says beside the labels.
        wrapped: with MedContext around the trainer.
        unlabelled: batches hold patches without labels.
    """

    trainer: str
    configuration: str = "2d"
    kind: str = "classes"
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 4
    declares: dict[str, Any] = field(default_factory=dict)
    wrapped: bool = False
    unlabelled: bool = False


def s2v(**options: Any) -> dict[str, Any]:
    return {"s2vnet": {"width": 8, "heads": 2, "embedding": 4, **options}}


LANDMARKS = {"landmarks": {"names": ["tip", "end"], "surface_of": {"tip": ["left"], "end": ["left", "right"]}}}
PSEUDO_LABELS = {"attenscribble": {"pseudo_weight": 1.0, "pseudo_start": 0.0, "pseudo_confidence": 0.0, "ramp": 0.0}}
SIMILARITY = {"attenscribble": {**tiny.OPTIONS["attenscribble"], "asl_weight": 1.0}}
PARTIAL = {"annotated_labels": {"case_0": ["left"]}}

TRAINERS = (
    Distributed("nnUNetTrainerReference"),
    Distributed("nnUNetTrainerSegmentedOnly"),
    *(
        Distributed(f"nnUNetTrainer{name}", configuration)
        for name in (
            "PnPNet",
            "SDM",
            "CCM",
            "PnPNetPaper",
            "MedContext",
            "MedContextMaskedOnly",
            "TubeCutout",
            "SelfTraining",
            "SCNP",
        )
        for configuration in ("2d", "3d_fullres")
    ),
    Distributed("nnUNetTrainerMedContextPaper"),
    *(
        Distributed(f"nnUNetTrainer{name}", configuration, unlabelled=True)
        for name, configuration in (
            ("MedContext", "2d"),
            ("MedContext", "3d_fullres"),
            ("MedContextPnPNet", "2d"),
            ("SelfTraining", "2d"),
        )
    ),
    Distributed("nnUNetTrainerMedContextPnPNet"),
    Distributed("nnUNetTrainerMedContextPrimusS", "3d_fullres"),
    *(
        Distributed(f"nnUNetTrainer{name}", kind="ignore")
        for name in ("AttenScribble", "MaskedCRF", "SSA", "AttenScribblePaper", "MaskedCRFPnPNet")
    ),
    *(Distributed(f"nnUNetTrainer{name}", kind="ignore", wrapped=True) for name in ("MaskedCRF", "AttenScribble")),
    *(
        Distributed("nnUNetTrainerAttenScribble", configuration, kind="ignore", settings=SIMILARITY)
        for configuration in ("2d", "3d_fullres")
    ),
    Distributed("nnUNetTrainerMaskedCRF", "3d_fullres", kind="ignore", settings=PSEUDO_LABELS),
    Distributed("nnUNetTrainerPartialLabels", declares=PARTIAL),
    Distributed("nnUNetTrainerPartialLabels", declares=PARTIAL, wrapped=True),
    *(
        Distributed(f"nnUNetTrainer{name}", kind="ignore", declares=LANDMARKS)
        for name in ("Landmark", "BaBLoss", "BaBLossPaper")
    ),
    *(
        Distributed("nnUNetTrainerBaBLoss", kind="ignore", declares=LANDMARKS, settings={"babloss": {weight: 0.0}})
        for weight in ("a_weight", "b_weight")
    ),
    Distributed("nnUNetTrainerBaBLoss", kind="ignore", declares=LANDMARKS, wrapped=True),
    Distributed("nnUNetTrainerBaBLoss", "3d_fullres", kind="ignore", declares=LANDMARKS),
    # 13 slices are 3 clips of 4, which two processes cannot share equally: one for each
    Distributed("nnUNetTrainerS2VNet", settings=s2v(inference_clip=4), batch_size=13),
    Distributed("nnUNetTrainerS2VNet", kind="regions", settings=s2v(inference_clip=4, interactive=1.0), batch_size=13),
    Distributed("nnUNetTrainerS2VNet", settings=s2v(inference_clip=4, interactive=0.0), batch_size=13),
    Distributed("nnUNetTrainerS2VNetNoPropagation", settings=s2v(inference_clip=1)),
)


def train_together(rank: int, folder: Path, numbers: Sequence[int]) -> None:
    """One process: trainers of the table, one after the other; what they did is in ``folder/<number>_<rank>.pt``."""
    torch.set_num_threads(1)
    os.environ |= {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    for number in numbers:
        where = f"file://{folder / f'rendezvous_{number}'}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=RANKS, timeout=timedelta(seconds=90))
        try:
            found: dict[str, Any] = steps_of(TRAINERS[number], rank)
        except Exception:
            found = {"error": traceback.format_exc()}
        torch.save(found, folder / f"{number}_{rank}.pt")
        dist.destroy_process_group()


def steps_of(case: Distributed, rank: int) -> dict[str, Any]:
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
    from torch.nn.parallel import DistributedDataParallel

    from nnunet_ext.catalogue import resolve
    from nnunet_ext.medcontext.trainer import MedContext

    # nnU-Net takes it for granted that processes which train together have a GPU each
    stock.DDP = lambda network, device_ids: DistributedDataParallel(network)
    # on CPUs there is none; PnPNetPaper's batch norm then knows its own samples alone
    torch.nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(lambda network, group=None: network)  # type: ignore
    trainer_class = resolve(case.trainer)
    tiny.shrink_transformers()
    if case.wrapped:
        trainer_class = type("Wrapped", (MedContext, trainer_class), {})

    class OnCPU(trainer_class):
        def __init__(
            self,
            plans: dict,
            configuration: str,
            fold: int,
            dataset_json: dict,
            device: torch.device = torch.device("cpu"),  # noqa: B008 (nnU-Net's signature)
        ) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.device, self.grad_scaler = device, None

    plans = {**tiny.plans(), "continue_training": False}
    configuration = plans["configurations"][case.configuration]
    configuration |= {"batch_size": case.batch_size, "nnunet_ext": {**tiny.OPTIONS, **case.settings}}
    torch.manual_seed(rank)  # DistributedDataParallel makes the weights equal
    trainer = OnCPU(plans, case.configuration, 0, {**tiny.dataset_json(case.kind), **case.declares})
    trainer.initialize()
    assert isinstance(trainer.network, DistributedDataParallel)
    trainer.network.train()
    steps = []
    for step in range(STEPS):
        batch = batch_of(trainer, rank, step)
        if case.unlabelled:
            batch["unlabelled"] = torch.randn(batch["data"].shape, generator=torch.Generator().manual_seed(rank))
        losses = trainer.train_step(batch)
        named = {**dict(trainer.network.module.named_parameters()), **dict(trainer.aux.named_parameters())}
        learned = {name: p for name, p in named.items() if p.requires_grad}
        steps.append(
            {
                "loss": float(losses["loss"]),
                "without": [name for name, p in learned.items() if p.grad is None],
                "gradients": {name: p.grad.clone() for name, p in learned.items() if p.grad is not None},
                "weights": {name: p.detach().clone() for name, p in learned.items()},
            }
        )
    buffers = {name: buffer.clone() for name, buffer in trainer.aux.named_buffers()}
    return {"samples": trainer.batch_size, "steps": steps, "buffers": buffers}


def batch_of(trainer: Any, rank: int, step: int) -> dict[str, Any]:
    """Samples of this process alone: the second one has landmarks only, the first one is drawn."""
    batch = tiny.batch(trainer, seed=10 * rank + step)
    size = len(batch["data"])
    if getattr(trainer, "has_clean_image", False):
        batch["data"] = torch.cat([batch["data"], batch["data"]], 1)
    batch["keys"] = [f"case_{10 * rank + sample}" for sample in range(size)]
    if hasattr(trainer, "landmark_declaration"):
        landmarks_only = rank == 1
        states = torch.full((size, 2), 1 if landmarks_only else -1, dtype=torch.int8)
        points = torch.full((size, 2, batch["data"].ndim - 2), 8.0 if landmarks_only else torch.nan)
        batch |= landmark_entries(points, states, torch.full((size,), not landmarks_only))
        for target in batch["target"] if isinstance(batch["target"], list) else [batch["target"]]:
            target[target == 3 if not landmarks_only else target >= 0] = 0 if not landmarks_only else 3
    return batch


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the trainers that are tested; starting processes is what takes time, so they are started once."""
    folder = tmp_path_factory.mktemp("ddp")
    tiny.make_data_folders(folder / "preprocessed")
    here = [item for item in request.session.items if item.path == request.path]
    numbers = [item.callspec.params["number"] for item in here if hasattr(item, "callspec")]
    multiprocessing.spawn(train_together, (folder, numbers), RANKS)
    return folder


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(
            number,
            marks=marks_of(case.trainer, case.configuration),
            id=f"{case.trainer}-{case.configuration}-{case.kind}{'-wrapped' * case.wrapped}"
            + "-unlabelled" * case.unlabelled,
        )
        for number, case in enumerate(TRAINERS)
    ],
)
def test_two_processes_take_the_same_steps_on_different_samples(trained, number):
    ranks = [torch.load(trained / f"{number}_{rank}.pt") for rank in range(RANKS)]
    for rank in ranks:
        assert "error" not in rank, rank["error"]
    assert ranks[0]["samples"] == ranks[1]["samples"]  # nnU-Net's batch Dice adds up tensors of both
    for first, second in zip(*(rank["steps"] for rank in ranks), strict=True):
        assert first["without"] == second["without"] == []
        assert first["loss"] != second["loss"]
        for what in ("gradients", "weights"):
            assert first[what].keys() == second[what].keys()
            for name, value in first[what].items():
                assert value.isfinite().all(), name
                assert torch.equal(value, second[what][name]), name
    for name, value in ranks[0]["buffers"].items():  # what a process saw goes into those of all
        assert torch.equal(value, ranks[1]["buffers"][name]), name
    before, after = (ranks[0]["steps"][step]["weights"] for step in (0, 1))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_every_trainer_is_in_the_table():
    assert {case.trainer for case in TRAINERS} == set(CATALOGUE)
