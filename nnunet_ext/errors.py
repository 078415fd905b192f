"""The one exception that a user's input causes, and how pydantic's refusals become its sentence."""

from __future__ import annotations

from pydantic import ValidationError


class InputError(ValueError):
    """Bad input. The message is one sentence: what was found and where, what was expected, how to fix it.

    The command line prints it without a traceback.
    """


def reasons(error: ValidationError, where: str = "") -> str:
    """Say what pydantic refused: ``pnpnet.dim = -64: input should be greater than 0``, several joined by ``and``.

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
        value = f" = {_at(detail)!r}" if name else ""
        found.setdefault(f"{place}{value}", []).append(text[:1].lower() + text[1:])
    return " and ".join(f"{place}: {' or '.join(dict.fromkeys(texts))}" for place, texts in found.items())


def _at(detail: object) -> object:
    return detail["input"]  # type: ignore[index]
