"""A model directory whose weights are missing or cut short is named, with the remedy, before anything is spent on it."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tir.engines import make_engine
from tir.errors import CheckpointError
from tir.model_files import check_weights


@pytest.fixture
def model(tmp_path):
    save_file({"w": np.zeros((64, 64), dtype=np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_whole_weights_pass(model):
    check_weights(model)


@pytest.mark.parametrize("length", [0, 4, 40, 1000])
def test_weights_cut_short_are_named(model, length):
    with open(model / "model.safetensors", "r+b") as file:
        file.truncate(length)
    with pytest.raises(CheckpointError) as caught:
        make_engine("transformers", model)
    assert "model.safetensors: unreadable weights" in str(caught.value) and f"rm -r {model}" in str(caught.value)


def test_a_directory_without_weights_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        check_weights(tmp_path)
