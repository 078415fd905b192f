"""Cost of BaBLoss: its two directions against nnU-Net's own loss, and its distance map against other poolings.

::

    python benchmarks/bridge_loss.py                  # 13 landmarks in a batch of 2×6×128³
    python benchmarks/bridge_loss.py --device cuda --patch 160 128 112

Two tables, all of forward and backward, with 13 landmarks in boxes of 33³ (Gaussian 17³, 8 levels around it):

* *The loss in a training step.* The reference is nnU-Net's Dice and cross entropy at full resolution on the same patch,
  without deep supervision. Direction A is the landmark that pulls the boundary, B the boundary that pulls the landmark.
  Heatmaps and their place are the losses of the landmarks themselves, sigma 4.
* *The distance map alone.* The references are PyTorch's max pooling: "boxes" pools each level from the volume with a
  box of its size, "pooled" as ours from the level before, one axis at a time. Gradients are compared first.

Time: all in memory, taking turns; a ratio compares two times of the same round. Peak memory: each in a process of its
own, the largest resident set (GPU: the most that was allocated) minus what was there before. Saved: bytes that the
forward pass keeps for the backward pass, each storage counted once, without the inputs. The exit code is 1 if the
gradients of the maps differ by more than 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, one_hot

from nnunet_ext.babloss.boundary_distance import inner_boundary_distance, radius_steps
from nnunet_ext.babloss.loss import BridgeLoss
from nnunet_ext.landmarks.heatmaps import HeatmapLoss, PlaceLoss
from nnunet_ext.landmarks.points import State

CLASSES, LEVELS, INNER = 6, 8, 17
STEPS = radius_steps(LEVELS, (1.0, 1.0, 1.0))
WINDOW = INNER + 2 * LEVELS
Job = tuple[Callable[[], Tensor], Tensor]
"""The loss, and what its gradient goes to."""


# -- the distance map -------------------------------------------------------------------------------------------------


def by_boxes(p: Tensor) -> Tensor:
    both = torch.stack([p, -p], 1)
    levels = [max_pool3d(both, 2 * r + 1, stride=1, padding=r) for r in range(1, LEVELS + 1)]
    return _inner(sum(levels[1:], levels[0]).sum(1) / LEVELS)


def by_pooling(p: Tensor) -> Tensor:
    both, total = torch.stack([p, -p], 1), torch.zeros_like(p)
    for _ in range(LEVELS):
        for axis in range(3):
            kernel, padding = [1, 1, 1], [0, 0, 0]
            kernel[axis], padding[axis] = 3, 1
            both = max_pool3d(both, kernel, stride=1, padding=padding)
        total = total + both.sum(1)
    return _inner(total / LEVELS)


def _inner(x: Tensor) -> Tensor:
    return x[..., LEVELS:-LEVELS, LEVELS:-LEVELS, LEVELS:-LEVELS]


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "boxes": by_boxes,
    "pooled": by_pooling,
    "ours": lambda p: inner_boundary_distance(p, STEPS),
}


def distance_map(name: str, landmarks: int, device: str) -> Job:
    p = torch.rand(landmarks, *[WINDOW] * 3, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    weight = torch.rand(landmarks, *[INNER] * 3, generator=torch.Generator().manual_seed(1)).to(device)
    return lambda: (weight * MAPS[name](p)).sum(), p


# -- the losses -------------------------------------------------------------------------------------------------------

LOSSES = ("Dice + cross entropy", "direction A", "direction B", "heatmaps", "their place")
HEATMAPS: dict[str, type[nn.Module]] = {"heatmaps": HeatmapLoss, "their place": PlaceLoss}


def loss(name: str, landmarks: int, patch: Sequence[int], device: str) -> Job:
    """Everything has a boundary near every landmark, so that all of them take part."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(2, 1, *patch, dtype=torch.long, device=device)
    for c in range(1, CLASSES):  # slabs along the last axis
        labels[..., patch[-1] * c // CLASSES :] = c
    hot = one_hot(labels[:, 0], CLASSES).movedim(-1, 1).float()
    if name == LOSSES[0]:
        both = DC_and_CE_loss({"batch_dice": False, "do_bg": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
        logits = (4 * hot + torch.randn(hot.shape, generator=generator).to(device)).requires_grad_()
        return lambda: both(logits, labels), logits
    bridge = BridgeLoss(
        [[(1 + k % (CLASSES - 1),)] for k in range(landmarks)],
        (1.0, 1.0, 1.0),
        levels=LEVELS,
        sigma=INNER / 2 / 3,
        heatmap_sigma=INNER / 2 / 3,
    )
    # sample 0 has landmarks, sample 1 has labels
    points = torch.stack([torch.rand(landmarks, generator=generator) * (n - 3) + 1 for n in patch], 1)
    points[:, -1] = torch.tensor([patch[-1] * (1 + k % (CLASSES - 1)) / CLASSES for k in range(landmarks)])
    states = torch.full((2, landmarks), State.UNKNOWN, device=device)
    if name in HEATMAPS:
        states[0] = State.PRESENT
        learned = torch.randn(2, landmarks, *patch, generator=generator).sub_(5).to(device).requires_grad_()
        of_heatmaps, where = HEATMAPS[name]((4.0,) * 3), points.expand(2, -1, -1).to(device)
        return lambda: of_heatmaps(learned, where, states), learned
    if name == LOSSES[1]:
        states[0] = State.PRESENT
        logits = (4 * hot + torch.randn(hot.shape, generator=generator).to(device)).requires_grad_()
        where, use = points.expand(2, -1, -1).to(device), torch.ones_like(states, dtype=torch.bool)
        run = lambda: bridge.landmark_pulls_boundary(logits, where, states, use)  # noqa: E731
        learned = logits
    else:
        learned = torch.randn(2, landmarks, *patch, generator=generator).sub_(5).to(device)
        for k, point in enumerate(points.round().long().tolist()):
            learned[1, k][tuple(point)] = 5.0
        learned.requires_grad_()
        annotated, use = torch.ones_like(labels, dtype=torch.bool), torch.ones_like(states, dtype=torch.bool)
        use[0] = False
        run = lambda: bridge.boundary_pulls_landmark(learned, hot, annotated, states, use)  # noqa: E731
    active = int(run().active)
    if active != landmarks:
        raise SystemExit(f"{name}: {active} of {landmarks} landmarks take part")
    return lambda: run().loss, learned


# -- measuring --------------------------------------------------------------------------------------------------------


def step(job: Job) -> Tensor:
    """Forward and backward; returns the gradient."""
    run, learned = job
    (gradient,) = torch.autograd.grad(run(), learned)
    if learned.is_cuda:
        torch.cuda.synchronize()
    return gradient


def saved_mib(job: Job) -> float:
    run, learned = job
    storages: dict[int, int] = {}
    alive = []

    def keep(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)  # so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        run()
    storages.pop(learned.untyped_storage().data_ptr(), None)
    return sum(storages.values()) / 2**20


def resident(key: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS now, VmHWM the largest so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit("peak memory on a CPU is read from /proc, which this system does not have; use --device cuda")


def peak_mib(job: Job) -> float:
    """Peak memory of a step in this process, which must not have done it before."""
    if job[1].is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(job)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest so far: the inputs were made in this process
    before = resident("VmRSS")
    step(job)
    return resident("VmHWM") - before


def measure(jobs: dict[str, Job], repeats: int, peak: Callable[[str], float]) -> dict[str, dict[str, float]]:
    """Times, memory, and ratios to the first."""
    reference = next(iter(jobs))
    for job in jobs.values():
        step(job)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            begin = time.perf_counter()
            step(job)
            times[name].append(time.perf_counter() - begin)
    result = {}
    for name, job in jobs.items():
        ratios = [a / b for a, b in zip(times[name], times[reference], strict=True)]
        result[name] = {
            "seconds": statistics.median(times[name]),
            "time_ratio": statistics.median(ratios),
            "time_ratio_min": min(ratios),
            "time_ratio_max": max(ratios),
            "peak_mib": peak(name),
            "saved_mib": saved_mib(job),
        }
    for row in result.values():
        row["peak_ratio"] = row["peak_mib"] / result[reference]["peak_mib"]
        row["saved_ratio"] = row["saved_mib"] / result[reference]["saved_mib"]
    return result


def table(title: str, rows: dict[str, dict[str, float]]) -> str:
    lines = [
        f"| {title} | time | ratio (min to max) | peak | ratio | saved for backward | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['seconds']:.3g} s | {row['time_ratio']:.3f} ({row['time_ratio_min']:.3f} to "
            f"{row['time_ratio_max']:.3f}) | {row['peak_mib']:.0f} MiB | {row['peak_ratio']:.3f} | "
            f"{row['saved_mib']:.0f} MiB | {row['saved_ratio']:.3f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[128, 128, 128], metavar="VOXELS")
    parser.add_argument("--landmarks", type=int, default=13)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # of one job, in this process
    arguments = parser.parse_args(argv)

    def job(name: str) -> Job:
        if name in MAPS:
            return distance_map(name, arguments.landmarks, arguments.device)
        return loss(name, arguments.landmarks, arguments.patch, arguments.device)

    if arguments.peak:
        print(peak_mib(job(arguments.peak)))
        return 0

    def peak(name: str) -> float:
        command = [sys.executable, __file__, *argv, "--peak", name]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    maps = {name: job(name) for name in MAPS}
    gradients = {name: step(each) for name, each in maps.items()}
    expected = gradients["boxes"]
    differences = {n: ((g - expected).abs().max() / expected.abs().max()).item() for n, g in gradients.items()}
    measured = {
        "loss": measure({name: job(name) for name in LOSSES}, arguments.repeats, peak),
        "distance_map": measure(maps, arguments.repeats, peak),
    }
    patch = "×".join(map(str, arguments.patch))
    print(
        f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.repeats} rounds"
    )
    print()
    print(table(f"2×{CLASSES}×{patch}, {arguments.landmarks} landmarks", measured["loss"]))
    print()
    print(table(f"{arguments.landmarks} maps in {WINDOW}³", measured["distance_map"]))
    print(f"\ngradients of the maps differ by at most {max(differences.values()):.0e} of the largest")
    if arguments.json:
        about = {
            "torch": torch.__version__,
            "device": arguments.device,
            "threads": torch.get_num_threads(),
            "patch": arguments.patch,
            "landmarks": arguments.landmarks,
            "gradient_differences": differences,
        }
        arguments.json.write_text(json.dumps({**about, **measured}, indent=1) + "\n")
    return int(not all(difference <= 1e-5 for difference in differences.values()))  # nan is not


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
