"""Cost of a trainer against stock nnU-Net: time of a training step and of inference, parameters, memory.

::

    python benchmarks/step_cost.py                            # all trainers, a small network, no data set needed
    python benchmarks/step_cost.py --plan-128 --device cuda   # the network that nnU-Net plans for a patch of 128³
    python benchmarks/step_cost.py --plans nnUNetPlans.json --dataset-json dataset.json --trainers nnUNetTrainerPnPNet

Trainers are built as ``nnUNetv2_train`` builds them, but see random voxels and random labels, so that no data loader is
part of the time. Every number is a ratio to ``nnUNetTrainer`` in the same run:

* **Time.** All trainers are in memory and take turns (A B C A B C …); a ratio compares two times of the same round, so
  that whatever else the machine does slows both. A step is ``train_step``: forward, losses, backward, optimizer.
  Inference is one forward pass of one patch, in evaluation mode, without deep supervision and without gradient.
* **Peak memory**, each trainer in a process of its own. GPU: the most that PyTorch had allocated during a training step
  after two others. CPU (Linux): the largest resident set (``VmHWM``) up to the end of the third training step, minus
  the resident set just before the trainer was built. Both hold weights, gradients, optimizer state, activations and
  workspaces. On the CPU this is not ``getrusage().ru_maxrss``, which a child process inherits from its parent.
* **Saved for backward**: bytes of all tensors that the forward pass and the losses keep for the backward pass, each
  storage counted once, parameters not counted; the most at any one time, since a step may have several backward passes.
  It is exact, free of the allocator, and what activation memory on a GPU follows; what is recomputed in the backward
  pass is not part of it, but is part of the peak.

The exit code is 1 if a trainer could not be measured; its row says why, the others are measured all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_ext import catalogue
from nnunet_ext.errors import InputError
from nnunet_ext.find_trainer import find_trainer
from nnunet_ext.landmarks.points import State
from nnunet_ext.landmarks.training.loader import landmark_entries
from nnunet_ext.nnunet.plans import KEY
from nnunet_ext.planning import require_options

STOCK = "nnUNetTrainer"
SMALL = {"features": (8, 16, 32, 64), "patch": (32, 32, 32)}
OPTIONS = '{"pnpnet": {"push": true}}'
PLAN_128 = {"features": (32, 64, 128, 256, 320, 320), "patch": (128, 128, 128)}


# -- what is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """One configuration of one plans file, with patch and batch size as asked for."""

    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    device: torch.device

    @property
    def settings(self) -> dict[str, Any]:
        return self.plans["configurations"][self.configuration]

    @property
    def heads(self) -> int:
        """K: classes including the background, or regions."""
        return PlansManager(self.plans).get_label_manager(self.dataset_json).num_segmentation_heads


def synthetic_plans(features: Sequence[int], patch: Sequence[int]) -> dict[str, Any]:
    """Plans as nnU-Net writes them for isotropic images: 3D ``PlainConvUNet``, batch size 2."""
    stages = len(features)
    settings = {
        "data_identifier": "synthetic_3d_fullres",
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": [1.0] * 3,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3] * 3] * stages,
                "strides": [[1] * 3, *[[2] * 3] * (stages - 1)],
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset999_Synthetic",
        "plans_name": f"synthetic ({stages} stages, {features[0]} to {features[-1]} features)",
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": settings},
    }


def synthetic_dataset(classes: int, ignore: bool, landmarks: int = 0) -> dict[str, Any]:
    """``dataset.json`` with one channel and ``classes`` labels, background included, and perhaps the ignore label.

    Landmark k lies on the surface of label k, counted again from the first after the last.
    """
    labels = {"background": 0, **{f"class {label}": label for label in range(1, classes)}}
    if ignore:
        labels["ignore"] = classes
    dataset = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    if landmarks:
        surface_of = {f"landmark {k}": [f"class {1 + k % (classes - 1)}"] for k in range(landmarks)}
        dataset["landmarks"] = {"names": list(surface_of), "surface_of": surface_of}
    return dataset


def setup_from(args: argparse.Namespace) -> Setup:
    """The plans and data set that the command line asks for.

    Raises:
        InputError: no such configuration, or a patch of the wrong dimension.
    """
    if args.plans is None:
        plans = synthetic_plans(**(PLAN_128 if args.plan_128 else SMALL))
    else:
        plans = json.loads(args.plans.read_text())
    if args.configuration not in plans["configurations"]:
        raise InputError(
            f"There is no configuration {args.configuration!r} in plans {plans['plans_name']}; there are: "
            f"{', '.join(plans['configurations'])}."
        )
    settings = deepcopy(PlansManager(plans).get_configuration(args.configuration).configuration)
    settings.pop("inherits_from", None)  # what it inherits is written out by now
    if args.patch_size is not None:
        if len(args.patch_size) != len(settings["patch_size"]):
            raise InputError(
                f"--patch-size gives {len(args.patch_size)} numbers, but configuration {args.configuration} has "
                f"{len(settings['patch_size'])} axes."
            )
        settings["patch_size"] = args.patch_size
    if args.batch_size is not None:
        settings["batch_size"] = args.batch_size
    of_plans = settings.get(KEY, {})
    chosen = {method: {**of_plans.get(method, {}), **section} for method, section in options_from(args.options).items()}
    settings[KEY] = {**of_plans, **chosen}
    plans["configurations"][args.configuration] = settings
    if args.dataset_json is None:
        dataset = synthetic_dataset(args.classes or 3, args.ignore or args.landmarks > 0, args.landmarks)
    else:
        dataset = json.loads(args.dataset_json.read_text())
    return Setup(plans, args.configuration, dataset, torch.device(args.device))


def options_from(text: str) -> dict[str, dict[str, Any]]:
    """Method → option → value, from JSON such as ``{"pnpnet": {"push": true}}``.

    Raises:
        InputError: it is no JSON, or another one; there is no such method or option, or it has another value.
    """
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--options is no JSON ({error}): {text}") from None
    if not isinstance(options, dict) or not all(isinstance(section, dict) for section in options.values()):
        raise InputError(f"--options must give options by method, as in {OPTIONS}; found: {text}")
    require_options(options)
    return options


def build(setup: Setup, trainer_class: type) -> Any:
    """An initialised trainer, as ``nnUNetv2_train`` would build it, in training mode."""
    plans = deepcopy(setup.plans)  # trainers write into it
    plans["continue_training"] = False
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints its citation
        trainer = trainer_class(plans, setup.configuration, 0, deepcopy(setup.dataset_json), setup.device)
        trainer.initialize()
    trainer.current_epoch = trainer.num_epochs // 2  # some terms of a loss begin late
    trainer.network.train()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    return trainer


def random_batch(trainer: Any) -> dict[str, Any]:
    """A batch as nnU-Net's loader hands it over, of noise.

    ``data`` is ``(B, C, *patch)``; ``target`` is ``(B, 1, *spatial)`` int16, or ``(B, R, *spatial)`` bool for R regions
    (and the ignore label), as a list from fine to coarse with deep supervision. For a trainer of landmarks every other
    sample has landmarks and no label, the others labels and no landmark. A trainer that takes images without labels is
    given patches of them.
    """
    patch, manager = trainer.configuration_manager.patch_size, trainer.label_manager
    channels = manager.num_segmentation_heads + manager.has_ignore_label

    def target(size: Sequence[int]) -> Tensor:
        if manager.has_regions:
            return torch.rand(trainer.batch_size, channels, *size) < 0.5
        return torch.randint(0, channels, (trainer.batch_size, 1, *size), dtype=torch.int16)

    scales = trainer._get_deep_supervision_scales()
    sizes = [[round(n * scale) for n, scale in zip(patch, per_axis, strict=True)] for per_axis in scales or []]
    targets = [target(size) for size in sizes] if scales is not None else [target(patch)]
    batch: dict[str, Any] = {
        "data": torch.randn(trainer.batch_size, trainer.num_input_channels, *patch),
        "keys": [f"case_{sample}" for sample in range(trainer.batch_size)],
    }
    if hasattr(trainer, "landmark_declaration"):
        names = trainer.landmark_declaration.names
        states = torch.full((trainer.batch_size, len(names)), int(State.UNKNOWN), dtype=torch.int8)
        states[1::2] = int(State.PRESENT)
        for full in targets:
            full[1::2] = manager.ignore_label
        points = torch.rand(*states.shape, len(patch)) * (torch.tensor(patch) - 1)
        batch |= landmark_entries(points, states, torch.arange(trainer.batch_size) % 2 == 0)
    if hasattr(trainer, "unlabelled_patches") and trainer.options.unlabelled.images != "none":
        batch["unlabelled"] = torch.randn(trainer.unlabelled_patches, *batch["data"].shape[1:])
    return {**batch, "target": targets if scales is not None else targets[0]}


def step(trainer: Any, batch: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train_step(batch)


# -- memory: one process for each trainer -----------------------------------------------------------------------------


def resident_bytes(field_name: str, process: int | str = "self") -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this or another process; None where there is no Linux, or it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                return int(line.split()[1]) * 1024
    return None


def reset_resident_peak() -> None:
    """Set ``VmHWM`` back to ``VmRSS``; where that is forbidden the peak of the imports remains, far below a step's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def saved_bytes(trainer: Any, batch: dict[str, Any]) -> int:
    """The most bytes that a training step keeps for the backward pass at any one time, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for group in trainer.optimizer.param_groups for p in group["params"]}
    holders: Counter[int] = Counter()  # by storage; what is held is not freed, so no address is used twice
    now = most = 0

    class Kept:
        """A tensor that the graph holds, and with it its storage."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, most
            self.tensor, self.address = tensor, tensor.untyped_storage().data_ptr()
            if self.address not in parameters and not holders[self.address]:
                now += tensor.untyped_storage().nbytes()
                most = max(most, now)
            holders[self.address] += 1

        def __del__(self) -> None:
            nonlocal now
            holders[self.address] -= 1
            if self.address not in parameters and not holders[self.address]:
                now -= self.tensor.untyped_storage().nbytes()

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        step(trainer, batch)
    return most


