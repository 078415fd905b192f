"""Docstrings: they say first what the thing is or does, and their sections name what is there."""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("nnunet_ext", "trainers", "benchmarks", "tests")
OPENINGS = re.compile(r"(Of|What)\b|(Args|Attributes|Note|Raises|Returns|Yields):")


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of a file, those below a constant or an attribute included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            for before, statement in zip([None, *body], body, strict=False):
                documented = (ast.Assign, ast.AnnAssign) if before else (ast.Module, ast.ClassDef, ast.FunctionDef)
                if (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                    and isinstance(before or node, documented)
                ):
                    yield statement.lineno, statement.value.value.strip()


def test_no_docstring_opens_with_a_section_or_a_clause():
    """Not "Of …", not "What …", not ``Args:``: instead "Weight of …", "Return …", and a summary above its sections."""
    found = [
        (file, *entry) for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")) for entry in docstrings(file)
    ]
    assert len(found) > 1500
    refused = [f"{file.relative_to(ROOT)}:{line}: {text[:60]}" for file, line, text in found if OPENINGS.match(text)]
    assert refused == []


@pytest.fixture(scope="module")
def package():
    """The package as the documentation reads it, without importing it."""
    griffe = pytest.importorskip("griffe", reason="griffe comes with the docs extra: pip install -e '.[docs]'")
    return griffe.load("nnunet_ext", search_paths=[ROOT], allow_inspection=False)


def documented(thing) -> Iterator:
    """Everything with a docstring in a module or a class of griffe, but not what it only imports."""
    if not thing.is_alias:
        if thing.docstring:
            yield thing
        for member in thing.members.values():
            yield from documented(member)


def test_every_section_parses_and_documents_parameters_that_exist(package, caplog):
    """One parameter per line: the site shows "a, b: …" as one parameter of that name."""
    with caplog.at_level(logging.WARNING, logger="griffe"):
        things = list(documented(package))
        for thing in things:
            thing.docstring.parse("google", warnings=True, warn_unknown_params=True)
    assert len(things) > 1000
    assert [record.getMessage() for record in caplog.records] == []


def test_every_documented_attribute_exists(package):
    """As a member, or set by a method, as nnU-Net's trainers do beside their ``__init__``."""
    missing = []
    for thing in documented(package):
        if thing.is_class:
            for section in thing.docstring.parse("google", warnings=False):
                if section.kind.value == "attributes":
                    names = [attribute.name for attribute in section.value]
                    there = {*thing.all_members, *re.findall(r"self\.(\w+)(?:,| =)", thing.source)}
                    missing += [f"{thing.path}: {name}" for name in names if name not in there]
    assert missing == []
