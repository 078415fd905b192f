"""Escapes texts so that Markdown shows them as they are."""

from __future__ import annotations

import re

# "_" between letters or digits, as in names of trainers, has no meaning in Markdown
_MEANING = re.compile(r"[\\`*\[\]<>|&]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: object) -> str:
    """The text on one line, for running text or a cell of a table."""
    return _MEANING.sub(lambda found: "\\" + found[0], " ".join(str(text).split()))


def code(text: object) -> str:
    """The text as a span of code on one line, within as many backticks as it needs."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{space}{line}{space}{fence}"
