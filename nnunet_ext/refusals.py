"""Turns pydantic's errors into one sentence: where, what was found, what is expected."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from inspect import isclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "string_type": "text",
    "too_short": "a list with at least {min_length} entry",
    "tuple_type": "a list",
}
"""Words that follow "is not", by pydantic's type of error."""


def sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Return the first complaint of ``error`` as one sentence.

    Args:
        error: raised while ``model`` was validated.
        model: its fields are named where an unknown one was given.
        where: the file or argument that holds the value.
    """
    first = error.errors(include_url=False)[0]
    *outer, last = first["loc"] or ("",)
    place, found, kind = _place(where, first["loc"]), shown(first["input"]), first["type"]
    if kind == "value_error":
        return f"{place}: {first['ctx']['error']}."
    if kind == "missing":
        return f"{_place(where, outer)} has no {last}, which is required."
    if kind == "extra_forbidden":
        known = sorted(field.alias or name for name, field in _model_at(model, outer).model_fields.items())
        return f"{_place(where, outer)}: unknown key {last!r}{meant(last, known)}; known are {', '.join(known)}."
    if kind in EXPECTED:
        return f"{place}: {found} is not {EXPECTED[kind].format(**first.get('ctx', {}))}."
    return f"{place}: {found} is refused: {first['msg'][:1].lower()}{first['msg'][1:]}."


def reasons(error: ValidationError, where: str = "") -> str:
    """Return what pydantic refused: ``pnpnet.dim = -64: input should be greater than 0``, several joined by ``and``.

    Args:
        error: of pydantic.
        where: prefix of the names, such as a section of the plans.
    """
    found: dict[str, list[str]] = {}
    for detail in error.errors():
        # of a union pydantic names the alternatives behind the field: the user wrote the field
        name = str(detail["loc"][0]) if detail["loc"] else ""
        place = ".".join(part for part in (where, name) if part)
        text = detail["msg"].removeprefix("Value error, ")
        value = f" = {detail['input']!r}" if name else ""
        found.setdefault(f"{place}{value}", []).append(text[:1].lower() + text[1:])
    return " and ".join(f"{place}: {' or '.join(dict.fromkeys(texts))}" for place, texts in found.items())


def meant(word: Any, known: Collection[str]) -> str:
    """`` (did you mean 'folds'?)``, or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: Any) -> str:
    """``value`` for a sentence, at most 60 letters long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _place(where: str, location: Collection[int | str]) -> str:
    return ", ".join([where, *(f"entry {part + 1}" if isinstance(part, int) else part for part in location)])


def _model_at(model: type[BaseModel], location: Collection[int | str]) -> type[BaseModel]:
    """The model of the fields at ``location``; numbers in it are places in lists, and mappings have keys."""
    names = (part for part in location if isinstance(part, str))
    for part in names:
        field = next(f for name, f in model.model_fields.items() if part in (name, f.alias))
        model = next(_models(field.annotation))
        if isclass(kind := get_origin(field.annotation)) and issubclass(kind, Mapping):
            next(names, None)  # the key of an entry
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    if isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
