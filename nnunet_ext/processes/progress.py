"""How far nnU-Net's commands are, read from what they print."""

from __future__ import annotations

import re

from nnunet_ext.processes.children import Progress

COUNT = re.compile(r"(\d+)/(\d+) \[")
"""``3/12 [`` of a tqdm bar."""


def none() -> Progress:
    """For a command that takes no time."""
    return lambda line: (None, None)


def preprocessing() -> Progress:
    """``nnUNetv2_plan_and_preprocess``: one bar for the fingerprint, one for the cases of each configuration."""

    def read(line: str) -> tuple[float | None, str | None]:
        count = COUNT.search(line)
        if count is None:
            return None, "planning" if line.startswith("Experiment planning") else None
        done = int(count[1]) / int(count[2])
        return (done / 2, "fingerprint") if "fingerprint" in line else (0.5 + done / 2, "cases")

    return read


def training(epochs: int) -> Progress:
    """``nnUNetv2_train``: epochs; then the final validation, during which the bar is full."""
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
        return None, None

    return read


def prediction(cases: int) -> Progress:
    """``nnUNetv2_predict -npp 0 -nps 0``: cases, and within each the bar over its patches."""
    started = 0

    def read(line: str) -> tuple[float | None, str | None]:
        nonlocal started
        if line.startswith("perform_everything_on_device"):
            started += 1
            return (started - 1) / cases, f"case {started}/{cases}"
        if started and (count := COUNT.search(line)):
            return (started - 1 + int(count[1]) / int(count[2])) / cases, None
        return None, None

    return read
