"""Assumptions of this package about nnU-Net: when a release moves it, the test that fails names the seam.

Everything else is nnU-Net's public behaviour, which the other tests run through.
"""

import ast
import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run import run_training
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.catalogue import TRAINERS, resolve
from nnunet_ext.landmarks.predictor import LandmarkPredictor
from nnunet_ext.landmarks.training.loader import LandmarkDataLoader
from nnunet_ext.nnunet.loaders import SEAM
from nnunet_ext.s2vnet.predictor import S2VPredictor
from tests import tiny

PACKAGE = Path(__file__).parent.parent / "nnunet_ext"


def imported() -> list[tuple[str, str]]:
    """Every name that this package imports from nnunetv2, with its module."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nnunetv2":
                found |= {(node.module or "", alias.name) for alias in node.names}
    return sorted(found)


@pytest.mark.parametrize(("module", "name"), imported(), ids=lambda text: text.rpartition(".")[2])
def test_what_is_imported_is_still_there(module, name):
    assert hasattr(import_module(module), name), f"{module} has no {name} any more"


# --- hooks ------------------------------------------------------------------------------------------------------------


def overrides() -> list[tuple[type, type, str]]:
    """Our classes, nnU-Net's classes that they extend, and the methods that both have."""
    pairs = [(resolve(name), nnUNetTrainer) for name in TRAINERS]
    pairs += [(kind, nnUNetPredictor) for kind in (LandmarkPredictor, S2VPredictor)]
    pairs += [(LandmarkDataLoader, LandmarkDataLoader.__mro__[1])]
    found = set()
    for ours, theirs in pairs:
        for base in ours.__mro__:
            if base.__module__.partition(".")[0] == "nnunet_ext":
                found |= {(base, theirs, name) for name in vars(base) if inspect.isroutine(getattr(theirs, name, None))}
    return sorted(found, key=lambda each: (each[0].__qualname__, each[2]))


def parameters(function) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("ours", "theirs", "name"), overrides(), ids=lambda each: each if isinstance(each, str) else each.__name__
)
def test_an_override_takes_what_nnunet_passes(ours, theirs, name):
    """By name and by position; what it takes beside that has a default."""
    mine, stock = parameters(getattr(ours, name)), parameters(getattr(theirs, name))
    kinds = {parameter.kind for parameter in mine.values()}
    if name == "load_checkpoint":  # its only argument is called otherwise in nnU-Net's master: taken by position
        assert [p.kind for p in mine.values()][1:] == [inspect.Parameter.POSITIONAL_ONLY]
        assert len(stock) == 2
        return
    if {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds:
        return
    assert list(mine)[: len(stock)] == list(stock), f"{theirs.__name__}.{name} has other parameters than we override"
    for extra in list(mine.values())[len(stock) :]:
        assert extra.default is not inspect.Parameter.empty or extra.kind == inspect.Parameter.VAR_KEYWORD


HOOKS = {
    "initialize": "build_network_architecture _build_loss configure_optimizers _set_batch_size_and_oversample",
    "run_training": "on_train_start on_epoch_start on_train_epoch_start train_step on_train_epoch_end "
    "on_validation_epoch_start validation_step on_validation_epoch_end on_epoch_end on_train_end",
    "on_train_start": "initialize get_dataloaders",
    "on_epoch_end": "save_checkpoint",
    "get_dataloaders": "get_training_transforms get_validation_transforms get_tr_and_val_datasets "
    "configure_rotation_dummyDA_mirroring_and_inital_patch_size _get_deep_supervision_scales",
    "get_tr_and_val_datasets": "do_split dataset_class",
    "perform_actual_validation": "set_deep_supervision_enabled",
}


@pytest.mark.parametrize("hook", HOOKS)
def test_nnunet_still_calls_the_hooks_in_which_we_work(hook):
    called = getattr(nnUNetTrainer, hook).__code__.co_names
    missing = [name for name in HOOKS[hook].split() if name not in called]
    assert not missing, f"nnUNetTrainer.{hook} does not use {missing} any more"


# --- what is swapped --------------------------------------------------------------------------------------------------


def test_run_training_still_looks_up_the_function_that_is_swapped():
    users = [f for f in vars(run_training).values() if inspect.isfunction(f) and f.__module__ == run_training.__name__]
    assert "load_pretrained_weights" in vars(run_training)
    assert any("load_pretrained_weights" in function.__code__.co_names for function in users)
    # not the one in run_training, which a trainer of ours may have swapped in this process
    assert parameters(load_pretrained_weights).keys() == {"network", "fname", "verbose"}


def test_the_trainer_still_looks_up_the_loader_that_is_swapped():
    assert SEAM in vars(trainer_module)
    assert SEAM in nnUNetTrainer.get_dataloaders.__code__.co_names


# --- files ------------------------------------------------------------------------------------------------------------

CHECKPOINT = (
    "network_weights optimizer_state grad_scaler_state logging _best_ema current_epoch init_args trainer_name "
    "inference_allowed_mirroring_axes"
)
LOGGED = (
    "mean_fg_dice ema_fg_dice dice_per_class_or_region train_losses val_losses lrs epoch_start_timestamps "
    "epoch_end_timestamps"
)
PLANNED = (
    "data_identifier preprocessor_name batch_size patch_size spacing normalization_schemes use_mask_for_norm "
    "resampling_fn_data resampling_fn_seg resampling_fn_probabilities resampling_fn_data_kwargs "
    "resampling_fn_seg_kwargs resampling_fn_probabilities_kwargs architecture batch_dice"
)


def test_a_checkpoint_has_the_keys_that_are_read_and_rewritten(make_trainer, tmp_path):
    trainer = make_trainer(nnUNetTrainer)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    saved = torch.load(tmp_path / "checkpoint.pth", map_location="cpu", weights_only=False)
    assert saved.keys() == set(CHECKPOINT.split())
    # nnU-Net makes the trainer again from these
    assert {"plans", "configuration", "fold", "dataset_json"} <= saved["init_args"].keys()


def test_the_log_has_the_keys_that_are_read_and_takes_more(tmp_path):
    logger = MetaLogger(str(tmp_path), False)
    assert set(LOGGED.split()) <= logger.local_logger.my_fantastic_logging.keys()
    logger.local_logger.my_fantastic_logging["loss_ours"] = []
    logger.log("loss_ours", 1.0, 0)
    assert logger.local_logger.my_fantastic_logging["loss_ours"] == [1.0]


def test_the_planner_writes_the_keys_that_are_read(tmp_path):
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    source = inspect.getsource(ExperimentPlanner)
    missing = [key for key in PLANNED.split() if f"'{key}'" not in source and f'"{key}"' not in source]
    assert not missing, f"nnU-Net's planner writes no {missing} any more"
    assert set(PLANNED.split()) <= tiny.configuration().keys()
    json.dumps(tiny.plans())
