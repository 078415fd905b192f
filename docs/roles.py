"""Hook of mkdocs: docstrings are written for readers of the code and name things as Sphinx does, ``:class:`X```."""

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Leave the name, without its role and, after ``~``, without its module."""
    html = re.sub(r":(?:meth|class|attr|data|func|mod):\s*<code>", "<code>", html)
    return re.sub(r"<code>~(?:\w+\.)*(\w+)</code>", r"<code>\1</code>", html)
