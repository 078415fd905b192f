"""Cost of S2VNet in inference against the networks that nnU-Net plans: time per volume and peak memory.

::

    python benchmarks/s2v_inference.py                                        # ACDC-like: 10×256×216, 10×1.5×1.5 mm
    python benchmarks/s2v_inference.py --shape 128 512 512 --spacing 2.5 0.8 0.8 --classes 14 --repeats 1
    python benchmarks/s2v_inference.py --dataset 27 --mirroring both --device cuda --warmup 1   # plans of a data set
    python benchmarks/s2v_inference.py --plans nnUNetPlans.json --dataset-json dataset.json --shape 90 512 512

The volume is noise, the weights are random: neither changes how long anything takes. The plans are those of a data set,
or what nnU-Net's own planner makes of a data set of volumes of this shape and spacing. The ways, all with the same tile
step and Gaussian weights, in float32 on a CPU unless their name says bfloat16, and with autocast on a GPU:

* **3d_fullres** and **2d**: nnU-Net's predictor, the planned networks.
* **S2VNet A**: nnU-Net's predictor, patches of many slices; what ``nnUNetv2_predict`` does.
* **S2VNet B, forward** and **both**: whole columns, ``nnunet-ext s2v predict``, in one direction and in both.

Measured is the whole command after its imports, in a process for each way and round: the model is loaded from its
folder, the image is read and preprocessed, predicted, resampled and written as a file. All steps run in this one
process, one after the other; nnU-Net's worker processes, which need an interpreter and copies of the image in all ways
alike, are left out. Nothing is compiled.

* **Peak memory**, in a process of its own. GPU: the most that PyTorch had allocated. CPU (Linux): the largest resident
  set, minus that before the model was loaded; freed memory goes back to the system at once there, which takes time.
* **Time**: of the process on a CPU (user and system, so other processes spoil it less), of the clock on a GPU. The ways
  take turns, and a ratio compares two times of the same round. ``--repeats 0`` is for volumes that take hours: time is
  that of the process in which memory was measured.

``--volume`` predicts a smaller volume with the same plans: on a CPU memory grows evenly with slices, so two numbers of
slices tell that of any other. Masks of random networks hardly compress, so what ``both`` keeps is as large as can be.

Mirroring is that of nnU-Net: all combinations of the axes, 8 in 3D, 4 in 2D. A mirrors slices too and needs 8; B
mirrors in-plane and needs 4, or 8 with both directions.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from step_cost import reset_resident_peak, resident_bytes, synthetic_dataset

from nnunet_ext.data.channels import channel_names
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.discovery import register
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.plans import remember
from nnunet_ext.nnunet.precision import SECTION as PRECISION
from nnunet_ext.s2vnet.predictor import S2VPredictor
from nnunet_ext.s2vnet.trainer import nnUNetTrainerS2VNet

REFERENCE = "3d_fullres"
CLAIMS = {"time": 1 / 15, "memory": 1 - 0.482}
"""Ratios to 3D networks that the paper claims (15 times faster, 48.2 % less memory), against which one is not known."""

MEMORY_GOAL = 0.35
TIME_GOALS = {False: {"bfloat16": 1 / 10}, True: {"float32": 1 / 13, "bfloat16": 1 / 20}}
"""Ratios to the reference that we aim at, at most, for volumes of the size of a CT; by mirroring and precision."""


@dataclass(frozen=True)
class Way:
    """One way to predict: a configuration, by the planned network or S2VNet's, and a predictor.

    ``direction``: of S2VNet through the whole volume; None: nnU-Net's predictor.
    """

    configuration: str
    trainer: type[nnUNetTrainer] = nnUNetTrainer
    direction: str | None = None
    bfloat16: bool = False


WAYS = {
    REFERENCE: Way("3d_fullres"),
    "2d": Way("2d"),
    "S2VNet A": Way("2d", nnUNetTrainerS2VNet),
    "S2VNet B, forward": Way("2d", nnUNetTrainerS2VNet, "forward"),
    "S2VNet B, both": Way("2d", nnUNetTrainerS2VNet, "both"),
    "S2VNet A, bfloat16": Way("2d", nnUNetTrainerS2VNet, None, True),
    "S2VNet B, forward, bfloat16": Way("2d", nnUNetTrainerS2VNet, "forward", True),
    "S2VNet B, both, bfloat16": Way("2d", nnUNetTrainerS2VNet, "both", True),
}


@dataclass(frozen=True)
class Setup:
    """Plans and the volume to predict, as arguments of this script or a file of the process that started it."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    device: str
    step: float

    def size_for(self, way: Way) -> tuple[int, ...]:
        """Voxels of the volume on the grid of a configuration."""
        target = list(self.plans["configurations"][way.configuration]["spacing"])
        if len(target) < len(self.shape):
            target = [self.spacing_mm[0], *target]
        return tuple(int(n) for n in compute_new_shape(self.shape, self.spacing_mm, target))


