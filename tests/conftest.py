"""Fixtures that several test modules share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ext.catalogue import resolve
from nnunet_ext.discovery import discovery_folder
from tests import tiny

TrainerFactory = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_user_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests neither read nor write the user's nnU-Net folders, and fork as few workers as possible."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    torch.set_num_threads(1)  # on tensors this small a second thread costs more than it does
    return


@pytest.fixture(scope="session")
def _preprocessed_template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            root = tmp_path_factory.mktemp("nnunet")
            tiny.write_preprocessed(root / "raw", root / "preprocessed", kind)
            (root / "results").mkdir()
            made[kind] = root
        return made[kind]

    return make


@pytest.fixture
def nnunet_folders(
    _preprocessed_template: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """``nnunet_folders(kind)`` → root with ``raw``, ``preprocessed``, ``results``; the variables point there."""

    def use(kind: str = "classes") -> Path:
        root = tmp_path / "nnunet"
        shutil.copytree(_preprocessed_template(kind), root)
        for name in ("raw", "preprocessed", "results"):
            monkeypatch.setenv(f"nnUNet_{name}", str(root / name))
        monkeypatch.setenv("nnUNet_extTrainer", str(discovery_folder()))
        return root

    return use


@pytest.fixture
def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainerFactory:
    """``make_trainer(name, kind=…, configuration=…, plans=…)`` → initialised trainer on the CPU, without data."""

    def make(
        name: str | type,
        *,
        kind: str = "classes",
        configuration: str = "3d_fullres",
        plans: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> Any:
        if "nnUNet_results" not in os.environ:
            monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
        if "nnUNet_preprocessed" not in os.environ:
            folder = tiny.make_data_folders(tmp_path / "preprocessed")
            monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
        settings = json.loads(json.dumps(plans or tiny.plans()))
        settings["continue_training"] = False
        torch.manual_seed(seed)
        trainer_class = resolve(name) if isinstance(name, str) else name
        trainer = trainer_class(settings, configuration, 0, tiny.dataset_json(kind), torch.device("cpu"))
        trainer.initialize()
        return trainer

    return make
