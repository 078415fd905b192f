"""The rules of the house: who may import whom."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from nnunet_ext.catalogue import TRAINERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nnunet_ext"
FILES = sorted(PACKAGE.rglob("*.py"))
SHARED = {
    "nnunet",
    "data",
    "processes",
    "evaluation",
    "interactive",
    "benchmark",
    "scribbles",
    "splits",
    "landmarks",
    "partial_labels",
    "demo",
    "export",
    "viewer",
    "cli",
    "unlabelled",
}
# read nnU-Net's files with nnU-Net's own readers, ask it which trainers it knows and which network it planned;
# preprocess with its preprocessor and draw patches with its loader
USERS_OF_NNUNET = {"data", "benchmark", "scribbles", "splits", "export", "unlabelled", "find_trainer"}
METHODS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()} - SHARED


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def room(file: Path) -> str:
    """A package or a module directly in ours."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def knows_nnunet(file: Path) -> bool:
    inside = file.relative_to(PACKAGE).parts
    # landmarks/training are mix-ins of trainers, and the loader that they need
    return (
        inside[0] == "nnunet"
        or inside[:2] == ("landmarks", "training")
        or inside[-1].endswith("trainer.py")
        or inside[-1] == "predictor.py"
    )


def test_no_rooms_need_each_other():
    rooms = {room(file) for file in FILES} - {"__init__", "__main__"}
    needs: dict[str, set[str]] = {name: set() for name in rooms}
    for file in FILES:
        if room(file) in rooms:
            named = {name.split(".")[1] for name in imports(file) if name.startswith("nnunet_ext.")}
            needs[room(file)] |= (named & rooms) - {room(file)}
    assert len(list(TopologicalSorter(needs).static_order())) == len(rooms)  # raises CycleError


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_only_nnunet_and_the_trainers_import_nnunetv2(file):
    if room(file) not in USERS_OF_NNUNET and not knows_nnunet(file):
        assert not {name for name in imports(file) if name.split(".")[0] == "nnunetv2"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_imports_no_other_method(method):
    others = {f"nnunet_ext.{other}" for other in METHODS - {method}}
    for file in (PACKAGE / method).rglob("*.py"):
        assert not {name for name in imports(file) if ".".join(name.split(".")[:2]) in others}, file


@pytest.mark.parametrize("trains", sorted({"nnunet"} | METHODS))
def test_what_trains_does_not_look_into_the_catalogue_that_names_it(trains):
    for file in (PACKAGE / trains).rglob("*.py"):
        assert not imports(file) & {"nnunet_ext.catalogue", "nnunet_ext.planning"}, file


def methods_imported_by(file: Path) -> set[str]:
    return {method for method in METHODS if any(name.startswith(f"nnunet_ext.{method}.") for name in imports(file))}


def test_only_combinations_import_two_methods():
    assert {file.name for file in FILES if len(methods_imported_by(file)) > 1} == {"combinations.py"}


def test_a_combination_is_nothing_but_its_bases():
    classes = [n for n in ast.walk(ast.parse((PACKAGE / "combinations.py").read_text())) if isinstance(n, ast.ClassDef)]
    assert classes
    for combination in classes:
        assert len(combination.bases) == 2
        assert [type(statement) for statement in combination.body] == [ast.Expr]  # the docstring


def test_what_is_trained_does_not_know_the_sessions_with_it():
    for file in (PACKAGE / "s2vnet").glob("*.py"):
        assert not {name for name in imports(file) if name.startswith("nnunet_ext.interactive")}, file


@pytest.mark.parametrize("method", sorted(METHODS))
def test_beside_its_trainer_a_method_needs_only_what_knows_no_trainer(method):
    shared = (
        "nnunet.unet",
        "nnunet.options",
        "nnunet.teacher",
        "nnunet.pseudo_labels",
        "landmarks.heatmaps",
        "landmarks.points",
        "errors",
        method,
    )
    allowed = tuple(f"nnunet_ext.{name}" for name in shared)
    for file in (PACKAGE / method).rglob("*.py"):
        if not knows_nnunet(file):
            ours = {name for name in imports(file) if name.startswith("nnunet_ext")}
            assert not {name for name in ours if not name.startswith(allowed)}, file


def test_evaluation_and_data_are_leaves():
    names = ("data", "errors", "files", "findings", "processes", "version")
    ground = tuple(f"nnunet_ext.{name}" for name in names)
    for leaf, allowed in {"data": ground, "evaluation": ("nnunet_ext.evaluation", *ground)}.items():
        for file in (PACKAGE / leaf).rglob("*.py"):
            ours = {name for name in imports(file) if name.startswith("nnunet_ext.")}
            assert not {name for name in ours if not name.startswith(allowed)}, file


def test_nobody_imports_the_demo_but_its_command():
    for file in FILES:
        if room(file) not in {"demo", "cli"}:
            assert not {name for name in imports(file) if name.startswith("nnunet_ext.demo")}, file


def test_nnunet_imports_no_method():
    for file in (PACKAGE / "nnunet").rglob("*.py"):
        assert not {name for name in imports(file) for m in METHODS if name.startswith(f"nnunet_ext.{m}")}, file


@pytest.mark.parametrize("file", ["unet.py", "pseudo_labels.py"])
def test_what_methods_need_beside_their_trainer_is_free_of_nnunetv2(file):
    assert not {name for name in imports(PACKAGE / "nnunet" / file) if name.startswith("nnunetv2")}


def test_the_door_holds_nothing_but_the_catalogue():
    assert sorted(path.name for path in (ROOT / "trainers").glob("*.py")) == ["__init__.py", "nnunet_ext_trainers.py"]
    assert {n.split(".")[0] for n in imports(ROOT / "trainers" / "nnunet_ext_trainers.py")} == {"nnunet_ext"}


def test_trainers_are_short():
    for module in {entry.location.partition(":")[0] for entry in TRAINERS.values()}:
        file = ROOT / (module.replace(".", "/") + ".py")
        if "nnunet_ext.nnunet" not in module:
            assert len(file.read_text().splitlines()) <= 190, file


def test_the_page_about_the_house_names_every_room_and_script():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+(?:\.py|\.mjs)?)`", page))
    rooms = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    scripts = {path.name for path in (ROOT / "benchmarks").iterdir() if path.suffix in {".py", ".mjs"}}
    assert not (rooms | scripts) - named - {"__init__.py", "__main__.py"}
    assert (
        not {name for name in named if name.endswith((".py", ".mjs"))}
        - rooms
        - scripts
        - {"options.py", "trainer.py", "predictor.py"}
    )
