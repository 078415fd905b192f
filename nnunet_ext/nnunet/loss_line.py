"""The line of the log that says what the loss of an epoch is made of."""

from __future__ import annotations

from collections.abc import Mapping


def loss_line(terms: Mapping[str, float], weights: Mapping[str, float], statistics: Mapping[str, float]) -> str:
    """Return ``train loss 7.94 = 1.53 segmentation + 10 × 0.64 heatmap; gate 0.8``.

    Args:
        terms: mean of every loss term.
        weights: of the terms; the weighted terms add up to the loss.
        statistics: means that are no part of the loss.
    """
    total = sum(weights[name] * value for name, value in terms.items())
    parts = [
        f"{value:.4f} {name}" if weights[name] == 1 else f"{weights[name]:.4g} × {value:.4f} {name}"
        for name, value in terms.items()
    ]
    beside = [f"{name} {value:.4g}" for name, value in statistics.items()]
    return "; ".join([f"train loss {total:.4f} = {' + '.join(parts)}", *([", ".join(beside)] if beside else [])])
