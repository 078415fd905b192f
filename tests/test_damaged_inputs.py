"""Damaged files for every command: exit code 2, one sentence that names the file, and nothing is written."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from nnunet_ext import cli
from nnunet_ext.benchmark import queue
from nnunet_ext.catalogue import resolve
from tests import tiny
from tests.landmarks import raw as boxes

OUT = "OUT"
"""Stands for a folder that the command may write, and must not have written."""


@dataclass(frozen=True)
class Reads:
    """A command, and one of the files that it reads; paths are relative to the folder of all files.

    Attributes:
        finding: the command looks for what is wrong, so this is what it reports, with exit code 1.
    """

    command: str
    file: str
    damages: tuple[str, ...] = ("missing", "empty", "cut off", "something else", "a folder")
    finding: bool = False

    def __str__(self) -> str:
        return f"{' '.join(self.command.split()[:2])} {Path(self.file).name}"


JSON = ("missing", "empty", "cut off", "something else", "another shape", "a folder")
LABEL = ("empty", "cut off", "something else", "a folder")  # without it the case is not there, or not segmented
EVALUATE = "evaluate references predictions --processes 1 -o OUT --dataset-json about.json"
TEXT = ("missing", "empty", "something else", "a folder")  # half of a table is a table
BOXES = f"raw/{boxes.NAME}"
TINY = f"raw/{tiny.DATASET}"
MODEL = f"results/{tiny.DATASET}/nnUNetTrainer{{}}__nnUNetPlans__2d"
S2V, LANDMARK, PLAIN = (MODEL.format(name) for name in ("S2VNet", "Landmark", "Reference"))
IMAGE = f"{TINY}/imagesTr/tiny_5_0000.nii.gz"
INTERACT = f"s2v interact -i {IMAGE} -m {S2V} --prompts prompts.json -o OUT.nii.gz -device cpu"

COMMANDS = [
    Reads("plans 901 --preset pnpnet --name other", f"preprocessed/{tiny.DATASET}/nnUNetPlans.json", JSON),
    *(
        Reads(f"export {model} --out OUT", f"{model}/{name}", kinds)
        for model in (PLAIN, S2V)
        for name, kinds in {"plans.json": JSON, "dataset.json": JSON, "fold_0/checkpoint_final.pth": ()}.items()
        for kinds in [kinds or JSON[:4] + JSON[5:]]
    ),
    Reads(EVALUATE, "predictions/tiny_1.nii.gz"),
    Reads(EVALUATE, "references/tiny_1.nii.gz"),
    Reads(EVALUATE, "about.json", JSON),
    Reads(f"{EVALUATE} --plans plans.json", "plans.json", JSON),
    Reads("benchmark run spec.yaml --folder OUT", "spec.yaml"),
    Reads(f"scribbles generate {TINY} --new-dataset 777 --processes 1", f"{TINY}/dataset.json", JSON),
    Reads(f"scribbles generate {TINY} --new-dataset 777 --processes 1", f"{TINY}/labelsTr/tiny_3.nii.gz", LABEL),
    Reads(f"scribbles check {BOXES} --processes 1 -o OUT", f"{BOXES}/dataset.json", JSON),
    Reads(f"scribbles check {BOXES} --processes 1 -o OUT", f"{BOXES}/labelsTr/a.nii.gz", LABEL, finding=True),
    Reads(f"landmarks check {BOXES} --processes 1 -o OUT", f"{BOXES}/dataset.json", JSON),
    Reads(f"landmarks check {BOXES} --processes 1 -o OUT", f"{BOXES}/landmarksTr/a.mrk.json", JSON[1:-1], finding=True),
    Reads(f"landmarks check {BOXES} --processes 1 -o OUT", f"{BOXES}/labelsTr/a.nii.gz", LABEL),
    Reads("landmarks convert points.mrk.json --to csv -o OUT", "points.mrk.json", JSON),
    Reads("landmarks convert points.fcsv --to mrk.json -o OUT", "points.fcsv", TEXT),
    Reads("landmarks convert points.csv --to mrk.json -o OUT", "points.csv", TEXT),
    Reads("landmarks convert points.json --to mrk.json -o OUT", "points.json", JSON),
    Reads(f"landmarks evaluate {BOXES}/landmarksTr points --processes 1 -o OUT", "points/a.mrk.json", JSON),
    Reads(f"landmarks pseudo-label {BOXES} --new-dataset 778 -np 1", f"{BOXES}/dataset.json", JSON),
    Reads(f"landmarks pseudo-label {BOXES} --new-dataset 778 -np 1", f"{BOXES}/landmarksTr/c.mrk.json", JSON[1:-1]),
    Reads(f"landmarks pseudo-label {BOXES} --new-dataset 778 -np 1", f"{BOXES}/imagesTr/c_0000.nii.gz"),
    *(
        Reads(f"{command} predict -i images -o OUT -m {model} -device cpu -npp 1 -nps 1", f"{model}/{name}", kinds)
        for command, model in {"landmarks": LANDMARK, "s2v": S2V}.items()
        for name, kinds in {"plans.json": JSON, "dataset.json": JSON, "fold_0/checkpoint_final.pth": ()}.items()
        for kinds in [kinds or JSON[:4] + JSON[5:]]
    ),
    Reads(INTERACT, IMAGE),
    Reads(INTERACT, "prompts.json", JSON),
    Reads(INTERACT, f"{S2V}/plans.json", JSON),
    Reads(f"s2v evaluate-clicks -i images -r references -m {S2V} -o OUT --clicks 1 --device cpu",
          "images/tiny_1_0000.nii.gz"),
    Reads(f"s2v evaluate-clicks -i images -r references -m {S2V} -o OUT --clicks 1 --device cpu",
          "references/tiny_1.nii.gz", LABEL),
    Reads("splits 901 --by subjects.csv -o OUT.json", "subjects.csv", TEXT),
    Reads("splits 901 --by subjects.json -o OUT.json", "subjects.json", JSON),
    Reads("splits 901 --check folds.json --no-images", "folds.json", JSON),
    Reads("splits 901 --by case --few-shot 2 --validation-from folds.json -o OUT.json", "folds.json", JSON),
]  # fmt: skip


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the commands read, whole."""
    root = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(root / name))
        tiny.write_preprocessed(root / "raw", root / "preprocessed")
        for name in ("Reference", "S2VNet", "Landmark"):
            plans = {**tiny.plans(), "continue_training": False}
            plans["configurations"]["2d"]["nnunet_ext"] = {"s2vnet": {"width": 8, "heads": 2, "embedding": 4}}
            description = {**tiny.dataset_json(), **(tiny.DECLARES["babloss"] if name == "Landmark" else {})}
            trainer = resolve(f"nnUNetTrainer{name}")(plans, "2d", 0, description, torch.device("cpu"))
            trainer.initialize()
            folder = Path(trainer.output_folder_base)
            trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_final.pth")
            (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
            (folder / "dataset.json").write_text(json.dumps(description))
    dataset = root / "raw" / tiny.DATASET
    for folder, source in {"references": "labelsTr", "predictions": "labelsTr", "images": "imagesTr"}.items():
        shutil.copytree(dataset / source, root / folder)
    shutil.copy(dataset / "dataset.json", root / "about.json")
    shutil.copy(root / "preprocessed" / tiny.DATASET / "nnUNetPlans.json", root / "plans.json")
    spans = {**boxes.BLOCK, "spans": {"box": [["left", "right"]]}}
    cases = {name: (boxes.Case(number), "landmarks" if name == "c" else "both") for number, name in enumerate("abc")}
    points = boxes.write_dataset(root / "raw", cases, landmarks=spans) / "landmarksTr"
    shutil.copytree(points, root / "points")
    shutil.copy(points / "a.mrk.json", root / "points.mrk.json")
    (root / "points.fcsv").write_text(
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,10,20,30,0,0,0,1,1,1,0,left,,\n"
    )
    (root / "points.csv").write_text("case,name,x,y,z,state\na,left,1,2,3,present\n")
    (root / "points.json").write_text('{"left": [1, 2, 3]}')
    (root / "prompts.json").write_text(json.dumps({"prompts": [{"type": "point", "label": "left", "at": [8, 8, 8]}]}))
    (root / "spec.yaml").write_text(
        yaml.safe_dump(
            {
                "baseline": "nnUNetTrainerReference",
                "trainers": ["nnUNetTrainerReference", "nnUNetTrainerSDM"],
                "datasets": [901],
                "configurations": ["2d"],
                "plans": {"epochs": 1, "iterations": 1},
                "folds": [0],
                "device": "cpu",
            }
        )
    )
    names = [f"tiny_{number}" for number in range(6)]
    (root / "subjects.csv").write_text("case,subject\n" + "".join(f"{name},{name}\n" for name in names))
    (root / "subjects.json").write_text(json.dumps({name: name for name in names}))
    (root / "folds.json").write_text(json.dumps([{"train": names[:4], "val": names[4:]}]))
    return root


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "missing":
        new = {"empty": b"", "cut off": content[: len(content) // 2], "another shape": b'[1, {"a": null}]'}
        file.write_bytes(new.get(how, b"Nothing that anybody expects: \xff\xfe\n"))


@pytest.fixture
def run(everything, monkeypatch, capfd, tmp_path):
    """``run(command)`` → exit code, what it printed, its errors, and what it wrote, which is gone afterwards."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(everything / name))
    monkeypatch.chdir(everything)
    monkeypatch.setattr(queue, "run_here", lambda benchmark, jobs, at_once=1: [])  # a benchmark trains nothing here

    def call(command: str) -> tuple[int, str, str, set[Path]]:
        before = set(everything.rglob("*"))
        capfd.readouterr()
        try:
            code = cli.main([word.replace(OUT, str(tmp_path / "out")) for word in command.split()])
        finally:
            written = set(everything.rglob("*")) - before
            for path in sorted(written):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return code, *capfd.readouterr(), written | set(tmp_path.iterdir())

    return call


LONG = {"predict", "evaluate-clicks"}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] if LONG & set(command.split()) else ())
        for command in dict.fromkeys(reads.command for reads in COMMANDS)
    ],
)
def test_the_files_are_accepted_as_long_as_they_are_whole(run, command):
    code, printed, error, written = run(command)
    assert code == 0, printed + error
    assert written or "OUT" not in command


@pytest.mark.parametrize(
    ("reads", "how"), [pytest.param(r, how, id=f"{r}-{how}") for r in COMMANDS for how in r.damages]
)
def test_a_damaged_file_is_one_sentence(everything, run, reads, how):
    file = everything / reads.file
    whole = file.read_bytes()
    damage(file, how)
    try:
        code, printed, error, written = run(reads.command)
    finally:
        if file.is_dir():
            file.rmdir()
        file.write_bytes(whole)
    name = file.name.partition(".")[0]
    if reads.finding and code == 1:
        assert name in printed
        return
    lines = [line for line in error.splitlines() if line.strip() and not re.search(r"\d+%\|", line)]  # progress
    assert (code, len(lines)) == (2, 1), error
    assert lines[0].startswith("nnunet-ext: ")
    assert name in lines[0]
    assert not written