def memory(setup: Setup, name: str) -> dict[str, int | None]:
    """Peak and saved bytes of a training step, and the network's parameters; see the module's docstring."""
    trainer_class = find_trainer(name)  # imports everything before the baseline is taken
    before = resident_bytes("VmRSS")
    reset_resident_peak()
    trainer = build(setup, trainer_class)
    batch = random_batch(trainer)
    for _ in range(2):  # compiles, picks algorithms, and makes the optimizer's state
        step(trainer, batch)
    if setup.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    step(trainer, batch)
    if setup.device.type == "cuda":
        peak: int | None = torch.cuda.max_memory_allocated()
    else:
        after = resident_bytes("VmHWM")
        peak = after - before if after is not None and before is not None else None
    return {
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "peak_bytes": peak,
        "saved_bytes": saved_bytes(trainer, batch),
    }


def memory_in_a_process(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """:func:`memory` of one trainer by this script, started again with the same arguments.

    Raises:
        RuntimeError: it did not come to an end; the message is one sentence.
    """
    # glibc keeps freed blocks below a threshold that grows up to 32 MiB, and would count them as resident
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_TRIM_THRESHOLD_": str(1 << 16)}
    run = subprocess.run(
        [sys.executable, __file__, *arguments, "--probe", name], env=environment, capture_output=True, text=True
    )
    if run.returncode < 0:
        raise RuntimeError(f"killed by signal {-run.returncode} while its memory was measured (9: out of memory)")
    if run.returncode:
        raise RuntimeError(f"measuring its memory failed: {(run.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


# -- time: all trainers take turns ------------------------------------------------------------------------------------


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of ``work()``, to the end of what it started on the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def infer(trainer: Any, data: Tensor) -> None:
    autocast = torch.autocast("cuda") if data.device.type == "cuda" else contextlib.nullcontext()
    with torch.no_grad(), autocast:
        trainer.network(data)


def take_turns(
    work: dict[str, Callable[[], Any]], device: torch.device, warmup: int, repeats: int, failed: Callable[..., None]
) -> dict[str, list[float]]:
    """Seconds of ``work[name]`` in every round after the warm-up, round by round; those that fail are left out."""
    work, times = dict(work), {name: [] for name in work}
    for round_number in range(warmup + repeats):
        for name in list(work):
            try:
                elapsed = seconds(work[name], device)
            except Exception as error:
                failed(name, error)
                del work[name], times[name]
                continue
            if round_number >= warmup:
                times[name].append(elapsed)
        print(f"round {round_number + 1} of {warmup + repeats}", file=sys.stderr)
    return times


# -- results ----------------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Everything about one trainer; None: not measured."""

    error: str | None = None
    parameters_million: float | None = None
    step_seconds: list[float] = field(default_factory=list)
    inference_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    step_ratio: dict[str, float] | None = None
    inference_ratio: dict[str, float] | None = None
    peak_ratio: float | None = None
    saved_ratio: float | None = None

    def compare(self, stock: Cost) -> None:
        """Fill in the ratios to the stock trainer of the same run."""
        for what in ("step", "inference"):
            own, reference = getattr(self, f"{what}_seconds"), getattr(stock, f"{what}_seconds")
            if own and reference:
                ratios = [a / b for a, b in zip(own, reference, strict=True)]
                spread = {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}
                setattr(self, f"{what}_ratio", spread)
        for what in ("peak", "saved"):
            own, reference = getattr(self, f"{what}_bytes"), getattr(stock, f"{what}_bytes")
            if own and reference:
                setattr(self, f"{what}_ratio", own / reference)


def sentence(error: Exception) -> str:
    """The first line of what went wrong, with its type unless the message was written for a user."""
    line = (str(error).strip() or "no message").splitlines()[0]
    return line if isinstance(error, (InputError, RuntimeError)) else f"{type(error).__name__}: {line}"


def measure(setup: Setup, names: Sequence[str], args: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Cost]:
    """The costs of the trainers called ``names``, of which the first is the stock one."""
    costs = {name: Cost() for name in names}

    def failed(name: str, error: Exception) -> None:
        costs[name].error = sentence(error)
        print(f"{name} failed: {costs[name].error}", file=sys.stderr)

    for name, cost in costs.items():
        print(f"memory of {name}", file=sys.stderr)
        try:
            measured = memory_in_a_process(name, arguments)
        except Exception as error:
            failed(name, error)
            continue
        cost.error = measured.get("error")
        if cost.error is None:
            cost.parameters_million = measured["parameters"] / 1e6
            cost.peak_bytes, cost.saved_bytes = measured["peak_bytes"], measured["saved_bytes"]

    trainers, batches = {}, {}
    for name in names:
        if costs[name].error is None and costs[STOCK].error is None:
            try:
                trainers[name] = build(setup, find_trainer(name))
                batches[name] = random_batch(trainers[name])
            except Exception as error:
                failed(name, error)
                trainers.pop(name, None)

    def turns(work: Callable[[str], Any]) -> dict[str, list[float]]:
        jobs = {name: (lambda name=name: work(name)) for name in trainers if costs[name].error is None}
        return take_turns(jobs, setup.device, args.warmup, args.repeats, failed)

    for name, times in turns(lambda name: step(trainers[name], batches[name])).items():
        costs[name].step_seconds = times
    for trainer in trainers.values():
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.network.eval()
        trainer.set_deep_supervision_enabled(False)
    patches = {name: batches[name]["data"][:1].to(setup.device) for name in trainers}
    for name, times in turns(lambda name: infer(trainers[name], patches[name])).items():
        costs[name].inference_seconds = times

    for cost in costs.values():
        cost.compare(costs[STOCK])
    return costs


def describe(setup: Setup, args: argparse.Namespace) -> dict[str, Any]:
    """Notes that a reader needs to judge the numbers."""
    device = platform.processor() or platform.machine()
    if setup.device.type == "cuda":
        device = torch.cuda.get_device_name()
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        device = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), device)
    compiled = setup.device.type == "cuda" and os.environ.get("nnUNet_compile", "t").lower() in ("true", "1", "t")
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compiled": compiled,
        "plans": setup.plans["plans_name"],
        "configuration": setup.configuration,
        "network": setup.settings["architecture"]["network_class_name"].rsplit(".", 1)[-1],
        "patch_size": list(setup.settings["patch_size"]),
        "batch_size": setup.settings["batch_size"],
        "classes": setup.heads,
        "options": args.options,
        "repeats": args.repeats,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def markdown(about: dict[str, Any], costs: dict[str, Cost]) -> str:
    """The header line, the table, and what its columns mean."""
    load = "" if about["load_average"] is None else f", load {about['load_average']:.1f}"
    header = (
        f"**{about['device']}**, {about['threads']} threads{load}, torch {about['torch']}"
        f"{', torch.compile' if about['compiled'] else ''}; "
        f"plans {about['plans']} {about['configuration']} ({about['network']}), "
        f"patch {'×'.join(map(str, about['patch_size']))}, batch {about['batch_size']}, K = {about['classes']}"
        f"{'' if about['options'] == '{}' else ', options ' + about['options']}"
    )
    columns = ("trainer", "parameters (M)", "step time", "inference time", "peak memory", "saved for backward")
    rows = [columns, ("---", *["---:"] * (len(columns) - 1))]
    for name, cost in costs.items():
        rows.append((name, *_cells(cost, absolute=name == STOCK)))
        if cost.error is not None:
            rows[-1] = (name, f"not measured: {cost.error.replace('|', '/')}", *[""] * (len(columns) - 2))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    legend = (
        f"Ratios to {STOCK} in the same run: median (min to max) of {about['repeats']} rounds; its own row gives the "
        "median time and the memory."
    )
    return f"{header}\n\n{table}\n\n{legend}"


