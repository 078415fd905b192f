"""Texts that are shown in Markdown as they are, whatever they hold."""

from __future__ import annotations

import re

# "_" between letters or digits, as in names of trainers, means nothing in Markdown
_MEANING = re.compile(r"[\\`*\[\]<>|&]|(?<![^\W_])_|_(?![^\W_])")


def escaped(text: object) -> str:
    """One line of running text, or a cell of a table."""
    return _MEANING.sub(lambda found: "\\" + found[0], " ".join(str(text).split()))


def code(text: object) -> str:
    """A span of code on one line, with as many backticks around it as it needs."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{space}{line}{space}{fence}"
