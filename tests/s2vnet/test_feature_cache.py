"""Cache of features: what it keeps, and that it is never larger than it may be."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.s2vnet.feature_cache import FeatureCache


def features(number, seed=0):
    return [torch.full((number,), float(seed))]


def test_the_cache_keeps_what_was_used_last():
    cache, computed = FeatureCache(3 * 40), []

    def get(key):
        def compute():
            computed.append(key)
            return features(10, key)

        assert cache.get((0, key), compute)[0][0] == key

    for key in (0, 1, 2, 0, 3, 0, 1):
        get(key)
    assert computed == [0, 1, 2, 3, 1]
    assert cache.size == 120


def test_what_is_taken_is_no_longer_kept_and_what_is_not_there_is_not_kept_either():
    cache = FeatureCache(80)
    kept = cache.get("a", lambda: features(10))
    cache.get("b", lambda: features(10))
    assert cache.take("a", lambda: features(10)) is kept
    assert cache.take("c", lambda: features(10, 3))[0][0] == 3
    assert list(cache._kept) == ["b"]
    assert cache.size == 40


@given(st.integers(0, 200), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), max_size=30))
def test_the_cache_is_never_larger_than_it_may_be(limit, requests):
    cache = FeatureCache(limit)
    sizes = {}
    for key, size in requests:
        size = sizes.setdefault(key, size)
        assert len(cache.get((0, key), lambda size=size: features(size))[0]) == size
        assert cache.size <= limit
        assert cache.size == sum(4 * len(kept[0]) for kept in cache._kept.values())
