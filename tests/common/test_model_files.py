"""Missing and truncated weights of a model directory are errors before the model is loaded."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tir.common.errors import CheckpointError
from tir.common.model_files import check_weights
from tir.config.evaluation import EngineConfig
from tir.rollout.engines import make_engine


@pytest.fixture
def model(tmp_path):
    save_file({"w": np.zeros((64, 64), dtype=np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_complete_weights_pass(model):
    check_weights(model)


@pytest.mark.parametrize("length", [0, 4, 40, 1000])
def test_truncated_weights_raise(model, length):
    with open(model / "model.safetensors", "r+b") as file:
        file.truncate(length)
    with pytest.raises(CheckpointError) as caught:
        make_engine(EngineConfig(kind="transformers", dtype="float32"), model, device="cpu")
    assert "model.safetensors: unreadable weights" in str(caught.value) and f"rm -r {model}" in str(caught.value)


def test_directory_without_weights_raises(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        check_weights(tmp_path)
