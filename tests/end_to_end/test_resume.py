"""Every trainer, killed with SIGKILL at a random iteration and continued, ends as if nothing had happened.

And two trainings at once: of two folds both end, of one fold the second is refused.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ext.catalogue import TRAINERS
from tests import tiny
from tests.end_to_end.trainings import FORKS, Training, prepare, run_all
from tests.structure import marks_of

EPOCHS, ITERATIONS = 2, 2

pytestmark = [
    pytest.mark.xdist_group("killed trainings"),
    pytest.mark.skipif(not FORKS, reason="forking a process that has imported PyTorch is safe on Linux only"),
]


def killed_at(trainer: str) -> tuple[int, int]:
    """Epoch and iteration after the first checkpoint; another iteration for every trainer."""
    return 1, random.Random(trainer).randrange(ITERATIONS)


@pytest.fixture(scope="module")
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[int]]]:
    """Three trainings of every trainer that is tested: uninterrupted, killed, continued; and how they ended."""
    root = tmp_path_factory.mktemp("resume")
    here = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in here if hasattr(item, "callspec")]
    rounds: list[list[Training]] = []
    tiny.write_preprocessed(root / "classes" / "raw", root / "classes" / "preprocessed")
    prepare(root / "classes", root / "classes_", {}, epochs=EPOCHS, iterations=ITERATIONS)
    for name in names:
        kind, declares = tiny.kind_for(name), tiny.declared(name)
        data = root / f"{kind}_{'_'.join(declares)}"
        if not data.exists():
            template = root / kind
            if not template.exists():
                tiny.write_preprocessed(template / "raw", template / "preprocessed", kind)
            prepare(template, data, declares, epochs=EPOCHS, iterations=ITERATIONS)
        whole, parts = root / name / "whole", root / name / "parts"
        which = {"configuration": tiny.configurations_for(name)[0]}
        rounds += [
            [Training(name, data, whole, root / name / "uninterrupted", **which)],
            [Training(name, data, parts, root / name / "killed", killed_at=killed_at(name), **which)],
            # other weights at first, or it would not matter whether they are restored
            [Training(name, data, parts, root / name / "continued", resume=True, seed=1, **which)],
        ]
    name, data, results = "nnUNetTrainerCCM", root / "classes_", root / "at once"
    both = [root / "at once" / which for which in ("first", "second")]
    rounds += [
        [Training(name, data, results, root / "at once" / f"fold_{fold}", fold=fold) for fold in (0, 1)],
        # whichever begins goes on when the other one is gone
        [Training(name, data, results / "one fold", both[i], outlasts=both[1 - i]) for i in (0, 1)],
    ]
    # uninterrupted, stopped after the first epoch, continued
    parts = root / "stopped" / "parts"
    runs = {"uninterrupted": {}, "stopped": {"stopped": True}, "continued": {"resume": True, "seed": 1}}
    for which, how in runs.items():
        folder = root / "stopped" / "whole" if which == "uninterrupted" else parts
        rounds.append([Training(name, data, folder, root / "stopped" / which, **how)])
    *alone, folds, one_fold, whole, stopped, continued = run_all(rounds)
    codes = [code for (code,) in alone]
    named = {"two folds": folds, "one fold": one_fold, "stopped": [*whole, *stopped, *continued]}
    return root, named | {name: codes[3 * number : 3 * number + 3] for number, name in enumerate(names)}


def assert_equal(first: Any, second: Any, where: str) -> None:
    """Numbers within float tolerance, in whatever they are nested."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for number, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_equal(a, b, f"{where}[{number}]")
    elif isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m: f"{where}: {m}")
    elif isinstance(first, bool | None):
        assert first is second, where
    else:
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6, err_msg=where)


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in TRAINERS])
def test_a_killed_and_continued_training_equals_one_that_was_not(trained, name):
    root, codes = trained
    epoch, iteration = killed_at(name)
    print(f"killed in epoch {epoch} before iteration {iteration}")
    logs = {run: (root / name / f"{run}.log").read_text()[-3000:] for run in ("uninterrupted", "killed", "continued")}
    assert codes[name] == [0, -9, 0], json.dumps(logs, indent=2).replace("\\n", "\n")
    expected, got = (
        torch.load(root / name / f"{run}.pt", weights_only=False) for run in ("uninterrupted", "continued")
    )
    assert expected.pop("started") == list(range(EPOCHS))
    assert got.pop("started") == list(range(epoch, EPOCHS))  # from the last checkpoint on
    assert_equal(expected, got, name)
    assert len(expected["log"]["loss_segmentation"]) == EPOCHS


def test_a_stopped_and_continued_training_equals_one_that_was_not(trained):
    root, codes = trained
    log = (root / "stopped" / "stopped.log").read_text()
    assert codes["stopped"] == [0, 0, 0], log[-3000:]
    assert f"Stopped after 1 of {EPOCHS} epochs, because" in log
    assert "STOP was there (it is removed now)" in log
    assert "about 1 min left" in (root / "stopped" / "uninterrupted.log").read_text()
    assert not list((root / "stopped").rglob("STOP"))
    expected, got = (
        torch.load(root / "stopped" / f"{run}.pt", weights_only=False) for run in ("uninterrupted", "continued")
    )
    assert (expected.pop("started"), got.pop("started")) == ([0, 1], [1])
    assert_equal(expected, got, "stopped")


def test_two_folds_train_at_once(trained):
    root, codes = trained
    logs = [(root / "at once" / f"fold_{fold}.log").read_text()[-3000:] for fold in (0, 1)]
    assert codes["two folds"] == [0, 0], logs
    assert len(list((root / "at once" / tiny.DATASET).glob("*/fold_*/checkpoint_final.pth"))) == 2


def test_one_fold_is_trained_by_one_at_a_time(trained):
    root, codes = trained
    texts = [(root / "at once" / f"{which}.log").read_text() for which in ("first", "second")]
    logs = dict(zip(codes["one fold"], texts, strict=True))
    assert sorted(codes["one fold"]) == [0, 1], logs
    *_, last = logs[1].strip().splitlines()
    assert "InputError: Another training is at work in" in last
    assert "another training" not in logs[0].lower()
    (final,) = (root / "at once" / "one fold").rglob("checkpoint_final.pth")
    assert torch.load(final, weights_only=False)["current_epoch"] == EPOCHS
