"""Fixtures that several test modules share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import is_hypothesis_test, settings
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunet_ext.catalogue import resolve
from nnunet_ext.discovery import discovery_folder
from tests import tiny

TrainerFactory = Callable[..., Any]

FAST, SLOW = "not slow", "slow"
"""Values of ``-m`` in pyproject.toml and in ``pytest -m slow``."""

settings.register_profile("the same on every machine", derandomize=True, deadline=None, database=None)
settings.register_profile("random search", deadline=None, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    """Run a test that is named with ``::``, slow or not; ``-m slow`` also lets hypothesis search at random."""
    if config.args and all("::" in argument for argument in config.args) and config.option.markexpr == FAST:
        config.option.markexpr = ""
    settings.load_profile("random search" if config.option.markexpr == SLOW else "the same on every machine")


def pytest_report_header(config: pytest.Config) -> str | None:
    return "slow tests are left out; pytest -m slow runs them" if config.option.markexpr == FAST else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr == SLOW:
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _no_user_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor write the user's nnU-Net folders, and fork as few workers as possible."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    torch.set_num_threads(1)  # on tensors this small a second thread costs more than it does


@pytest.fixture(autouse=True)
def _no_progress_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net draws ``progress.png`` after every epoch, which takes longer than the epoch does here."""
    if request.node.get_closest_marker("progress_plots") is None:
        monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda self, output_folder: None)
    # trainings in processes of their own draw it coarsely
    monkeypatch.setenv("MATPLOTLIBRC", str(Path(__file__).parent / "coarse.matplotlibrc"))


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
        tiny.shrink_transformers(monkeypatch.setattr)
        trainer = trainer_class(settings, configuration, 0, tiny.dataset_json(kind), torch.device("cpu"))
        trainer.initialize()
        return trainer

    return make
