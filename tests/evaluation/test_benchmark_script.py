"""The benchmark of surface metrics runs to the end on something tiny and reports every number it promises."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "surface_metrics.py"


@pytest.mark.slow
def test_every_method_agrees_and_has_finite_ratios(tmp_path):
    command = [sys.executable, str(SCRIPT), "--shapes", "16x24x20", "--repeats", "1"]
    result = subprocess.run([*command, "--json", str(tmp_path / "out.json")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "out.json").read_text())
    assert list(measured["methods"]) == ["16×24×20"]
    assert list(measured["ways"]) == ["16×24×20", "16×24×20, noise"]
    for table in (*measured["methods"].values(), *measured["ways"].values()):
        for name, each in table.items():
            assert f"| {name} | " in result.stdout
            assert all(math.isfinite(number) and number > 0 for number in each["ratio"].values())
    assert {"ours, surface", "ours, voxel", "surface-distance"} <= set(measured["methods"]["16×24×20"])
