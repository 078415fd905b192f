"""Links of a notebook lead to pages of the site, too."""

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

FILE = Path(__file__).parents[1] / "docs" / "notebook_links.py"


@pytest.fixture
def hook():
    specification = importlib.util.spec_from_file_location("notebook_links", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def files():
    """As mkdocs has them: one page, which every other page reaches by the same address."""
    pages = {"choose.md": SimpleNamespace(url_relative_to=lambda _: "../../choose/")}
    return SimpleNamespace(get_file_from_path=pages.get)


def page(source):
    return SimpleNamespace(file=SimpleNamespace(src_uri=source))


def test_a_link_to_a_page_becomes_its_address(hook, files):
    html = '<a href="../choose.md">a</a> <a href="../choose.md#none">b</a> <a href="https://x.org/a.md">c</a>'
    expected = '<a href="../../choose/">a</a> <a href="../../choose/#none">b</a> <a href="https://x.org/a.md">c</a>'
    assert hook.on_page_content(html, page=page("tutorials/a.ipynb"), files=files, config=None) == expected


def test_pages_that_are_no_notebooks_stay_as_they_are(hook, files):
    html = '<a href="../choose.md">a</a>'
    assert hook.on_page_content(html, page=page("results/a.md"), files=files, config=None) == html


def test_a_link_to_nothing_is_a_warning(hook, files, caplog):
    html = '<a href="../chose.md">a</a>'
    with caplog.at_level(logging.WARNING):
        assert hook.on_page_content(html, page=page("tutorials/a.ipynb"), files=files, config=None) == html
    assert "tutorials/a.ipynb has a link to ../chose.md" in caplog.text
