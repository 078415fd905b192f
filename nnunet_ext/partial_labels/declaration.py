"""Declaration in ``dataset.json`` of cases in which only some labels were annotated.

::

    "labels": {"background": 0, "liver": 1, "kidney": 2},
    "annotated_labels": {"case_007": ["liver"], "case_008": []}

In ``case_007`` nobody looked for kidneys, so its background may contain some. The names are labels, or regions if the
data set has regions. nnU-Net ignores keys that it does not know, and copies ``dataset.json`` into the model folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.nnunet.annotated import KEY
from nnunet_ext.refusals import meant

EXAMPLE = f'"{KEY}": {{"case_007": ["liver"]}}'
OURS = (KEY, "landmarks")
"""Our keys of ``dataset.json``."""

IN_LANDMARKS = ("names", "surface_of", "mirror_pairs", "spans")
"""Keys of the entry ``landmarks``; two of them are words of this package only."""

_NO_ORGAN = {"background", "ignore"}


def annotated_labels(content: Mapping[str, Any], where: str = "dataset.json") -> dict[str, frozenset[str]]:
    """Return, by case, the labels that were annotated in it; elsewhere they are part of the background.

    A case without an entry is annotated as its label map says: all labels, except where it has the ignore label.

    Args:
        content: content of ``dataset.json``.
        where: its name, for messages.

    Raises:
        InputError: the entry is no object of lists, or names labels that are not declared.
    """
    block = content.get(KEY, {})
    if not isinstance(block, Mapping):
        raise InputError(f"{where}: {KEY!r} is {block!r}, but it must be an object such as {EXAMPLE}.")
    labels = organs(content)
    return {case: frozenset(known_names(names, labels, f"{where}: {KEY} of {case}")) for case, names in block.items()}


def keys_like_ours(content: Mapping[str, Any]) -> str:
    """Name the keys of ``dataset.json`` that look like one of ours but are not; empty if there are none.

    nnU-Net ignores unknown keys, so a misspelt one would have no effect.
    """
    inside = IN_LANDMARKS[1:3]
    found = []
    for key in content:
        if key in inside:
            found.append(f"{key!r} (it belongs into 'landmarks')")
        elif key not in OURS and (hint := meant(key, (*OURS, *inside))):
            found.append(f"{key!r}{hint}")
    return f"nobody reads {', '.join(found)}" if found else ""


def organs(content: Mapping[str, Any]) -> list[str]:
    """Names of the labels or regions that ``dataset.json`` declares, without background and ignore, in its order."""
    labels = content.get("labels")
    return [name for name in labels if name not in _NO_ORGAN] if isinstance(labels, Mapping) else []


def known_names(found: Any, known: Sequence[str], where: str) -> tuple[str, ...]:
    """A list of names that are all ``known``, each once; one name alone is a list of one.

    Raises:
        InputError: something else, or a name that is not known.
    """
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise InputError(f"{where} is {found!r}, but it must be a list of names, of {list(known)}.")
    if unknown := sorted(set(found) - set(known)):
        raise InputError(f"{where} names {unknown}, but dataset.json declares {list(known)}; correct the spelling.")
    return tuple(dict.fromkeys(found))
