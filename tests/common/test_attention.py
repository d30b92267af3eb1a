"""Attention over packed sequences: the same values and gradients as with a dense mask."""

import os
import subprocess
import sys

import pytest
import torch
from support.paths import ROOT
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2Config, Qwen2ForCausalLM

from tir.common import attention

LENGTHS = [5, 1, 12, 3]
IDS = torch.randint(0, 32, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]


def model(implementation: str, **settings) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=32, intermediate_size=24, tie_word_embeddings=True, **shape, **settings)
    config._attn_implementation = implementation
    return Qwen2ForCausalLM(config)


def gradients(policy) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])


def test_packed_attention_equals_a_dense_mask_in_values_and_gradients():
    dense, packed = model("sdpa"), model("packed")
    outputs = [each(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits for each in (dense, packed)]
    for output in outputs:
        (output.log_softmax(-1) * torch.linspace(-1, 1, 32)).sum().backward()
    assert torch.allclose(*outputs, atol=1e-6) and torch.allclose(gradients(dense), gradients(packed), atol=1e-5)


def test_a_long_sequence_in_bf16_is_read_with_the_instructions_of_avx2():
    """On a processor with AMX, torch's own kernel raises from 64 tokens on."""
    code = (
        "import torch\nfrom common.test_attention import model\n"
        "ids, positions = torch.arange(200)[None] % 32, torch.arange(200)[None]\n"
        "logits = model('packed').bfloat16()(input_ids=ids, position_ids=positions, use_cache=False).logits\n"
        "logits.float().sum().backward()\n"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_sequence_does_not_see_its_neighbours():
    alone = model("packed")(input_ids=IDS[:, 6:18], position_ids=POSITIONS[:, 6:18], use_cache=False).logits
    among = model("packed")(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits[:, 6:18]
    assert torch.allclose(alone, among, atol=1e-6)


def test_the_kernel_for_gpus_gets_the_sequences_in_its_own_layout(monkeypatch):
    """The kernel needs a GPU. Its stand-in has the signature of torch 2.11 and computes one sequence at a time."""

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        assert cu_seq_q.dtype == torch.int32 and cu_seq_q is cu_seq_k and (max_q, max_k) == (12, 12)
        assert (
            window_size == (-1, 0) and query.shape == key.shape
        )  # causal; torch 2.11 has no option for fewer key heads
        rows = zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False)
        parts = [[each[start:end].transpose(0, 1) for each in (query, key, value)] for start, end in rows]
        done = [scaled_dot_product_attention(*part, is_causal=True, scale=scale).transpose(0, 1) for part in parts]
        return torch.cat(done)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    states = [torch.rand(1, 4, sum(LENGTHS), 8) for _ in range(3)]
    layer = torch.nn.Module()
    expected, _ = attention.packed_attention(layer, *states, None, position_ids=POSITIONS, scaling=0.3)
    assert torch.allclose(attention._flash(*states, LENGTHS, 0.3)[None], expected, atol=1e-6)


def test_what_packed_attention_cannot_compute_is_refused():
    states, layer = [torch.rand(1, 2, sum(LENGTHS), 8)] * 3, torch.nn.Module()
    for unsupported in ({"dropout": 0.1}, {"softcap": 30.0}, {"s_aux": torch.zeros(2)}, {"sliding_window": 11}):
        with pytest.raises(NotImplementedError):
            attention.packed_attention(layer, *states, None, position_ids=POSITIONS, **unsupported)
    attention.packed_attention(layer, *states, None, position_ids=POSITIONS, sliding_window=12)
    with pytest.raises(NotImplementedError):
        attention.packed_attention(layer, *states, torch.ones(1, 1), position_ids=POSITIONS)
    with pytest.raises(ValueError, match="first position"):
        attention.packed_attention(layer, *states, None, position_ids=POSITIONS + 1)
