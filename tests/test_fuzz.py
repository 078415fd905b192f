"""Every trainer on plans, labels and channels that nobody chose: it trains and predicts finite values, or says why not.

Drawn are plans as nnU-Net could write them: the bottleneck has more than one voxel, kernels are odd, and what has a
stride has an extent that it divides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_ext.catalogue import TRAINERS, resolve
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.labels import finest_logits
from tests import tiny

EXAMPLES = 8


@dataclass(frozen=True)
class Setup:
    """A configuration of plans and a data set."""

    dim: int
    patch_size: tuple[int, ...]
    network: dict[str, Any]
    channels: int
    classes: int
    regions: bool
    ignore: bool
    batch_dice: bool
    deep_supervision: bool

    def plans(self) -> dict[str, Any]:
        made = tiny.configuration(self.dim, self.patch_size, **self.network)
        for entry in ("normalization_schemes", "use_mask_for_norm"):
            made[entry] = made[entry] * self.channels
        made |= {"batch_dice": self.batch_dice, "batch_size": 4 if self.dim == 2 else 2}
        made["nnunet_ext"] |= {"s2vnet": {"width": 8, "heads": 2, "embedding": 4, "clip": 2, "inference_clip": 3}}
        name = "2d" if self.dim == 2 else "3d_fullres"
        return {**tiny.plans(**{name: made}), "continue_training": False}

    def dataset_json(self) -> dict[str, Any]:
        names = ["left", *(f"label_{number}" for number in range(2, self.classes + 1))]
        values: list[Any] = list(range(1, self.classes + 1))
        if self.regions:
            values[0] = values[:]  # and all others inside of it
        more = {"regions_class_order": list(range(1, self.classes + 1))} if self.regions else {}
        labels = {"background": 0, **dict(zip(names, values, strict=True))}
        if self.ignore:
            labels["ignore"] = self.classes + 1
        return {
            "channel_names": {str(channel): "MRI" for channel in range(self.channels)},
            "file_ending": ".nii.gz",
            "numTraining": 6,
            "labels": labels,
            "landmarks": {"names": ["tip", "end"], "surface_of": {"tip": ["left"]}},
            "annotated_labels": {"case_0": ["left"]},
            **more,
        }


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    dim = draw(st.sampled_from([2, 3]))
    stages = draw(st.integers(2, 4))
    classes = draw(st.integers(1, 3))

    def per_axis(values: list[int]) -> list[int]:
        return draw(st.lists(st.sampled_from(values), min_size=dim, max_size=dim))

    strides = [[1] * dim, *(per_axis([1, 2]) for _ in range(stages - 1))]
    whole = [math.prod(stride[axis] for stride in strides) for axis in range(dim)]
    return Setup(
        dim=dim,
        patch_size=tuple(max(8, size * factor) for size, factor in zip(whole, per_axis([2, 3]), strict=True)),
        network={
            "residual": draw(st.booleans()),
            "features": draw(st.lists(st.integers(3, 8), min_size=stages, max_size=stages)),
            "kernel_sizes": [per_axis([1, 3]) for _ in range(stages)],
            "strides": strides,
        },
        channels=draw(st.integers(1, 3)),
        classes=classes,
        regions=classes > 1 and draw(st.booleans()),  # of one label they are classes to nnU-Net
        ignore=draw(st.sampled_from([True, True, False])),
        batch_dice=draw(st.booleans()),
        deep_supervision=draw(st.booleans()),
    )


def of_tokens(setup: Setup) -> bool:
    """Whether a patch is made of whole tokens of 8×8×8 voxels, and of so many columns that 40 % are one at least."""
    height, width = setup.patch_size[-2:]
    return setup.dim == 3 and not any(size % 8 for size in setup.patch_size) and height * width >= 3 * 8 * 8


def refused(name: str, setup: Setup) -> bool:
    """Whether this trainer is not for this setup, as its documentation says."""
    rooms = tiny.rooms_of(name)
    return (
        ("s2vnet" in rooms and setup.dim == 3)
        or (name == "nnUNetTrainerMedContextPrimusS" and not of_tokens(setup))
        or ("attenscribble" in rooms and not setup.ignore)
        or (name in {"nnUNetTrainerAttenScribblePaper", "nnUNetTrainerBaBLossPaper"} and setup.regions)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    tiny.make_data_folders(root / "preprocessed")
    return root


def train_and_predict(name: str, setup: Setup) -> None:
    torch.manual_seed(0)
    plans = setup.plans()
    (configuration,) = plans["configurations"]

    def made() -> Any:
        trainer: Any = resolve(name)(plans, configuration, 0, setup.dataset_json(), torch.device("cpu"))
        trainer.enable_deep_supervision &= setup.deep_supervision
        trainer.initialize()
        return trainer

    if refused(name, setup):
        with pytest.raises(InputError, match=r"^.+$"):  # one line
            made()
        return
    trainer = made()
    trainer.current_epoch = trainer.num_epochs // 2  # all terms count
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    trainer.aux.train()
    for key, value in trainer.train_step(tiny.batch_with_everything(trainer)).items():
        assert math.isfinite(value), key
    for key, value in {**trainer.network.state_dict(), **trainer.aux.state_dict()}.items():
        assert value.isfinite().all(), key
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        assert math.isfinite(trainer.validation_step(tiny.batch_with_everything(trainer))["loss"])
        trainer.set_deep_supervision_enabled(False)
        data = tiny.batch_with_everything(trainer)["data"][:1]
        logits = finest_logits(trainer.network(data))
    assert logits.shape == (1, trainer.label_manager.num_segmentation_heads, *data.shape[2:])
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", TRAINERS)
def test_whatever_nnunet_plans_is_trained_with_finite_values_or_refused(folders, monkeypatch, name):
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(folders / folder))
    resolve(name)
    tiny.shrink_transformers(monkeypatch.setattr)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(setups())
    def run(setup: Setup) -> None:
        train_and_predict(name, setup)

    run()
