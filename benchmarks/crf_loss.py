"""The masked CRF loss against an implementation by ``unfold``: time and peak memory of forward and backward.

::

    python benchmarks/crf_loss.py                        # 2D 4×4×256², radius 5, and 3D 1×4×64³, radius 3
    python benchmarks/crf_loss.py --device cuda --sizes 50x4x256x224

The reference is written from the formula, as gated CRF losses usually are: all neighbours of every voxel are copied by
``unfold``, and autograd does the rest. In 3D the copies are made by shifting, which is the same. Both get the same
logits, image and mask; gradients are compared first. The loss with the default window of the trainers is measured
beside them, against the same reference. Time: both in memory, taking turns; a ratio compares two times of
the same round. Peak memory: each in a process of its own, the largest resident set (GPU: the most that was allocated)
minus what was there before. The exit code is 1 if the gradients differ by more than 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from nnunet_ext.attenscribble.crf_loss import MaskedCRFLoss, Window, scaled_intensities
from nnunet_ext.attenscribble.crf_window import crf_loss
from nnunet_ext.attenscribble.options import AttenScribbleOptions

RADIUS = {2: 5, 3: 3}
SIGMA = 6.0
METHODS = ("unfold", "ours", "default")
"""The reference, the same loss by this package, and this package with the default window of its trainers."""


def neighbours(x: Tensor, radius: int) -> Tensor:
    """``(B, C, window, *spatial)``: every neighbour of every voxel, 0 outside."""
    dim = x.ndim - 2
    if dim == 2:
        window = 2 * radius + 1
        unfolded = torch.nn.functional.unfold(x, window, padding=radius)
        return unfolded.view(x.shape[0], x.shape[1], window**2, *x.shape[2:])
    padded = pad(x, [radius] * 2 * dim)
    return torch.stack(
        [
            padded[(..., *(slice(s, s + n) for s, n in zip(start, x.shape[2:], strict=True)))]
            for start in torch.cartesian_prod(*[torch.arange(2 * radius + 1)] * dim).tolist()
        ],
        2,
    )


def by_unfold(logits: Tensor, image: Tensor, unlabelled: Tensor) -> Tensor:
    """The loss of ``crf_loss`` with all neighbours at once."""
    dim, radius = image.ndim - 2, RADIUS[image.ndim - 2]
    steps = torch.cartesian_prod(*[torch.arange(-radius, radius + 1.0)] * dim)
    spatial = torch.exp(-steps.square().sum(1) / (2 * SIGMA**2)) * steps.any(1)
    spatial = spatial.to(image.device).view(1, 1, -1, *[1] * dim)
    p, features = logits.softmax(1), scaled_intensities(image, 0.1)
    inside = neighbours(torch.ones_like(unlabelled, dtype=p.dtype), radius)
    similar = torch.exp(-(neighbours(features, radius) - features.unsqueeze(2)).square().sum(1, keepdim=True))
    kernel = spatial * similar * inside * unlabelled.unsqueeze(2)
    different = 1 - (neighbours(p, radius) * p.unsqueeze(2)).sum(1, keepdim=True)
    return (kernel * different).sum() / (spatial.sum() * unlabelled.sum().clamp(min=1))


def ours(logits: Tensor, image: Tensor, unlabelled: Tensor) -> Tensor:
    dim = image.ndim - 2
    return MaskedCRFLoss(Window.gaussian([RADIUS[dim]] * dim, SIGMA))(logits, image, unlabelled)


def default(logits: Tensor, image: Tensor, unlabelled: Tensor) -> Tensor:
    return crf_loss([1.0] * (image.ndim - 2), AttenScribbleOptions())(logits, image, unlabelled)


def inputs(size: Sequence[int], device: str) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, *spatial = size
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, heads, *spatial, generator=generator)
    image = torch.randn(batch, 1, *spatial, generator=generator)
    unlabelled = torch.rand(batch, 1, *spatial, generator=generator) < 0.95
    return logits.to(device).requires_grad_(), image.to(device), unlabelled.to(device)


def step(method: str, logits: Tensor, image: Tensor, unlabelled: Tensor) -> Tensor:
    """Forward and backward; returns the gradient."""
    loss = {"unfold": by_unfold, "ours": ours, "default": default}[method](logits, image, unlabelled)
    (gradient,) = torch.autograd.grad(loss, logits)
    if logits.is_cuda:
        torch.cuda.synchronize()
    return gradient


def resident(key: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS now, VmHWM the largest so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit("peak memory on a CPU is read from /proc, which this system does not have; use --device cuda")


def peak_mib(method: str, size: Sequence[int], device: str) -> float:
    """Peak memory of a step in this process, which must not have done it before."""
    step(method, *inputs([1, 2, *[8] * (len(size) - 2)], device))  # libraries are loaded, pools are made
    arguments = inputs(size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(method, *arguments)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident("VmRSS")
    step(method, *arguments)
    return resident("VmHWM") - before


def measure(size: Sequence[int], device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Times, memory and ratios of both methods, and how far their gradients differ."""
    arguments = inputs(size, device)
    gradients = [step(method, *arguments) for method in METHODS]  # also the warm-up
    difference = ((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()).item()
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(repeats):
        for method in METHODS:
            begin = time.perf_counter()
            step(method, *arguments)
            times[method].append(time.perf_counter() - begin)
    ratios = {
        method: [a / b for a, b in zip(times[method], times["unfold"], strict=True)] for method in ("ours", "default")
    }
    memory = {}
    for method in METHODS:
        command = [sys.executable, __file__, "--device", device, "--sizes", "x".join(map(str, size)), "--peak", method]
        memory[method] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        **{method: {"seconds": statistics.median(times[method]), "peak_mib": memory[method]} for method in METHODS},
        "ratio": {
            "time": statistics.median(ratios["ours"]),
            "time_min": min(ratios["ours"]),
            "time_max": max(ratios["ours"]),
            "memory": memory["ours"] / memory["unfold"],
            "gradient_difference": difference,
            "default_time": statistics.median(ratios["default"]),
            "default_memory": memory["default"] / memory["unfold"],
        },
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["4x4x256x256", "1x4x64x64x64"], metavar="BxKxSPATIAL")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    sizes = {text: [int(n) for n in text.split("x")] for text in arguments.sizes}
    if arguments.peak:
        print(peak_mib(arguments.peak, next(iter(sizes.values())), arguments.device))
        return 0
    measured = {text: measure(size, arguments.device, arguments.repeats) for text, size in sizes.items()}
    header = ["batch × classes × voxels", "unfold: time", "ours", "ratio (min to max)", "unfold: peak", "ours", "ratio"]
    print("| " + " | ".join([*header, "gradients differ by", "default window: time", "peak"]) + " |")
    print("|---|" + "---:|" * 9)
    for text, row in measured.items():
        old, new, ratio = row["unfold"], row["ours"], row["ratio"]
        print(
            f"| {text.replace('x', '×')} | {old['seconds']:.2f} s | {new['seconds']:.3f} s | {ratio['time']:.2f} "
            f"({ratio['time_min']:.2f} to {ratio['time_max']:.2f}) | {old['peak_mib']:.0f} MiB | "
            f"{new['peak_mib']:.0f} MiB | {ratio['memory']:.3f} | {ratio['gradient_difference']:.0e} | "
            f"{ratio['default_time']:.2f} | {ratio['default_memory']:.3f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    differences = [row["ratio"]["gradient_difference"] for row in measured.values()]
    return int(not all(difference <= 1e-5 for difference in differences))  # nan is not


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
