"""Point prompts for an organ from pairs of landmarks at two ends of it.

On the line through a pair (a, b) lie ``a + t (b − a)``: foreground between the two, background beyond them, as in the
figure of BaBLoss (Gong et al., IEEE TMI 2025). How many points and where is not published; here at a third and two
thirds of the way, and at 15 and 30 % beyond each end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nnunet_ext.data.geometry import Floats, Geometry, inside
from nnunet_ext.landmarks.points import Landmarks, State, as_arrays

BETWEEN = (1 / 3, 2 / 3)
BEYOND = (-0.3, -0.15, 1.15, 1.3)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Points inside and outside of one organ.

    Attributes:
        foreground_mm, background_mm: ``(N, 3)``, LPS.
    """

    foreground_mm: Floats
    background_mm: Floats

    @classmethod
    def between(cls, pairs_mm: ArrayLike) -> Prompts:
        """The points of pairs ``(P, 2, 3)``, mm."""
        pairs = np.asarray(pairs_mm, float).reshape(-1, 2, 3)
        a, b = pairs[:, 0], pairs[:, 1]

        def at(ts: Sequence[float]) -> Floats:
            return np.stack([a + t * (b - a) for t in ts], 1).reshape(-1, 3)

        return cls(at(BETWEEN), at(BEYOND))

    def in_image(self, geometry: Geometry, shape: Sequence[int]) -> Prompts:
        """Without points outside of an image of shape ``(z, y, x)``."""

        def kept(points: Floats) -> Floats:
            return points[inside(geometry.to_index(points), shape)]

        return Prompts(kept(self.foreground_mm), kept(self.background_mm))

    def moved(self, mm: float, rng: np.random.Generator) -> Prompts:
        """Every point moved by this distance in a random direction."""

        def step(points: Floats) -> Floats:
            directions = rng.normal(size=points.shape)
            return points + mm * directions / np.linalg.norm(directions, axis=1, keepdims=True)

        return Prompts(step(self.foreground_mm), step(self.background_mm))


def prompts_of(
    landmarks: Landmarks, pairs: Sequence[tuple[str, str]], geometry: Geometry, shape: Sequence[int]
) -> Prompts | None:
    """The prompts for one organ of one case, or None if no pair gives a foreground point in the image.

    Args:
        landmarks: of the case.
        pairs: that span the organ; a pair counts if both of its landmarks are present.
        geometry: of the image.
        shape: of the image, ``(z, y, x)``.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    points, states = as_arrays(landmarks, names)
    place: Mapping[str, int] = {name: k for k, name in enumerate(names) if states[k] == State.PRESENT}
    found = [(points[place[a]], points[place[b]]) for a, b in pairs if a in place and b in place]
    prompts = Prompts.between(np.reshape(found, (-1, 2, 3))).in_image(geometry, shape)
    return prompts if len(prompts.foreground_mm) else None
