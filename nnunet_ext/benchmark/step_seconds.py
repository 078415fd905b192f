"""Measures the time of a training step, including its batch, as a mean over the schedule.

Some terms of a loss begin late, so steps are timed in the middle of each fifth of the epochs.

``python -m nnunet_ext.benchmark.step_seconds DATASET CONFIGURATION FOLD TRAINER PLANS DEVICE FILE``
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

from nnunet_ext.benchmark.seeded import threads_asked
from nnunet_ext.files import write_json

WARM_UP, TIMED, PARTS = 3, 5, 5
"""Untimed and timed steps in each part of the schedule, and the number of parts."""


def main(argv: list[str]) -> None:
    """Measure, and write ``{"seconds": …}``: the mean over the parts of their median times."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    dataset, configuration, fold, name, plans, device, file = argv
    trainer = get_trainer_from_args(dataset, configuration, int(fold), name, plans, device=torch.device(device))
    if device == "cpu":
        torch.set_num_threads(threads_asked() or multiprocessing.cpu_count())  # as the trainings of the benchmark do
    trainer.initialize()
    trainer.on_train_start()
    parts = []
    for part in range(PARTS):
        trainer.current_epoch = int(trainer.num_epochs * (part + 0.5) / PARTS)
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        seconds = []
        for _ in range(WARM_UP + TIMED):
            begin = time.perf_counter()
            trainer.train_step(next(trainer.dataloader_train))
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        parts.append(seconds)
    medians = [statistics.median(seconds[WARM_UP:]) for seconds in parts]
    write_json(Path(file), {"seconds": statistics.fmean(medians), "of": parts})


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # a normal exit would wait for the augmentation workers
