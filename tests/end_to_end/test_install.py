"""Wheel and editable install behave the same: found by nnU-Net, the same class every time, picklable anywhere."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.xdist_group("install"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]

# runs in the scratch environment, as a file, because spawned processes import the main module again
PROBE = '''
import multiprocessing, pickle, sys
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find

NAMES = ("nnUNetTrainerPnPNet", "nnUNetTrainerReference_7epochs")

def child(pickled):
    """Unpickles before anything else has imported the package."""
    for trainer, transforms in pickle.loads(pickled):
        assert trainer.__name__ in NAMES and transforms is not None

if __name__ == "__main__":
    import nnunet_ext
    assert sys.argv[1] in nnunet_ext.__file__, nnunet_ext.__file__
    pairs = []
    for name in NAMES:
        trainer = find(name)
        assert find(name) is trainer, "another class at the second search"
        assert pickle.loads(pickle.dumps(trainer)) is trainer
        assert sys.modules[trainer.__module__].__name__.startswith("nnunet_ext.")
        transforms = trainer.get_training_transforms(
            (16, 16, 16), (-0.5, 0.5), [[1, 1, 1]], (0, 1, 2), False, use_mask_for_norm=[False])
        pairs.append((trainer, transforms))
    assert pairs[1][0].fixed_num_epochs == 7
    for method in ("spawn", "forkserver", "fork"):
        process = multiprocessing.get_context(method).Process(target=child, args=(pickle.dumps(pairs),))
        process.start()
        process.join()
        assert process.exitcode == 0, method
    try:
        find("nnUNetTrainerNobodyWrote")
    except RuntimeError as error:
        assert "Could not find" in str(error)
    print("probe passed")
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("source") / "nnunet-ext"
    copy.mkdir()
    for name in ("nnunet_ext", "trainers", "plans"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def environment(folder: Path) -> Path:
    """A scratch environment that reuses the heavy packages (but not their .pth files); returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    query = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(subprocess.check_output([str(python), "-c", query], text=True).strip())
    heavy = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
    (site / "heavy.pth").write_text("\n".join(sorted(heavy)))
    return python


def pip(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", *arguments]
    subprocess.run([*command, "--no-build-isolation", "--disable-pip-version-check"], check=True)


def probe(python: Path, installed_in: Path, tmp_path: Path) -> None:
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    found = subprocess.check_output([str(python.parent / "nnunet-ext"), "path"], text=True, cwd=tmp_path).strip()
    assert str(installed_in) in found
    result = subprocess.run(
        [str(python), str(script), str(installed_in)],
        env={"PATH": str(python.parent), "nnUNet_extTrainer": found, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "probe passed" in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]
    presets = subprocess.check_output(
        [str(python), "-c", "from nnunet_ext.planning import load_presets; print(*load_presets())"],
        text=True,
        cwd=tmp_path,
    )
    assert {"cpu", "pnpnet"} <= set(presets.split())


def test_the_wheel(source, tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top_level == {"nnunet_ext"}
    assert "nnunet_ext/viewer/page/viewer.js" in names
    python = environment(tmp_path / "venv")
    pip(python, str(wheel))
    probe(python, tmp_path / "venv", tmp_path)


def test_the_editable_install(source, tmp_path):
    python = environment(tmp_path / "venv")
    pip(python, "-e", str(source))
    probe(python, source, tmp_path)
