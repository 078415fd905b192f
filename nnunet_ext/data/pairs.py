"""References and predictions that are compared case by case, and the file that describes them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nnunet_ext.errors import InputError
from nnunet_ext.findings import some


def matched(
    references: Collection[str], predictions: Collection[str], reference: object, prediction: object, common: bool
) -> tuple[list[str], tuple[str, ...]]:
    """The cases to score, and the cases left out.

    Args:
        references: names of the cases with a reference.
        predictions: names of the cases with a prediction.
        reference: where the references are, for messages.
        prediction: where the predictions are, for messages.
        common: leave out what only one of them has, instead of refusing it.

    Raises:
        InputError: a case has no prediction or no reference, or nothing is left.
    """
    missing, extra = sorted(set(references) - set(predictions)), sorted(set(predictions) - set(references))
    for names, what, where in ((missing, "prediction", prediction), (extra, "reference", reference)):
        if names and not common:
            raise InputError(
                f"{where} has no {what} for {some(names)}; add what is missing, or score what is in both with --common."
            )
    both = sorted(set(references) & set(predictions))
    if not both:
        raise InputError(f"{reference} and {prediction} have no case in common; are the cases called alike?")
    return both, tuple(missing + extra)


def beside(given: str | Path | None, name: str, *folders: Path) -> Path | None:
    """The given file; otherwise the first file called ``name`` in one of ``folders`` or up to two folders above.

    Raises:
        InputError: the given file does not exist.
    """
    if given is not None:
        if not Path(given).is_file():
            raise InputError(f"There is no file {given}.")
        return Path(given)
    places = [place for folder in folders for place in (folder, *folder.resolve().parents[:2])]
    return next((place / name for place in places if (place / name).is_file()), None)
