"""A few of the files of :mod:`tests.data.fuzz_readers`; many more with ``python -m tests.data.fuzz_readers``."""

import importlib.util

import pytest

from tests.data.fuzz_readers import FORMATS, fuzz


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_is_refused_in_one_sentence_or_read_like_another_reader_reads_it(name):
    if name == "nrrd" and importlib.util.find_spec("nrrd") is None:
        pytest.skip("pynrrd is not installed")
    found = fuzz(name, 150)
    assert set(found) <= {"refused", "the same", "only ours"}
    assert found["refused"] > 30
