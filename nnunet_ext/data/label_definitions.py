"""What is scored: the labels or regions of a data set, by name, and the label to leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_ext.errors import InputError

Label = int | tuple[int, ...]
"""A label, or the labels that form a region."""


@dataclass(frozen=True)
class ScoredLabels:
    """Labels or regions by name.

    Attributes:
        values: what is scored, without the background.
        ignore: the label whose voxels do not count, if there is one.
        known: every value that a label map may hold; None: any, because only some were asked for.
    """

    values: Mapping[str, Label]
    ignore: int | None = None
    known: frozenset[int] | None = None

    @classmethod
    def from_dataset_json(cls, content: Mapping[str, Any], where: str = "dataset.json") -> ScoredLabels:
        """Args:
        content: of ``dataset.json``.
        where: its name, for messages.

        Raises:
            InputError: it has no foreground labels.
        """
        labels = content.get("labels")
        if not isinstance(labels, Mapping):
            raise InputError(f"{where} has no labels; nnU-Net's format is {{'background': 0, 'liver': 1, …}}.")
        ignore = labels.get("ignore")
        values: dict[str, Label] = {
            name: value if isinstance(value, int) else tuple(value)
            for name, value in labels.items()
            if name != "ignore" and value not in (0, [0])
        }
        if not values:
            raise InputError(f"{where} names no label but the background; there is nothing to score.")
        known = {0, *(number for value in values.values() for number in _numbers(value))}
        return cls(values, ignore, frozenset(known if ignore is None else known | {ignore}))

    @classmethod
    def from_words(cls, words: Sequence[str]) -> ScoredLabels:
        """From the command line: ``left=1``, a region ``whole=1,2``, ``ignore=3``, or only ``1``.

        Raises:
            InputError: a word that cannot be read.
        """
        values: dict[str, Label] = {}
        ignore = None
        for word in words:
            name, equals, text = word.partition("=")
            try:
                numbers = tuple(int(part) for part in (text if equals else name).split(","))
            except ValueError:
                raise InputError(
                    f"--labels {word!r} cannot be read; write name=number or name=number,number, such as "
                    "left=1 whole=1,2 ignore=3."
                ) from None
            if name == "ignore" and len(numbers) == 1:
                ignore = numbers[0]
            else:
                values[name] = numbers[0] if len(numbers) == 1 else numbers
        if not values:
            raise InputError("--labels names nothing to score; write for example --labels left=1 right=2.")
        return cls(values, ignore)

    @staticmethod
    def key(value: Label) -> str:
        """The key of a label or region in nnU-Net's ``summary.json``."""
        return str(value)


def _numbers(value: Label) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