def _cells(cost: Cost, absolute: bool) -> tuple[str, ...]:
    def time_cell(times: list[float], ratio: dict[str, float] | None) -> str:
        if absolute:
            return f"{statistics.median(times):.3g} s" if times else "–"
        return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "–"

    def memory_cell(size: int | None, ratio: float | None) -> str:
        if absolute:
            return f"{size / 2**20:.0f} MiB" if size else "–"
        return f"{ratio:.2f}" if ratio else "–"

    return (
        f"{cost.parameters_million:.3g}" if cost.parameters_million else "–",
        time_cell(cost.step_seconds, cost.step_ratio),
        time_cell(cost.inference_seconds, cost.inference_ratio),
        memory_cell(cost.peak_bytes, cost.peak_ratio),
        memory_cell(cost.saved_bytes, cost.saved_ratio),
    )


# -- the command line -------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return int(text)

    plans = result.add_mutually_exclusive_group()
    plans.add_argument("--plans", type=Path, metavar="FILE", help="nnU-Net plans; default: a small synthetic network")
    plans.add_argument("--plan-128", action="store_true", help="the network nnU-Net plans for a patch of 128³, batch 2")
    result.add_argument("--configuration", default="3d_fullres", help="of the plans (default: %(default)s)")
    labels = result.add_mutually_exclusive_group()
    labels.add_argument("--dataset-json", type=Path, metavar="FILE", help="channels and labels of the data set")
    labels.add_argument("--classes", type=positive, metavar="K", help="without it: labels with background (default: 3)")
    result.add_argument("--ignore", action="store_true", help="an ignore label beside the classes, as for scribbles")
    result.add_argument(
        "--landmarks", type=int, default=0, metavar="K", help="landmarks on the labels, and an ignore label (BaBLoss)"
    )
    result.add_argument(
        "--trainers", nargs="+", metavar="NAME", default=list(catalogue.TRAINERS), help="default: all of nnunet_ext"
    )
    result.add_argument(
        "--options", default="{}", metavar="JSON", help=f"options of the methods, as in plans: '{OPTIONS}'"
    )
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    result.add_argument("--patch-size", type=positive, nargs="+", metavar="VOXELS", help="instead of the plans'")
    result.add_argument("--batch-size", type=positive, metavar="SAMPLES", help="instead of the plans'")
    result.add_argument("--repeats", type=positive, default=7, help="rounds that count (default: %(default)s)")
    result.add_argument("--warmup", type=int, default=2, help="rounds that do not (default: %(default)s)")
    result.add_argument("--threads", type=positive, help="CPU threads; default: PyTorch's")
    result.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="on cuda; default: nnU-Net's (nnUNet_compile, else on)"
    )
    result.add_argument("--json", type=Path, metavar="OUT", help="write the raw numbers")
    result.add_argument("--probe", metavar="NAME", help=argparse.SUPPRESS)  # the memory of one trainer, in this process
    return result


