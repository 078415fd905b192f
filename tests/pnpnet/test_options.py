"""The table of options in the documentation."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nnunet_ext.pnpnet.options import LEVELS, PnPNetOptions

PAGE = Path(__file__).parents[2] / "docs/pnpnet.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="docs/pnpnet.md is not part of an installation")
def test_the_page_lists_every_option_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \| [^|]+ \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE))
    expected = {field.name: json.dumps(field.default) for field in dataclasses.fields(PnPNetOptions)}
    expected["levels"] += f": {', '.join(map(str, LEVELS))}"
    assert {name: rows.get(name) for name in expected} == expected
