"""Effects of the clicks of a simulated user: are they obeyed, and do they fix more than they break?

A click is *obeyed* if the clicked voxel has the click's label afterwards, and *harmful* if it breaks more voxels than
it fixes. Dice after ten clicks shows neither: it can rise while every third click does harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Click(NamedTuple):
    """Click of a simulated user: a voxel ``(z, y, x)``, the value of its label, and the size of the wrong region."""

    voxel: tuple[int, int, int]
    label: int
    region: int


class Effect(NamedTuple):
    """Effect of a click, judged by the reference; ignored voxels do not count.

    Attributes:
        obeyed: whether the clicked voxel has the label of the click.
        kept: number of earlier clicks that are still obeyed, without those that a later click at their voxel replaces.
        earlier: number of all these earlier clicks.
        fixed: number of voxels that were wrong and are right now.
        broken: number of voxels that were right and are wrong now.
        slices: number of slices that changed.
    """

    obeyed: bool
    kept: int
    earlier: int
    fixed: int
    broken: int
    slices: int

    @property
    def harmful(self) -> bool:
        """Whether the click broke more voxels than it fixed."""
        return self.broken > self.fixed


def effect_of(
    before: NDArray,
    after: NDArray,
    reference: NDArray,
    clicks: Sequence[Click],
    slice_axis: int = 0,
    ignore: int | None = None,
) -> Effect:
    """Return the effect of the last click.

    Args:
        before: label map before the click, ``(z, y, x)``.
        after: label map after the click.
        reference: label map of the reference.
        clicks: all clicks so far, the last one at the end.
        slice_axis: axis across the slices.
        ignore: ignore label of the reference.
    """
    *earlier, last = clicks
    others = {click.voxel: click.label for click in earlier}
    others.pop(last.voxel, None)
    counts = np.ones(reference.shape, bool) if ignore is None else reference != ignore
    was, is_now = before == reference, after == reference
    elsewhere = tuple(axis for axis in range(3) if axis != slice_axis)
    return Effect(
        obeyed=bool(after[last.voxel] == last.label),
        kept=sum(bool(after[voxel] == value) for voxel, value in others.items()),
        earlier=len(others),
        fixed=int(np.count_nonzero(~was & is_now & counts)),
        broken=int(np.count_nonzero(was & ~is_now & counts)),
        slices=int((before != after).any(elsewhere).sum()),
    )


def effects_of(effects: Sequence[Effect]) -> dict[str, Any]:
    """Return statistics of the effects of all clicks; percentages are None if there is nothing to count."""
    number, earlier = len(effects), sum(effect.earlier for effect in effects)

    def percent(part: int, whole: int) -> float | None:
        return round(100 * part / whole, 2) if whole else None

    slices = [effect.slices for effect in effects]
    return {
        "clicks": number,
        "obeyed_percent": percent(sum(effect.obeyed for effect in effects), number),
        "earlier_still_obeyed_percent": percent(sum(effect.kept for effect in effects), earlier),
        "harmful_percent": percent(sum(effect.harmful for effect in effects), number),
        "fixed": sum(effect.fixed for effect in effects),
        "broken": sum(effect.broken for effect in effects),
        "slices": {"mean": round(float(np.mean(slices)), 2) if slices else None, "max": max(slices, default=None)},
    }