def prepare_nnunet(setup: Setup, folder: Path, args: argparse.Namespace) -> None:
    """Give nnU-Net the folders and settings that it looks for in the environment and in PyTorch."""
    data = folder / "preprocessed" / setup.plans["dataset_name"] / setup.settings["data_identifier"]
    data.mkdir(parents=True)
    (data / "case.b2nd").touch()  # nnU-Net infers the class of the data set from the file ending
    os.environ["nnUNet_preprocessed"] = str(folder / "preprocessed")
    os.environ["nnUNet_results"] = str(folder / "results")
    if args.compile is not None:
        os.environ["nnUNet_compile"] = "true" if args.compile else "false"
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True  # as nnUNetv2_train


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    try:
        setup = setup_from(args)
    except (InputError, OSError) as error:
        parser().error(str(error))
    with tempfile.TemporaryDirectory(prefix="step_cost_") as folder:
        prepare_nnunet(setup, Path(folder), args)
        if args.probe is not None:
            try:
                result: dict[str, Any] = memory(setup, args.probe)
            except Exception as error:
                result = {"error": sentence(error)}
            print(json.dumps(result))
            return 0
        about = describe(setup, args)
        costs = measure(setup, list(dict.fromkeys([STOCK, *args.trainers])), args, arguments)
    print(markdown(about, costs))
    if args.json is not None:
        trainers = {name: asdict(cost) for name, cost in costs.items()}
        args.json.write_text(json.dumps({**about, "stock": STOCK, "trainers": trainers}, indent=1) + "\n")
    return int(any(cost.error is not None for cost in costs.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