# -- plans ------------------------------------------------------------------------------------------------------------


class Planner(ExperimentPlanner):
    """nnU-Net's planner for a data set of which there are only shapes."""

    def determine_reader_writer(self) -> Any:
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        return SimpleITKIO


def planned(shape: Sequence[int], spacing_mm: Sequence[float], dataset_json: dict[str, Any]) -> dict[str, Any]:
    """Plan of nnU-Net for a data set of volumes of this shape and spacing, by default for 8 GB of GPU memory."""
    name = "Dataset999_Synthetic"
    fingerprint = {
        "spacings": [list(spacing_mm)] * 100,
        "shapes_after_crop": [list(shape)] * 100,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {"0": {}},
    }
    with tempfile.TemporaryDirectory(prefix="s2v_plans_") as folder, contextlib.redirect_stdout(io.StringIO()):
        folders = {key: f"{folder}/{key}" for key in ("nnUNet_raw", "nnUNet_preprocessed")}
        for root in folders.values():
            Path(root, name).mkdir(parents=True)
            description = json.dumps({**dataset_json, "numTraining": 100, "dataset": {}})
            Path(root, name, "dataset.json").write_text(description)
        Path(folders["nnUNet_preprocessed"], name, "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        with patch.dict(os.environ, {**folders, "nnUNet_n_proc_DA": "1"}):  # the planner cannot work with 0 workers
            plans = Planner(name).plan_experiment()
    return json.loads(json.dumps(plans))  # plain lists and numbers


def setup_from(args: argparse.Namespace) -> Setup:
    """Read the plans and the volume that the arguments name.

    Raises:
        InputError: plans that cannot be used, or a volume that does not fit to them.
    """
    plans_file, dataset_file = args.plans, args.dataset_json
    if args.dataset is not None:
        folder = dataset_folder(args.dataset)
        plans_file, dataset_file = folder / "nnUNetPlans.json", dataset_file or folder / "dataset.json"
    dataset_json = json.loads(dataset_file.read_text()) if dataset_file else synthetic_dataset(args.classes, False)
    shape, spacing = args.shape, args.spacing
    if plans_file is None:
        shape, spacing = shape or (10, 256, 216), spacing or (10.0, 1.5, 1.5)
        plans = planned(shape, spacing, dataset_json)
    else:
        plans = json.loads(plans_file.read_text())
        shape = shape or plans["original_median_shape_after_transp"]
        spacing = spacing or plans["original_median_spacing_after_transp"]
    if missing := {way.configuration for way in WAYS.values()} - set(plans["configurations"]):
        raise InputError(
            f"Plans {plans['plans_name']} have no configuration {' and no '.join(sorted(missing))}, which this "
            "comparison needs; the images must be volumes."
        )
    return Setup(plans, dataset_json, tuple(args.volume or shape), tuple(spacing), args.device, args.step)


# -- predictors -------------------------------------------------------------------------------------------------------


def settings_of(setup: Setup, mirroring: bool) -> dict[str, Any]:
    """Arguments of nnU-Net's predictor."""
    device = torch.device(setup.device)
    return {
        "tile_step_size": setup.step,
        "use_mirroring": mirroring,
        "perform_everything_on_device": device.type == "cuda",
        "device": device,
        "allow_tqdm": False,
    }


def kind_of(way: Way) -> Callable[..., nnUNetPredictor]:
    return partial(S2VPredictor, direction=way.direction) if way.direction else nnUNetPredictor


def predictor(setup: Setup, way: Way, mirroring: bool) -> nnUNetPredictor:
    """Ready to predict, with random weights."""
    plans = deepcopy(setup.plans)
    resolved = PlansManager(plans).get_configuration(way.configuration).configuration
    axes: tuple[int, ...] = tuple(range(len(resolved["patch_size"])))
    if way.trainer is nnUNetTrainerS2VNet:
        options = nnUNetTrainerS2VNet.resolve_options(resolved).s2vnet
        plans["configurations"][way.configuration]["patch_size"] = [options.inference_clip, *resolved["patch_size"]]
        remember(plans, way.configuration, PRECISION, {"cpu": "bfloat16"} if way.bfloat16 else {})
        axes = (0, 1, 2)
    manager = PlansManager(plans)
    configuration, labels = manager.get_configuration(way.configuration), manager.get_label_manager(setup.dataset_json)
    torch.manual_seed(0)
    network = way.trainer.build_network_architecture(
        manager, configuration, len(channel_names(setup.dataset_json)), labels.num_segmentation_heads, False
    )
    made = kind_of(way)(**settings_of(setup, mirroring))
    name = way.trainer.__name__
    made.manual_initialization(network, manager, configuration, None, setup.dataset_json, name, axes)
    return made


def write_model(setup: Setup, way: Way, folder: Path) -> nnUNetPredictor:
    """Write a model folder as a training leaves it, without what only a training needs; returns its predictor."""
    made = predictor(setup, way, False)
    (folder / "fold_0").mkdir(parents=True)
    for name, content in {"plans": made.plans_manager.plans, "dataset": setup.dataset_json}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    checkpoint = {
        "network_weights": made.network.state_dict(),
        "trainer_name": way.trainer.__name__,
        "init_args": {"configuration": way.configuration},
        "inference_allowed_mirroring_axes": made.allowed_mirroring_axes,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return made


def write_image(setup: Setup, folder: Path) -> None:
    """Write a volume of noise, one file per channel."""
    back = setup.plans["transpose_backward"]
    random, shape = np.random.default_rng(0), [setup.shape[axis] for axis in back]
    folder.mkdir()
    for channel in range(len(channel_names(setup.dataset_json))):
        image = sitk.GetImageFromArray(random.standard_normal(shape, np.float32))
        image.SetSpacing([float(setup.spacing_mm[axis]) for axis in back][::-1])
        sitk.WriteImage(image, folder / f"case_{channel:04d}{setup.dataset_json['file_ending']}")


# -- measuring --------------------------------------------------------------------------------------------------------


def predict(made: nnUNetPredictor, images: Sequence[str], target: Path) -> None:
    """All that a prediction does to an image, from reading it to writing its labels, in this process."""
    preprocessor = made.configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(
        list(images), None, made.plans_manager, made.configuration_manager, made.dataset_json
    )
    case = {"data": torch.from_numpy(data), "data_properties": properties, "ofile": str(target)}
    del data
    if isinstance(made, S2VPredictor):
        made.predict_from_data_iterator(iter([case]), num_processes_segmentation_export=1)
        return
    logits = made.predict_logits_from_preprocessed_data(case.pop("data")).cpu()
    managers = made.configuration_manager, made.plans_manager
    export_prediction_from_logits(logits, properties, *managers, made.dataset_json, str(target))


def probe(setup: Setup, way: Way, mirroring: bool, folder: Path, warmup: int) -> dict[str, float | None]:
    """Measure one prediction in this process, which must not have made one before.

    Returns:
        ``seconds`` and ``peak_bytes``; ``began`` and ``ended`` (of ``time.monotonic``, a clock that Linux has once for
        all processes), and ``before_bytes``, resident before the model was loaded.
    """
    register()
    recursive_find_trainer_class_by_name(way.trainer.__name__)  # it imports all trainers
    images = sorted(map(str, (folder / "images").iterdir()))
    before = resident_bytes("VmRSS")
    reset_resident_peak()
    clock = time.process_time if setup.device == "cpu" else time.perf_counter
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's prints
        for _ in range(warmup + 1):
            start, began = clock(), time.monotonic()
            made = kind_of(way)(**settings_of(setup, mirroring))
            made.initialize_from_trained_model_folder(str(folder / "model"), (0,))
            predict(made, images, folder / "case")
            elapsed, ended = clock() - start, time.monotonic()
    if not list(folder.glob("case*")):
        raise InputError("The prediction wrote no file.")
    known: dict[str, float | None] = {"seconds": elapsed, "began": began, "ended": ended, "before_bytes": before}
    if setup.device == "cuda":
        return {**known, "peak_bytes": torch.cuda.max_memory_allocated()}
    after = resident_bytes("VmHWM")
    return {**known, "peak_bytes": after - before if after and before else None}


def in_a_process(
    name: str,
    mirroring: bool,
    arguments: Sequence[str],
    folder: Path,
    lean: bool,
    started: Callable[[int], object] = lambda process: None,
) -> dict[str, Any]:
    """Result of :func:`probe` in a process of its own.

    Args:
        name: of the way.
        mirroring: see there.
        arguments: of the command line of this script.
        folder: of the way, beside the file of the setup.
        lean: give freed memory back to the system.
        started: called with the id of the process.

    Raises:
        InputError: the process failed.
    """
    environment = dict(os.environ)
    if lean:
        # glibc keeps freed blocks below a threshold that grows up to 32 MiB, and would count them as resident
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": str(1 << 16)}
    asked = ["--probe", name, "--probe-folder", str(folder), *(["--probe-mirrors"] if mirroring else [])]
    command, pipe = [sys.executable, __file__, *arguments, *asked], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        started(process.pid)
        output, errors = process.communicate()
    if code := process.returncode:
        reason = f"killed by signal {-code} (9: out of memory)" if code < 0 else errors[-500:]
        raise InputError(f"{name} could not be measured: {reason}")
    return json.loads(output.splitlines()[-1])


def measure(
    setup: Setup,
    mirroring: bool,
    args: argparse.Namespace,
    folder: Path,
    run: Callable[[str, bool, Path, bool], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Results of every way: parameters, grid, peak memory, seconds of all rounds, and ratios to the reference.

    Args:
        setup: see there.
        mirroring: see there.
        args: the command line.
        folder: to write to; with a folder of images.
        run: measures a way, with or without mirroring, in the folder of its model; with or without giving freed memory
            back to the system.
    """
    result: dict[str, dict[str, Any]] = {}
    for name in args.ways:
        own = folder / name
        own.mkdir()
        (own / "images").symlink_to(folder / "images")
        made = write_model(setup, WAYS[name], own / "model")
        patch, grid = list(made.configuration_manager.patch_size), list(setup.size_for(WAYS[name]))
        if WAYS[name].direction:  # its columns are as long as the volume
            patch[0] = grid[0]
        parameters = sum(p.numel() for p in made.network.parameters())
        result[name] = {"parameters": parameters, "grid": grid, "patch": patch, "seconds": []}
        del made
        print(f"memory of {name}", file=sys.stderr)
        found = run(name, mirroring, own, True)
        result[name]["peak_bytes"] = found["peak_bytes"]
        if args.repeats == 0:
            result[name]["seconds"].append(found["seconds"])
    for number in range(args.repeats):
        for name, row in result.items():
            print(f"round {number + 1} of {args.repeats}: {name}", file=sys.stderr)
            row["seconds"].append(run(name, mirroring, folder / name, False)["seconds"])
    reference = result.get(REFERENCE)
    for row in result.values() if reference else ():
        ratios = [a / b for a, b in zip(row["seconds"], reference["seconds"], strict=True)]
        row["time_ratio"] = {"min": min(ratios), "median": median(ratios), "max": max(ratios)}
        peaks = row["peak_bytes"], reference["peak_bytes"]
        row["peak_ratio"] = peaks[0] / peaks[1] if None not in peaks else None
    return result


def title_of(mirroring: bool) -> str:
    return "with mirroring" if mirroring else "no mirroring"


def markdown(mirroring: bool, rows: dict[str, dict[str, Any]]) -> str:
    """The table of one setting of mirroring, with the paper's claims and our goals in its last rows."""
    lines = [
        f"| {title_of(mirroring)} | grid | patch | parameters | time | ratio (min to max) | peak memory | ratio |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        ratio, sizes = row.get("time_ratio"), ["×".join(map(str, row[key])) for key in ("grid", "patch")]
        peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f} MiB"
        peak_ratio = "–" if row.get("peak_ratio") is None else f"{row['peak_ratio']:.3f}"
        times = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})" if ratio else "–"
        lines.append(
            f"| {name} | {sizes[0]} | {sizes[1]} | {row['parameters'] / 1e6:.1f} M | {median(row['seconds']):.3g} s | "
            f"{times} | {peak} | {peak_ratio} |"
        )
    lines.append(f"| *the paper's claim* | | | | | *{CLAIMS['time']:.3f}* | | *{CLAIMS['memory']:.3f}* |")
    times = ", ".join(f"{precision} {ratio:.3f}" for precision, ratio in TIME_GOALS[mirroring].items())
    lines.append(f"| *our goal, CT-sized* | | | | | *{times}* | | *{MEMORY_GOAL:.3f}* |")
    return "\n".join(lines)


# -- the command line -------------------------------------------------------------------------------------------------


def add_setup(result: argparse.ArgumentParser) -> None:
    """Add the arguments that say which volume is predicted, by which networks."""
    plans = result.add_mutually_exclusive_group()
    plans.add_argument("--dataset", metavar="ID", help="with nnUNetPlans.json in nnUNet_preprocessed")
    plans.add_argument("--plans", type=Path, metavar="FILE", help="default: planned for --shape and --spacing")
    labels = result.add_mutually_exclusive_group()
    labels.add_argument("--dataset-json", type=Path, metavar="FILE", help="channels and labels of the data set")
    labels.add_argument("--classes", type=int, default=4, metavar="K", help="background included (%(default)s)")
    result.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("D", "H", "W"),
        help="voxels; default: median of the plans, or 10 256 216",
    )
    result.add_argument(
        "--spacing", type=float, nargs=3, metavar="MM", help="default: the plans' median, or 10 1.5 1.5"
    )
    result.add_argument(
        "--volume", type=int, nargs=3, metavar=("D", "H", "W"), help="voxels that are predicted; default: --shape"
    )
    result.add_argument("--step", type=float, default=0.5, help="of tiles, in patches (%(default)s)")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setup(result)
    result.add_argument(
        "--ways", choices=tuple(WAYS), nargs="+", default=tuple(WAYS), help=f"default: all; ratios need {REFERENCE}"
    )
    result.add_argument("--mirroring", choices=("off", "on", "both"), default="off", help="TTA (%(default)s)")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    result.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's")
    result.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="rounds that count (%(default)s); 0: only one process per way, in which memory and time are measured",
    )
    result.add_argument(
        "--warmup", type=int, default=0, help="predictions before the one that counts, in its process (%(default)s)"
    )
    result.add_argument("--json", type=Path, metavar="OUT", help="write the raw numbers")
    # one way, in this process
    result.add_argument("--probe", choices=tuple(WAYS), help=argparse.SUPPRESS)
    result.add_argument("--probe-folder", type=Path, help=argparse.SUPPRESS)
    result.add_argument("--probe-mirrors", action="store_true", help=argparse.SUPPRESS)
    return result


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    os.environ["nnUNet_compile"] = "false"
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_predict
    if args.probe is not None:
        setup = Setup(**json.loads((args.probe_folder.parent / "setup.json").read_text()))
        found = probe(setup, WAYS[args.probe], args.probe_mirrors, args.probe_folder, args.warmup)
        print(json.dumps(found))
        return 0
    measured: dict[bool, dict[str, dict[str, Any]]] = {}
    try:
        setup = setup_from(args)
        for mirroring in {"off": (False,), "on": (True,), "both": (False, True)}[args.mirroring]:
            with tempfile.TemporaryDirectory(prefix="s2v_inference_") as name:
                folder = Path(name)
                (folder / "setup.json").write_text(json.dumps(vars(setup)))
                write_image(setup, folder / "images")

                def run(name: str, mirrors: bool, own: Path, lean: bool) -> dict[str, Any]:
                    return in_a_process(name, mirrors, arguments, own, lean)

                measured[mirroring] = measure(setup, mirroring, args, folder, run)
    except (InputError, OSError) as error:
        parser().error(str(error))
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    shape, spacing = "×".join(map(str, setup.shape)), "×".join(f"{mm:g}" for mm in setup.spacing_mm)
    print(
        f"{args.device}, {torch.get_num_threads()} threads{load}, torch {torch.__version__}; a volume of {shape} "
        f"voxels of {spacing} mm, tile step {setup.step:g}"
    )
    for mirroring, rows in measured.items():
        print(f"\n{markdown(mirroring, rows)}")
    print(
        f"\nFrom the files of model and image to the written file. Ratios to {REFERENCE} in the same round; median of "
        f"{args.repeats} rounds (0: of the memory process). The paper claims 15 times faster and 48.2 % "
        "less memory than 3D solutions; which ones, and on what, is not known."
    )
    if args.json:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads(), **vars(args), **vars(setup)}
        about["measured"] = {title_of(mirroring): rows for mirroring, rows in measured.items()}
        args.json.write_text(json.dumps(about, indent=1, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
