# SPDX-License-Identifier: MIT
"""gqmm.torch: operations, tracing, autograd's refusal, modules in the place of transformers'."""

import copy
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import gqmm  # noqa: E402
import gqmm.torch as gt  # noqa: E402

from conftest import ONE  # noqa: E402

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def still():
    torch.manual_seed(0)
    torch._dynamo.reset()
    gqmm.set_default_context(ONE)  # importing gqmm.torch has made one on torch's threads
    with torch.no_grad():
        yield


def calls(device):
    """(operation, arguments) of each that is registered."""
    w = torch.randn(4, 8, 64, device=device)
    q, s, b = gqmm.quantize(w)
    x, ids = torch.randn(3, 1, 64, device=device), torch.tensor([2, 0, 1], device=device)
    planes = gt.QuantizedLinear(torch.randn(8, 64, device=device)).weight.planes
    both = gt.QuantizedExperts(torch.randn(4, 64, 32, device=device),
                               torch.randn(4, 32, 32, device=device), "q8_0")
    ops = torch.ops.gqmm
    found = [
        (ops.quantized_matmul, (x, q[0], s[0], b[0])),
        (ops.quantized_matmul, (torch.randn(4, 2, 8), q, s, b, False)),
        (ops.gather_qmm, (x, q, s, b, None, ids)),
        (ops.gather_qmm, (x.bfloat16(), q, s, b, ids[:, None] * 0, ids)),
        (ops.quantize, (w,)),
        (ops.quantize, (w, None, None, "mxfp4")),
        (ops.dequantize, (q, s, b)),
        (ops.dequantize, (*gqmm.quantize(w, mode="nvfp4"), None, None, None, "nvfp4",
                          torch.float16)),
        (ops.linear, (x, planes, "q8_0", "int8")),
        (ops.gather_linear, (torch.randn(3, 1, 32), both.gate_up.planes, "q8_0",
                             torch.tensor([[0, 1], [2, 3], [1, 1]]))),
        (ops.moe, (torch.randn(5, 32), both.gate_up.planes, "q8_0", both.down.planes, "q8_0",
                   torch.randint(0, 4, (5, 2)), torch.rand(5, 2))),
        (ops.embed, (ids, planes, "q8_0", 64, torch.float16)),
    ]
    return [(op, tuple(a.to(device) if torch.is_tensor(a) else a for a in arguments))
            for op, arguments in found]


@pytest.mark.parametrize("i", range(12))
def test_fake_is_real(device, i):
    """opcheck: schema, fake shapes and dtypes, tracing with symbols; then one graph, same bits."""
    op, arguments = calls(device)[i]
    result = torch.library.opcheck(op.default, arguments)
    assert set(result.values()) == {"SUCCESS"}, result
    want = op(*arguments)
    got = torch.compile(lambda *a: op(*a), fullgraph=True, backend="aot_eager")(*arguments)
    for a, b in zip(*[r if isinstance(r, list) else [r] for r in (got, want)]):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.device.type == device
        assert a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes() if (
            a.dtype not in (torch.bfloat16,)) else torch.equal(a, b)


def test_backward_says_no():
    layer = gt.QuantizedLinear(torch.randn(8, 64))
    x = torch.randn(2, 64, requires_grad=True)
    with torch.enable_grad():
        y = layer(x)
        assert y.requires_grad
        with pytest.raises(RuntimeError, match="has no backward"):
            y.sum().backward()
        with pytest.raises(RuntimeError, match="x.detach"):
            gqmm.quantized_matmul(x, gqmm.Weights.from_array(torch.ones(8, 64)))
    assert not layer(x).requires_grad


def test_on_threads_of_torch():
    w = gqmm.Weights.quantize(torch.randn(4, 96, 256), "q4_k")
    x, ids = torch.randn(64, 1, 256), torch.randint(0, 4, (64,))
    shared = gqmm.Context(2, openmp=True)
    assert torch.equal(gqmm.gather_qmm(x, w, rhs_indices=ids, context=shared),
                       gqmm.gather_qmm(x, w, rhs_indices=ids))


def test_linear_and_its_state():
    linear = torch.nn.Linear(256, 32)
    layer = gt.QuantizedLinear.from_linear(linear, "q6_k", "exact")
    x = torch.randn(3, 5, 256)
    want = x @ gqmm.Weights.from_blocks("q6_k", layer.weight.planes[0], 32, 256).dequantize(
        like=x)[0].T + linear.bias
    assert torch.allclose(layer(x), want, atol=1e-4)
    other = gt.QuantizedLinear(torch.zeros(32, 256), torch.zeros(32), "q6_k")
    other(x)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    third = copy.deepcopy(layer)
    assert torch.equal(third(x), layer(x))
    assert "q6_k" in repr(layer)


def model_of(kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    common = dict(vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=1, head_dim=32, num_experts_per_tok=2, intermediate_size=96)
    if kind == "qwen3moe":
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(
            **common, num_experts=6, moe_intermediate_size=96, decoder_sparse_step=1))
    else:
        model = transformers.GptOssForCausalLM(transformers.GptOssConfig(
            **common, num_local_experts=6))
    for p in model.parameters():
        p.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("kind", ["qwen3moe", "gpt-oss"])
def test_models_of_transformers(kind):
    model = model_of(kind)
    ids = torch.randint(0, 96, (2, 7))
    want = model(ids).logits
    same = copy.deepcopy(model)
    done = gt.quantize_model(same, experts="f32", linears="f32")  # the layout alone is at test
    assert sum(v == "f32" for v in done.values()) == 2 * 5 and done["lm_head"] == "skipped"
    assert torch.allclose(same(ids).logits, want, atol=1e-3 * want.abs().max())
    near = copy.deepcopy(model)
    gt.quantize_model(near, experts="q8_0", linears="q8_0")
    error = ((near(ids).logits - want) ** 2).sum() / (want**2).sum()
    assert 0 < error < 1e-2
    left = gt.quantize_model(model, experts="q4_k")
    assert any("blocks of 256" in v for v in left.values())


def test_inductor_in_one_graph():
    import shutil

    if not shutil.which("g++"):
        pytest.skip("inductor needs g++")
    experts = gt.QuantizedExperts(torch.randn(4, 64, 32), torch.randn(4, 32, 32), "q8_0")
    x, ids, w = torch.randn(5, 32), torch.randint(0, 4, (5, 2)), torch.rand(5, 2)
    compiled = torch.compile(lambda *a: torch.relu(experts(*a)) + 1, fullgraph=True)
    try:
        got = compiled(x, ids, w)
    except Exception as why:  # a compiler that torch cannot use is not ours to mend
        if "InductorError" not in repr(type(why)) and "CppCompileError" not in str(why):
            raise
        pytest.skip(f"inductor does not work here: {str(why)[:80]}")
    assert torch.equal(got, torch.relu(experts(x, ids, w)) + 1)
