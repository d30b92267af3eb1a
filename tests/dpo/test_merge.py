"""A merged adapter equals PEFT's merge; one of another base is an error that names the layer."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import adapted_policy, tiny_policy

from tir.common.errors import CheckpointError
from tir.dpo.merge import merge_adapter


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A folder with a policy, and an adapter of it in a run directory."""
    directory = tmp_path_factory.mktemp("adapted")
    adapted_policy(directory)
    return directory


def test_the_merge_is_that_of_peft(adapted, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, checkpoint = adapted / "policy", adapted / "run/checkpoints/checkpoint-3"
    assert merge_adapter(checkpoint, base, tmp_path / "merged") == pytest.approx(1, abs=1e-4)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), checkpoint
    ).merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    changed = 0
    for (name, mine), other, old in zip(ours.named_parameters(), theirs.parameters(), before.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-6), name
        changed += not torch.equal(mine, old)
    assert changed == 2 * 7  # all linear layers of both blocks: q, k, v, o, gate, up, down


def test_files_names_and_data_types_are_those_of_the_base(adapted, tmp_path):
    base = shutil.copytree(adapted / "policy", tmp_path / "half")
    weights = {name: each.to(torch.bfloat16) for name, each in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors")
    kept = merge_adapter(adapted / "run/checkpoints/checkpoint-3", base, tmp_path / "merged")
    assert kept == pytest.approx(1, abs=0.01)  # the adapter is random, its update as large as the weights
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert {(name, each.dtype) for name, each in merged.items()} == {(name, torch.bfloat16) for name in weights}
    files = {path.name for path in base.iterdir()} - {"manifest.json"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == files


@pytest.mark.parametrize(
    "sizes, why", [({"hidden": 128}, "weight is \\("), ({"layers": 1}, "the base has no model.layers.1")]
)
def test_an_adapter_of_another_base_is_an_error(adapted, tmp_path, sizes, why):
    other = tiny_policy(tmp_path / "other", **sizes)
    with pytest.raises(CheckpointError, match=f"the adapter does not fit its base: .*{why}") as caught:
        merge_adapter(adapted / "run/checkpoints/checkpoint-3", other, tmp_path / "merged")
    assert f"rm -r {adapted / 'run'} " in str(caught.value)


def test_an_update_that_is_small_beside_bfloat16_weights_is_mostly_rounded_away(adapted, tmp_path):
    """Updates of 0.1 % of the weights: a weight changes only where the update is half a step of bfloat16."""
    checkpoint, small, base = adapted / "run/checkpoints/checkpoint-3", tmp_path / "small", tmp_path / "half"
    for source, target in ((checkpoint, small), (adapted / "policy", base)):
        shutil.copytree(source, target)
    weights = load_file(base / "model.safetensors")
    save_file({name: each.to(torch.bfloat16) for name, each in weights.items()}, base / "model.safetensors")
    adapter = load_file(small / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    size = (
        2
        * (adapter[f"base_model.model.{name}.lora_B.weight"] @ adapter[f"base_model.model.{name}.lora_A.weight"]).std()
    )
    factor = (0.001 * weights[f"{name}.weight"].std() / size).item()
    shrunk = {key: each * factor if "lora_B" in key else each for key, each in adapter.items()}
    save_file(shrunk, small / "adapter_model.safetensors")
    assert merge_adapter(small, adapted / "policy", tmp_path / "fp32") == pytest.approx(1, abs=0.01)
    assert 0.1 < merge_adapter(small, base, tmp_path / "bf16") < 0.7


def test_the_scale_is_alpha_over_rank(adapted, tmp_path):
    """Half of alpha is half of the update."""
    checkpoint, half = adapted / "run/checkpoints/checkpoint-3", tmp_path / "half"
    shutil.copytree(checkpoint, half)
    settings = json.loads((half / "adapter_config.json").read_text())
    (half / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": settings["lora_alpha"] / 2}))
    merge_adapter(checkpoint, adapted / "policy", tmp_path / "one")
    merge_adapter(half, adapted / "policy", tmp_path / "other")
    name = "model.layers.0.mlp.up_proj.weight"
    folders = (adapted / "policy", tmp_path / "one", tmp_path / "other")
    base, one, other = (load_file(path / "model.safetensors")[name] for path in folders)
    assert torch.allclose(one - base, 2 * (other - base), atol=1e-6)
