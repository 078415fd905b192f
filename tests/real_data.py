"""Real data sets in nnU-Net's raw format. Tests that need one are skipped where it is not, and say which."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[2] / "shared" / "data"))


def needs(*names: str) -> list[pytest.MarkDecorator]:
    """Marks of tests that read these data sets."""
    missing = _missing(*names)
    return [pytest.mark.real_data, pytest.mark.skipif(bool(missing), reason=missing)]


def dataset(name: str) -> Path:
    """The folder of a data set; without it the test is skipped."""
    if missing := _missing(name):
        pytest.skip(missing)
    return DATA / name


def _missing(*names: str) -> str:
    lacking = [name for name in names if not (DATA / name).is_dir()]
    return f"{DATA} lacks {', '.join(lacking)}; set NNUNET_EXT_DATA to a folder with it" if lacking else ""
