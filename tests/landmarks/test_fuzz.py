"""A few of the files of :mod:`tests.landmarks.fuzz_tables`; more with ``python -m tests.landmarks.fuzz_tables``."""

import pytest

from tests.landmarks.fuzz_tables import FORMATS, fuzz


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_is_refused_in_one_sentence_or_read(name):
    found = fuzz(name, 300)
    assert set(found) == {"refused", "read"}
