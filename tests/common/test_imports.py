"""Importing large libraries without garbage collection."""

import gc

import pytest

from tir.common.imports import without_collection


def test_collection_pauses_within_the_block_and_no_longer():
    gc.unfreeze()
    with without_collection():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() > len(kept)
    gc.unfreeze()


def test_collection_goes_on_after_an_error():
    with pytest.raises(ImportError), without_collection():
        raise ImportError("no module")
    assert gc.isenabled()
    gc.unfreeze()
