"""The one exception that a user's input causes, and how a method refuses options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """Bad input. The message is one sentence: what was found and where, what was expected, how to fix it.

    The command line prints it without a traceback.
    """


def refuse_out_of_range(method: str, options: Any, wrong: Sequence[str], rules: str) -> None:
    """Raise InputError if any options are out of range.

    Args:
        method: of the options, as in plans.
        options: a dataclass.
        wrong: names of those that are.
        rules: what they may be, the end of the sentence.
    """
    if wrong:
        found = ", ".join(f"{name} = {getattr(options, name)}" for name in wrong)
        raise InputError(f"{method} options out of range: {found}; {rules}.")
