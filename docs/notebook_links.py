"""Hook of mkdocs: links from a notebook to pages. mkdocs rewrites those of Markdown files only."""

import logging
import posixpath
import re
from typing import Any

LINK = re.compile(r'(?<=href=")(?P<page>[^":#]+\.(?:md|ipynb))(?=[#"])')

log = logging.getLogger("mkdocs.hooks.notebook_links")
"""A warning of it fails a strict build."""


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Turn ``href="../choose.md"`` of a notebook into the address of that page; one that is not there is a warning."""
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return html

    def address(link: re.Match[str]) -> str:
        target = files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), link["page"])))
        if target is None:
            log.warning(f"{source} has a link to {link['page']}, which is no page.")
            return link["page"]
        return str(target.url_relative_to(page.file))

    return LINK.sub(address, html)
