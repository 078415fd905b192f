"""Ablations of S2VNet at toy scale: what its parts do, on a task made for them.

::

    python benchmarks/s2v_ablations.py                    # three seeds of every variant, minutes on one core
    python benchmarks/s2v_ablations.py --seeds 1 --steps 60

Volumes of 8 noisy slices with one disc each. Everybody can see where it is; whether it is of class 1 or 2, only slice 0
tells, or a click. A network trained on clips of 4 slices is asked six questions; every answer is the Dice of the worse
of both classes, over 32 volumes it has not seen:

* **cue**: slices 1 to 7, when slice 0 tells the class. What propagation is for.
* **after noise**: slices 4 to 7, when slice 3 is noise. What remembering several slices is for.
* **cue in the middle**: all slices, when slice 4 tells: by the forward chain (``nnunet-ext s2v predict --direction
  forward``) and by both.
* **click**: all slices, when nothing tells the class and slice 0 is clicked.
* **corrected**: the same, when a first click was of the wrong class and a second one, a round later, of the right one.

Centres alone propagate: place and the mask of the slice before are off. A variant differs in one option from the first
row. ``interactive`` is the share of clips in which somebody clicks; in its rows slice 0 tells the class in all clips,
to see whether clicks in training harm the automatic mode.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # the toy is that of the tests

from benchmarks.mechanisms.propagation import segmented
from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser
from nnunet_ext.s2vnet.network import S2VNet
from nnunet_ext.s2vnet.predictor import Direction, S2VPredictor
from tests.s2vnet.test_network import s2vnet
from tests.s2vnet.toy import CENTRES_ALONE, SIZE, Batch, clicks, dice, discs, fit

SLICES, CLIP, VOLUMES = 8, 4, 32
RULES = ClickRules(1.0, 0.0, 1)

MECHANISMS: dict[str, dict[str, object]] = {
    "S2VNet": {},
    "no propagation": {"propagates": False},
    "aggregation: last slice only": {"aggregation": "last"},
    "aggregation: mean": {"aggregation": "mean"},
    "click decay 1 (all clicks count alike)": {"click_decay": 1.0},
    "click decay 0.25": {"click_decay": 0.25},
}
SHARES = (0.0, 0.25, 0.5, 0.75)


def network(seed: int, propagates: bool = True, **options: object) -> S2VNet:
    return s2vnet(seed=seed, propagates=propagates, features=(8, 12, 16), options={**CENTRES_ALONE, **options})


def mechanism(seed: int, steps: int, **changes: object) -> S2VNet:
    """Trained on clips whose slice 0 tells the class, and on clips that only clicks tell about, in turns."""

    def batch(step: int) -> Batch:
        visible = step % 2 == 0
        images, labels = discs(8, CLIP, visible, 1000 * seed + step)
        return images, labels, None if visible else SimulatedUser(labels, 3, 0.9, 2, RULES)

    return fit(network(seed, **changes), steps, batch, [0.2, 1.0, 1.0])


def with_share(seed: int, steps: int, share: float) -> S2VNet:
    """Trained on clips whose slice 0 tells the class; in this share of them somebody clicks, too."""

    def batch(step: int) -> Batch:
        images, labels = discs(8, CLIP, True, 1000 * seed + step)
        return images, labels, SimulatedUser(labels, 3, share, 2, RULES) if share else None

    return fit(network(seed), steps, batch, [0.2, 1.0, 1.0])


def both_ways(trained: S2VNet, images: Tensor, direction: Direction) -> Tensor:
    cpu = torch.device("cpu")
    predictor = S2VPredictor(
        device=cpu, allow_tqdm=False, use_mirroring=False, perform_everything_on_device=False, direction=direction
    )
    predictor.network = trained
    predictor.configuration_manager = SimpleNamespace(patch_size=[SLICES, SIZE, SIZE], configuration={})
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
    return torch.stack([predictor.predict_sliding_window_return_logits(image).argmax(0) for image in images])


def answers(trained: S2VNet) -> dict[str, float]:
    """To all questions, for volumes that are the same for every network."""
    images, labels = discs(VOLUMES, SLICES, True, 1)
    noisy = images.clone()
    noisy[:, :, 3] = 1.5 * torch.randn(VOLUMES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    middle = torch.cat([images[:, :, 4:5], images[:, :, 1:4], images[:, :, :1], images[:, :, 5:]], 2)
    moved = torch.cat([labels[:, 4:5], labels[:, 1:4], labels[:, :1], labels[:, 5:]], 1)
    silent, unknown = discs(VOLUMES, SLICES, False, 2)
    right, wrong = clicks(unknown), clicks(unknown, wrong=True)
    found = {
        "cue": (segmented(trained, images)[:, 1:], labels[:, 1:]),
        "after noise": (segmented(trained, noisy)[:, 4:], labels[:, 4:]),
        "cue in the middle, forward": (both_ways(trained, middle, "forward"), moved),
        "cue in the middle, both": (both_ways(trained, middle, "both"), moved),
        "click": (segmented(trained, silent, right), unknown),
        "corrected": (segmented(trained, silent, wrong.joined(right)), unknown),
    }
    return {question: min(dice(predicted, truth)) for question, (predicted, truth) in found.items()}


def row(name: str, seeds: int, train: Callable[[int], S2VNet]) -> tuple[str, list[dict[str, float]]]:
    results = []
    for seed in range(seeds):
        print(f"{name}, seed {seed}", file=sys.stderr)
        results.append(answers(train(seed)))
    return name, results


def markdown(rows: Sequence[tuple[str, list[dict[str, float]]]]) -> str:
    """Median over the seeds, and from which to which."""
    questions = list(rows[0][1][0])
    lines = ["| | " + " | ".join(questions) + " |", "|---|" + "---:|" * len(questions)]
    for name, results in rows:
        cells = []
        for question in questions:
            values = [result[question] for result in results]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every variant (%(default)s)")
    parser.add_argument("--steps", type=int, default=240, help="of a training (%(default)s)")
    args = parser.parse_args(arguments)
    if min(args.seeds, args.steps) < 1:
        parser.error("--seeds and --steps must be at least 1.")
    torch.set_num_threads(1)
    print(f"{args.steps} steps, median of {args.seeds} seeds (smallest to largest)\n")
    first = [
        row(name, args.seeds, lambda seed, changes=changes: mechanism(seed, args.steps, **changes))
        for name, changes in MECHANISMS.items()
    ]
    print(markdown(first))
    second = [
        row(f"interactive {share:g}", args.seeds, lambda seed, share=share: with_share(seed, args.steps, share))
        for share in SHARES
    ]
    print(f"\n{markdown(second)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
