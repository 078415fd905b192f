"""The labels or regions of a data set that are scored, by name, and the label to ignore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_ext.errors import InputError

Label = int | tuple[int, ...]
"""One label, or the labels that form a region."""

ANNOTATED = "annotated_labels"
"""Entry of ``dataset.json``: by case, the labels that were annotated in it; a case without an entry has all."""

FORMAT = "nnU-Net's format is {'background': 0, 'liver': 1, …}"


@dataclass(frozen=True)
class ScoredLabels:
    """Labels or regions by name.

    Attributes:
        values: the labels and regions to score, without the background.
        ignore: the label whose voxels do not count, if there is one.
        known: every value that a label map may hold; None allows any, because the user named only some labels.
    """

    values: Mapping[str, Label]
    ignore: int | None = None
    known: frozenset[int] | None = None

    @classmethod
    def from_dataset_json(cls, content: Mapping[str, Any], where: str = "dataset.json") -> ScoredLabels:
        """Read the labels that ``dataset.json`` declares.

        Args:
            content: content of ``dataset.json``.
            where: name of the file in messages.

        Raises:
            InputError: there are no foreground labels, or values that nnU-Net does not accept.
        """
        declared = declared_labels(content, where)
        ignore = declared.pop("ignore", None)
        values = {name: value for name, value in declared.items() if value not in (0, (0,))}
        if not values:
            raise InputError(f"{where} names no label but the background; there is nothing to score.")
        known = {0, *(number for value in values.values() for number in numbers_of(value))}
        assert not isinstance(ignore, tuple)
        return cls(values, ignore, frozenset(known if ignore is None else known | {ignore}))

    @classmethod
    def from_words(cls, words: Sequence[str]) -> ScoredLabels:
        """Read the words of a command line: ``left=1``, a region ``whole=1,2``, ``ignore=3``, or only ``1``.

        Raises:
            InputError: a word cannot be read, a name is there twice, or several labels are ignored.
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
            if name == "mean":
                raise InputError(f"--labels {word!r}: 'mean' is the row of the mean; choose another name.")
            if name in values or (name == "ignore" and ignore is not None):
                raise InputError(f"--labels names {name!r} twice; write a region as {name}=1,2, or another name.")
            if name != "ignore":
                values[name] = numbers[0] if len(numbers) == 1 else numbers
            elif len(numbers) == 1:
                ignore = numbers[0]
            else:
                raise InputError(f"--labels {word!r} ignores {len(numbers)} labels, but it can be only one: ignore=3.")
        if not values:
            raise InputError("--labels names nothing to score; write for example --labels left=1 right=2.")
        return cls(values, ignore)

    @staticmethod
    def key(value: Label) -> str:
        """The key of a label or region in nnU-Net's ``summary.json``."""
        return str(value)


def declared_labels(content: Mapping[str, Any], where: str = "dataset.json") -> dict[str, Label]:
    """The labels of ``dataset.json`` as nnU-Net's ``LabelManager`` reads them, in their order, with ``ignore``.

    Strings (``"1"``) and whole floats (``1.0``) count as numbers. Strings are refused in data sets with regions: there
    nnU-Net would compare label maps with the string itself and find nothing.

    Args:
        content: content of ``dataset.json``.
        where: name of the file in messages.

    Raises:
        InputError: there are no labels, or values that nnU-Net refuses, truncates, or never finds.
    """
    labels = content.get("labels")
    if not isinstance(labels, Mapping):
        raise InputError(f"{where} has no labels; {FORMAT}.")
    if labels and all(str(name).isdigit() and isinstance(value, str) for name, value in labels.items()):
        raise InputError(f"{where}: its labels are {dict(labels)}, as in version 1 of nnU-Net; {FORMAT}.")
    if "background" not in labels:
        raise InputError(f"{where}: its labels {list(labels)} lack 'background', which nnU-Net requires; {FORMAT}.")
    regions = any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values())
    found: dict[str, Label] = {}
    for name, value in labels.items():
        if name == "ignore":
            if value is not None and not isinstance(value, int):
                raise InputError(f"{where}: the ignore label is {value!r}, but it must be one whole number.")
            if value is not None:
                found[name] = int(value)
        elif isinstance(value, list | tuple) and value:
            numbers = tuple(_number(part, name, where, text=not regions) for part in value)
            found[name] = numbers if regions else numbers[0]  # nnU-Net: a list of one is no region
        else:
            found[name] = _number(value, name, where, text=not regions)
    if found["background"] != 0 or isinstance(labels["background"], list | tuple):
        raise InputError(f"{where}: the background is {labels['background']!r}, but nnU-Net requires 0.")
    return found


def _number(value: Any, name: str, where: str, *, text: bool) -> int:
    """The label as an int. ``text``: whether strings such as ``"1"`` count as numbers."""
    try:
        if (isinstance(value, str) and text) or isinstance(value, int):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
    except ValueError:
        pass
    raise InputError(f"{where}: the label {name!r} is {value!r}, but a whole number is expected; {FORMAT}.")


def numbers_of(value: int | Sequence[int]) -> list[int]:
    """The labels of a class or region, as a list; a class has one."""
    return [value] if isinstance(value, int | np.integer) else list(value)
