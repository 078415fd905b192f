"""Trains the model of the demo into nnunet_ext/viewer/demo_model: python viewer/train_demo.py, about three minutes.

Needs the test extra. Half of the steps are automatic, and the lesion is a cyst; in the others a simulated user clicks,
and it is a cyst or a tumour. So without a click the model says cyst, and with one what the click says.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from nnunet_ext.s2vnet.click_simulation import ClickRules, SimulatedUser  # noqa: E402
from nnunet_ext.s2vnet.options import S2VNetOptions  # noqa: E402
from nnunet_ext.s2vnet.trainer import nnUNetTrainerS2VNet  # noqa: E402
from nnunet_ext.viewer.demo import LABELS, MODEL, SIZE, SPACING_MM, phantom  # noqa: E402
from tests import tiny  # noqa: E402
from tests.s2vnet.toy import Batch, fit  # noqa: E402

STEPS, CLIP = 480, 4
FEATURES = (8, 16, 32)
OPTIONS = {"width": 24, "heads": 2, "embedding": 12, "layers": 1, "clip": CLIP, "inference_clip": 64}


def written_plans() -> dict:
    """Plans of the phantoms: their spacing, a patch of a whole slice, and our options."""
    settings = tiny.configuration(2, [CLIP, SIZE, SIZE], features=FEATURES)
    settings.update(spacing=list(SPACING_MM[1:]), median_image_size_in_voxels=[float(SIZE)] * 2)
    settings["nnunet_ext"] = {"s2vnet": OPTIONS, "slices": {"gap": SPACING_MM[0]}}
    plans = tiny.plans(**{"2d": settings})
    return {**plans, "dataset_name": "Dataset999_Phantom", "original_median_spacing_after_transp": list(SPACING_MM)}


def batch_of(rng: np.random.Generator, step: int) -> Batch:
    """Two clips of phantoms of 10 to 14 slices."""
    clicks = step % 2 == 0
    pairs = []
    for _ in range(2):
        slices = int(rng.integers(10, 15))
        image, labels = phantom(rng, slices, int(rng.choice([2, 3])) if clicks else LABELS["cyst"])
        image = (image - image.mean()) / image.std()  # of the volume, as nnU-Net normalises
        start = int(rng.integers(0, slices - CLIP + 1))
        pairs.append((image[start : start + CLIP], labels[start : start + CLIP]))
    images, labels = (torch.tensor(np.stack(part)) for part in zip(*pairs, strict=True))
    user = SimulatedUser(labels.long(), len(LABELS), 0.9, 3, ClickRules(0.5, 0.05, 1)) if clicks else None
    return images[:, None], labels, user


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plans, rng = written_plans(), np.random.default_rng(0)
    settings = plans["configurations"]["2d"]
    planned = tiny.network(2, heads=len(LABELS), features=FEATURES)
    network = nnUNetTrainerS2VNet.attach(planned, settings, SimpleNamespace(s2vnet=S2VNetOptions(**OPTIONS)))
    begin = time.process_time()

    def batch(step: int) -> Batch:
        if step % 20 == 0:
            print(f"step {step} of {STEPS}, {time.process_time() - begin:.0f} s", flush=True)
        return batch_of(rng, step)

    fit(network, STEPS, batch, [0.3, 0.6, 1.5, 1.5, 1.0])
    (MODEL / "fold_0").mkdir(parents=True, exist_ok=True)
    description = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": 0, "file_ending": ".nii.gz"}
    for name, content in {"dataset": description, "plans": plans}.items():
        (MODEL / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainerS2VNet",
        "init_args": {"configuration": "2d"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, MODEL / "fold_0" / "checkpoint_final.pth")


if __name__ == "__main__":
    main()
