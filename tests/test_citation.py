"""CITATION.cff is a citation file of format 1.2.0, and says what the package says, as the changelog does."""

import re
from datetime import date
from pathlib import Path

import pytest
import yaml

from nnunet_ext.version import __version__

ROOT = Path(__file__).parent.parent
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

# of the schema that https://github.com/citation-file-format/citation-file-format publishes
REQUIRED = {"authors", "cff-version", "message", "title"}
OPTIONAL = {
    "abstract",
    "commit",
    "contact",
    "date-released",
    "doi",
    "identifiers",
    "keywords",
    "license",
    "license-url",
}
OPTIONAL |= {"preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url"}
OPTIONAL |= {"version"}
PERSON = {"family-names", "given-names", "name-particle", "name-suffix", "affiliation", "orcid", "email", "website"}
REFERENCE = {"type", "scope", "title", "authors", "journal", "volume", "issue", "start", "end", "year", "doi"}


def test_it_has_the_keys_of_the_format_and_no_others():
    assert CITATION.keys() >= REQUIRED
    assert CITATION.keys() <= REQUIRED | OPTIONAL
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] in {"software", "dataset"}
    assert all(isinstance(CITATION[key], str) for key in ("message", "title", "abstract", "version", "license"))
    assert isinstance(CITATION.get("date-released", date.today()), date)
    assert len(set(CITATION["keywords"])) == len(CITATION["keywords"]) > 0


@pytest.mark.parametrize("entry", [CITATION, *CITATION["references"]], ids=lambda entry: entry["title"][:20])
def test_authors_are_people_or_have_a_name(entry):
    assert entry["authors"]
    for author in entry["authors"]:
        assert set(author) == {"name"} or {"family-names", "given-names"} <= set(author) <= PERSON


def test_references_have_what_the_format_asks_for():
    for reference in CITATION["references"]:
        assert {"authors", "title", "type"} <= reference.keys() <= REFERENCE
        assert isinstance(reference["year"], int)
        assert reference["doi"].startswith("10.")


def test_it_says_what_the_package_says():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library since Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["title"] == project["name"]
    assert CITATION["version"] == __version__
    assert CITATION["license"] == project["license"]
    assert CITATION["authors"] == project["authors"]
    assert CITATION["abstract"].rstrip(".") == project["description"]
    assert set(CITATION["keywords"]) <= set(project["keywords"])


def test_the_changelog_has_a_place_for_what_comes_and_a_section_of_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]
