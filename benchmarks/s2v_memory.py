"""Is what S2VNet hands on from slice to slice worth anything, and is it about this patient?

::

    python benchmarks/s2v_memory.py MODEL_FOLDER --fold 0 --images imagesTr --labels labelsTr --file memory.csv

Every validation case of the fold is segmented three times by the same weights: with its own memory, with none, and with
that of the next case (:mod:`nnunet_ext.s2vnet.memory_test`). Images are preprocessed by nnU-Net as the plans of the
model say, and cut to one patch around their middle, so plans whose patch holds a whole slice lose nothing. The forward
direction alone, without mirroring. Printed: mean Dice, and how many cases each memory loses against their own.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch.nn.functional import pad

from nnunet_ext.data.folders import visible_files
from nnunet_ext.discovery import register
from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.models import validation_cases
from nnunet_ext.s2vnet.memory_test import Volume, memory_test
from nnunet_ext.s2vnet.predictor import S2VPredictor


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model of nnUNetTrainerS2VNet")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their label maps")
    parser.add_argument("--file", type=Path, help="CSV with every case")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        rows = measured(arguments.model, arguments.fold, arguments.images, arguments.labels)
    except InputError as error:
        parser.exit(1, f"{error}\n")
    if arguments.file:
        with arguments.file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("case", "own", "none", "other"))
            writer.writerows((name, *(f"{value:.6f}" for value in scores)) for name, *scores in rows)
    names, own, none, other = zip(*rows, strict=True)
    print(f"{len(names)} cases; Dice with their own memory {mean(own):.3f}")
    for what, found in (("no memory", none), ("the memory of the next case", other)):
        worse = sum(b < a for a, b in zip(own, found, strict=True))
        print(f"with {what} {mean(found):.3f}, worse in {worse} cases")
    return 0


def measured(model: Path, fold: int, images: Path, labels: Path) -> list[tuple[str, float, float, float]]:
    """Name and Dice with own, no, and another memory of each validation case.

    Raises:
        InputError: the model is of another trainer, or has no validation cases.
    """
    register()
    predictor = S2VPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), [fold])
    names = validation_cases(model, fold)
    result = memory_test(predictor.network, [preprocessed(predictor, name, images, labels) for name in names])
    return list(zip(names, *result, strict=True))


def preprocessed(predictor: S2VPredictor, name: str, images: Path, labels: Path) -> Volume:
    """A case as nnU-Net preprocesses it, cut or padded to the patch around its middle."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    ending = predictor.dataset_json["file_ending"]
    files = [str(file) for file in visible_files(images, ending) if file.name.rpartition("_")[0] == name]
    preprocessor = configuration.preprocessor_class(verbose=False)
    image, target, properties = preprocessor.run_case(
        files, str(labels / f"{name}{ending}"), plans, configuration, predictor.dataset_json
    )
    size = configuration.patch_size[-2:]
    gap = float(properties["spacing"][plans.transpose_forward[0]])
    known = torch.from_numpy(np.asarray(target[0])).long()
    if predictor.label_manager.has_ignore_label:
        known[known == predictor.label_manager.ignore_label] = -1
    return Volume(cut(torch.from_numpy(np.asarray(image)).float(), size, 0.0), cut(known, size, -1), gap)


def cut(array: torch.Tensor, size: Sequence[int], fill: float) -> torch.Tensor:
    """The last two axes cut, or padded with ``fill``, around their middle to ``size``."""
    before = [(wanted - there) // 2 for wanted, there in zip(size, array.shape[-2:], strict=True)]
    after = [wanted - there - first for wanted, there, first in zip(size, array.shape[-2:], before, strict=True)]
    return pad(array, (before[1], after[1], before[0], after[0]), value=fill)


if __name__ == "__main__":
    sys.exit(main())
