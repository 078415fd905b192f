"""Progress of nnU-Net's commands, read from their output."""

from __future__ import annotations

import re

from nnunet_ext.processes.children import Progress

COUNT = re.compile(r"(\d+)/(\d+) \[")
"""The part ``3/12 [`` of a tqdm bar."""


def preprocessing() -> Progress:
    """Progress of ``nnUNetv2_plan_and_preprocess``: half for the fingerprint, half for the cases."""

    def read(line: str) -> tuple[float | None, str | None]:
        count = COUNT.search(line)
        if count is None:
            return None, "planning" if line.startswith("Experiment planning") else None
        done = int(count[1]) / int(count[2])
        return (done / 2, "fingerprint") if "fingerprint" in line else (0.5 + done / 2, "cases")

    return read


def training(epochs: int) -> Progress:
    """Progress of ``nnUNetv2_train`` in epochs; the bar is full during validation and prediction."""
    dice = ""

    def read(line: str) -> tuple[float | None, str | None]:
        nonlocal dice
        if match := re.search(r": Epoch (\d+)\s*$", line):
            return int(match[1]) / epochs, f"epoch {int(match[1]) + 1}/{epochs}{dice}"
        if "Pseudo dice" in line:
            values = re.findall(r"\d\.\d+|(?<=\()nan", line.partition("Pseudo dice")[2])
            dice = ", pseudo Dice " + " ".join(f"{float(value):.2f}" for value in values)
        elif line.endswith("Training done."):
            return 1.0, "validation"
        elif match := re.search(r": predicting (\S+)", line):
            return 1.0, f"validation {match[1]}"
        elif line.startswith("$ nnUNetv2_predict"):
            return 1.0, "held-out cases"
        return None, None

    return read
