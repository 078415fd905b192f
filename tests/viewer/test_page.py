"""The page that is committed is that of its sources, complete without a network, and says whose code is in it."""

import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES, PAGE = ROOT / "viewer", ROOT / "nnunet_ext" / "viewer" / "page"


def test_the_page_was_built_from_these_sources():
    names = [f"src/{file.name}" for file in (SOURCES / "src").iterdir()] + ["build.mjs", "package-lock.json"]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + (SOURCES / name).read_bytes().replace(b"\r\n", b"\n") + b"\0")
    first_line = (PAGE / "viewer.js").read_text(encoding="utf-8").partition("\n")[0]
    assert digest.hexdigest() in first_line, "viewer/ has changed: npm ci && npm run build there, and commit the page"
    for name in ("index.html", "viewer.css"):
        assert (PAGE / name).read_text(encoding="utf-8") == (SOURCES / "src" / name).read_text(encoding="utf-8")
    assert {file.name for file in PAGE.iterdir()} == {"index.html", "viewer.css", "viewer.js", "licences.txt"}


def test_the_lock_file_names_no_registry():
    lock = json.loads((SOURCES / "package-lock.json").read_text(encoding="utf-8"))
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
    assert all("integrity" in entry for name, entry in lock["packages"].items() if name)


def test_every_bundled_package_comes_with_its_licence():
    text = (PAGE / "licences.txt").read_text(encoding="utf-8")
    lock = json.loads((SOURCES / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    named = re.findall(r"(?m)^(\S+) ([\d.]+) \(([\w.-]+)\)$", text)
    assert "@niivue/niivue" in {name for name, _, _ in named}
    for name, version, licence in named:
        assert lock[f"node_modules/{name}"]["version"] == version
        assert licence in {"MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0"}
    assert text.count("Copyright") >= len(named)
    page = (SOURCES.parent / "docs" / "licences.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| (\S+) \| ([\d.]+) \| ([\w.-]+) \|$", page) == named


def test_the_page_explains_every_key():
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    tools = re.findall(r"key: '(\w)'", (SOURCES / "src" / "pointer.js").read_text(encoding="utf-8"))
    assert len(tools) == 7
    help_ = page.partition('id="help"')[2]
    assert all(f"<kbd>{key.upper()}</kbd>" in help_ for key in tools)
