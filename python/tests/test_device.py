# SPDX-License-Identifier: MIT
"""torch tensors, on the CPU and on CUDA alike: the functions against the numbers of the dequantised
weights in double precision, and against their own results on the CPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

import gqmm  # noqa: E402

from cases import (activations, close, kind_of, own_weights, problems, sized,  # noqa: E402
                   tensor)

BF16_WEIGHTS = 2.0**-8  # gqmm.h: with bf16 activations CUDA may round weights to bf16 once


def doubles(t):
    return t.double().cpu().numpy()


def sides(p, device):
    """(x, codes and scales as tensors, x and w in double, the sum of the products' sizes)."""
    parts, full = own_weights(p)
    a = activations(p)
    x = tensor(a, device, p["layouts"][0])
    ours = [tensor(v, device, how) for v, how in zip(parts, p["layouts"][1:])]
    return x, ours, a.astype(np.float64), full


def promoted(p):
    same = p["mode"] != "affine" or p["dtype"] == p["scale_dtype"]
    return p["dtype"] if same else "float32"


def fits(y, a, w, full, p, device):
    slack = np.abs(a) @ np.abs(w) + np.abs(a).sum(-1, keepdims=True) * np.abs(full).max() * 8
    loose = BF16_WEIGHTS if device == "cuda" and p["dtype"] == "bfloat16" else 0.0
    name = str(y.dtype).split(".")[-1]
    want = a @ w
    return name == promoted(p) and y.device.type == device and close(
        doubles(y).reshape(want.shape), want, slack, name, p["k"], loose)


def test_quantized_matmul(device):
    @settings(max_examples=100)
    @given(problems())
    def check(p):
        x, ours, a, full = sides(p, device)
        if not p["x_batch"] and np.prod(p["w_batch"]) != 1:
            return
        how = dict(transpose=p["transpose"], group_size=p["group"], bits=p["bits"], mode=p["mode"])
        for _ in range(2):
            y = gqmm.quantized_matmul(x, *ours, **how)
        w = full.swapaxes(-1, -2) if p["transpose"] else full
        assert fits(y, a, w, full, p, device)

    check()


def test_gather_qmm(device):
    @settings(max_examples=150)
    @given(problems(gather=True), st.booleans())
    def check(p, sort):
        x, ours, a, full = sides(p, device)
        rng = np.random.default_rng(p["seed"] + 2)
        n_x, n_w = int(np.prod(p["x_batch"])), int(np.prod(p["w_batch"]))
        shape = p["shape"]
        if p["ids"] == "lhs":
            shape = (2,) + p["w_batch"]
        if p["ids"] == "rhs":
            shape = p["x_batch"][:-1] + (1,)
        kind = "int64" if p["id_dtype"] == "uint32" else p["id_dtype"]
        lhs, rhs = (rng.integers(0, n, shape).astype(kind) for n in (n_x, n_w))
        rhs = np.sort(rhs, None).reshape(shape) if sort else rhs
        ids = dict(lhs_indices=tensor(lhs, device) if p["ids"] != "rhs" else None,
                   rhs_indices=tensor(rhs, device) if p["ids"] != "lhs" else None)
        for _ in range(2):
            y = gqmm.gather_qmm(x, *ours, **ids, transpose=p["transpose"], group_size=p["group"],
                                bits=p["bits"], mode=p["mode"], sorted_indices=sort)
        left = np.arange(n_x).reshape(p["x_batch"]) if p["ids"] == "rhs" else lhs.astype(int)
        right = np.arange(n_w).reshape(p["w_batch"]) if p["ids"] == "lhs" else rhs.astype(int)
        left, right = np.broadcast_arrays(left, right)
        w = full.swapaxes(-1, -2) if p["transpose"] else full
        w, a = w.reshape((-1,) + w.shape[-2:])[right], a.reshape((-1, p["m"], p["k"]))[left]
        assert fits(y, a, w, full, p, device)

    check()


@pytest.mark.parametrize("tokens", [1, 8, 100, 700])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bits", [4, 8])
def test_many_tokens(device, tokens, dtype, bits):
    """Few and many pairs of an expert: other kernels, sorted pairs, a workspace."""
    torch.manual_seed(tokens)
    w = torch.randn(8, 96, 256) / 16
    q = gqmm.quantize(w, bits=bits)
    x = torch.randn(tokens, 1, 1, 256).to(getattr(torch, dtype))
    ids = torch.rand(tokens, 8).argsort(1)[:, :3]
    full = gqmm.dequantize(*q, bits=bits).double()
    want = torch.einsum("tk,tsnk->tsn", x.double()[:, 0, 0], full[ids])
    terms = torch.einsum("tk,tsnk->tsn", x.double()[:, 0, 0].abs(), full.abs()[ids])
    there = [a.to(device) for a in q]
    y = gqmm.gather_qmm(x.to(device), *there, rhs_indices=ids.to(device), bits=bits)
    loose = BF16_WEIGHTS if dtype == "bfloat16" else 0.0
    assert y.device.type == device and close(
        doubles(y)[:, :, 0], want.numpy(), 8 * terms.numpy(), "float32", 256, loose)


def test_quantize_is_the_cpu(device):
    @given(st.sampled_from(["affine", "mxfp4", "mxfp8", "nvfp4"]), st.data())
    def check(mode, data):
        group, bits = sized(mode, data.draw)
        dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
        cols = group * data.draw(st.integers(1, 4))
        shape = (data.draw(st.integers(1, 3)), 2 * data.draw(st.integers(1, 5)), cols)
        w = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape)
        w = w.astype(np.float32).astype(kind_of(dtype))
        want = gqmm.quantize(w, group, bits, mode)
        how = data.draw(st.sampled_from(["dense", "rows", "transposed"]))
        got = gqmm.quantize(tensor(w, device, how), group, bits, mode)
        for a, b in zip(got, want):
            assert a.device.type == device
            assert np.array_equal(tensor(b).view(torch.uint8).numpy(),
                                  a.cpu().contiguous().view(torch.uint8).numpy())
        back = gqmm.dequantize(*got, group_size=group, bits=bits, mode=mode)
        same = gqmm.dequantize(*want, group_size=group, bits=bits, mode=mode)
        assert str(back.dtype).endswith(same.dtype.name) and back.device.type == device
        assert np.array_equal(doubles(back), same.astype(np.float64))

    check()


@pytest.mark.parametrize("name", [f for f in gqmm.formats()
                                  if not f.startswith("affine") or "g64_bf16" in f])
def test_every_format(device, name):
    try:
        on_cpu = gqmm.Weights.quantize(torch.randn(3, 8, 256), name)
        w = on_cpu.to(device)
    except gqmm.Error as why:
        if device == "cuda" and "has no CUDA kernels" in str(why):
            pytest.skip(f"this build leaves out the kernels of {name}")
        raise
    assert w.device == (device if device == "cpu" else "cuda:0") and w.nbytes == on_cpu.nbytes
    full = on_cpu.dequantize(like=torch.empty(0))
    assert torch.equal(w.dequantize(like=torch.empty(0, device=device)).cpu(), full)
    if device == "cuda":
        assert torch.equal(w.dequantize().cpu(), full) and w.to("cuda:0") is w
        assert torch.equal(w.to("cpu").dequantize(like=full), full)
    x, ids = torch.randn(4, 1, 256), torch.tensor([2, 0, 1, 2])
    y = gqmm.gather_qmm(x.to(device), w, rhs_indices=ids.to(device))
    assert torch.allclose(y.cpu(), x @ full.mT[ids], atol=2e-3)
    y = gqmm.gather_qmm(x[..., :8].to(device), w, rhs_indices=ids.to(device), transpose=False)
    assert torch.allclose(y.cpu(), x[..., :8] @ full[ids], atol=2e-3)
    made = gqmm.Weights.quantize(torch.ones(2, 4, 256, device=device), name)
    rows = gqmm.embed(made, torch.tensor([[1, -1]], device=device))
    assert rows.device.type == device and not rows[0, 1].any()
    assert torch.equal(rows[0, 0], made.dequantize(like=rows)[0, 1])


def test_int4_and_global_scale(device):
    q = torch.randint(0, 16, (2, 8, 256), dtype=torch.uint8)
    scales = torch.rand(2, 8, 4).bfloat16()
    packed = q[..., ::2] | (q[..., 1::2] << 4)
    made = gqmm.Weights.from_int4(packed.to(device), scales.to(device))
    want = (q.float() - 8) * scales.float().repeat_interleave(64, -1)
    assert torch.equal(made.dequantize(like=packed.to(device)).cpu(), want)
    w = torch.randn(2, 8, 256)
    amax = float(w.abs().max())
    parts = gqmm.quantize(w.to(device), mode="nvfp4", global_scale=amax)
    here = gqmm.quantize(w, mode="nvfp4", global_scale=amax)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(parts, here))
    full = gqmm.dequantize(*here, mode="nvfp4", global_scale=amax, dtype=torch.float32)
    x = torch.randn(2, 1, 256)
    y = gqmm.gather_qmm(x.to(device), *parts, rhs_indices=torch.tensor([1, 0], device=device),
                        mode="nvfp4", global_scale=torch.full((2,), amax, device=device))
    assert torch.allclose(y.cpu(), x @ full[[1, 0]].mT, atol=1e-3)
    one = gqmm.Weights.from_mlx(*here, mode="nvfp4", global_scale=amax).to(device)
    assert torch.equal(one.dequantize(like=y).cpu(), full)


def block(device, dtype=torch.float32, tokens=7):
    torch.manual_seed(2)
    e, f, d, s = 6, 64, 96, 2
    gate, up, down = (gqmm.Weights.quantize(torch.randn(*shape) / 8, "q8_0").to(device)
                      for shape in ((e, f, d), (e, f, d), (e, d, f)))
    x = torch.randn(tokens, d).to(dtype).to(device)
    ids = torch.rand(tokens, e).argsort(1)[:, :s].to(device)
    return x, gate, up, down, ids, torch.rand(tokens, s).to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_moe(device, dtype, tokens):
    x, gate, up, down, ids, share = block(device, dtype, tokens)
    g, u, dn = (w.dequantize(like=x).double() for w in (gate, up, down))

    def plain(ids, share):
        h = torch.einsum("td,tsfd->tsf", x.double(), g[ids])
        h = h * torch.sigmoid(h) * torch.einsum("td,tsfd->tsf", x.double(), u[ids])
        return torch.einsum("tsf,tsdf,ts->td", h, dn[ids], share.double())

    def near(y, want):
        error = ((y.double() - want) ** 2).sum() / (want**2).sum()
        return float(error) < (1e-4 if dtype == torch.bfloat16 else 1e-10)

    for _ in range(2):
        y = gqmm.moe(x, gate, up, down, ids=ids, weights=share)
        assert y.dtype == dtype and near(y, plain(ids, share))
    assert torch.equal(gqmm.moe(x, gate, up, down, ids=ids.int(), weights=share.double()), y)
    router = torch.randn(6, 96, device=device)
    for _ in range(2):
        y, chosen, weights = gqmm.moe(x, gate, up, down, router=router, n_slots=2,
                                      return_routing=True)
        assert torch.equal(chosen.long(), (x.float() @ router.T).topk(2).indices)
        assert near(y, plain(chosen.long(), weights))
        assert torch.equal(gqmm.moe(x, gate, up, down, router=router, n_slots=2), y)
    strided = torch.zeros(tokens, 2, 96, dtype=dtype, device=device)
    strided[:, 0] = x
    assert torch.equal(gqmm.moe(strided[:, 0], gate, up, down, router=router, n_slots=2), y)
    shared = gqmm.moe(x, gate, up, down, router=router, n_slots=2, shared_gate=router[None] / 8,
                      shared_up=router[None] / 8, shared_down=router.T.contiguous()[None])
    assert shared.shape == y.shape and not torch.equal(shared, y)


def test_a_router_that_changes_is_read_again(device):
    x, gate, up, down, _, _ = block(device)
    router, bias = torch.randn(6, 96, device=device), torch.zeros(6, device=device)
    how = dict(n_slots=2, scoring="sigmoid", return_routing=True)
    gqmm.moe(x, gate, up, down, router=router, router_bias=bias, **how)
    router.neg_()
    bias[3] = 100.0
    _, ids, _ = gqmm.moe(x, gate, up, down, router=router, router_bias=bias, **how)
    want = ((x @ router.T).sigmoid() + bias).topk(2).indices
    assert torch.equal(ids.long(), want) and bool((ids[:, 0] == 3).all())
    wide = torch.randn(96, 6, device=device)  # a router that must be copied
    for _ in range(2):
        wide.neg_()
        _, ids, _ = gqmm.moe(x, gate, up, down, router=wide.T, n_slots=2, return_routing=True)
        assert torch.equal(ids.long(), (x @ wide).topk(2).indices)


def test_sizes_of_zero(device):
    q = [a.to(device) for a in gqmm.quantize(torch.randn(4, 8, 64))]
    none = torch.zeros(0, 5, dtype=torch.int32, device=device)
    x = torch.randn(5, 1, 64, device=device)
    assert gqmm.gather_qmm(x, *q, rhs_indices=none).shape == (0, 5, 1, 8)
    assert gqmm.quantized_matmul(x[:0], *[a[0] for a in q]).shape == (0, 1, 8)
    y = gqmm.gather_qmm(x, *q, rhs_indices=torch.tensor([0, -1, 2, -1, 3], device=device))
    assert not y[1].any() and not y[3].any() and y[0].any()


def test_rows_at_two_strides(device):
    """One matrix, and rows of x that no single stride reaches."""
    q = [a.to(device) for a in gqmm.quantize(torch.randn(8, 64))]
    wide = torch.randn(3, 4, 2, 64, device=device)
    x = wide[:, :3, 0]
    assert torch.equal(gqmm.quantized_matmul(x, *q),
                       gqmm.quantized_matmul(x.contiguous(), *q))


def test_memory_is_given_back(cuda):
    q = [a.cuda() for a in gqmm.quantize(torch.randn(8, 64, 256))]
    x, ids = torch.randn(300, 1, 256, device=cuda), torch.randint(0, 8, (300,), device=cuda)
    y = gqmm.gather_qmm(x, *q, rhs_indices=ids)
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        y = gqmm.gather_qmm(x, *q, rhs_indices=ids)
    assert torch.cuda.memory_allocated() == before and y.shape == (300, 1, 64)


def test_what_lies_elsewhere(cuda):
    q = gqmm.quantize(torch.randn(4, 8, 64))
    there = [a.cuda() for a in q]
    x, ids = torch.randn(2, 1, 64), torch.tensor([1, 2])
    made = gqmm.Weights.from_mlx(*q)
    wrong = [
        (x.cuda(), q, ids.cuda()), (x, there, ids), (x.cuda(), there, ids), (x, q, ids.cuda()),
        (x.cuda(), (there[0], q[1], there[2]), ids.cuda()), (x.cuda(), (made,), ids.cuda()),
        (x, (made.to("cuda"),), ids)]
    for a, w, i in wrong:
        with pytest.raises(ValueError, match="cuda:0"):
            gqmm.gather_qmm(a, *w, rhs_indices=i)
    for x_there, w, ids_there in ((True, made.to("cuda"), True), (False, made, False)):
        a, i = (x.cuda() if x_there else x), (ids.cuda() if ids_there else ids)
        gqmm.gather_qmm(a, w, rhs_indices=i)  # a plan that ids of elsewhere must not follow
        with pytest.raises(ValueError, match="cuda:0"):
            gqmm.gather_qmm(a, w, rhs_indices=i.cpu() if ids_there else i.cuda())
    with pytest.raises(ValueError, match="context is of cpu"):
        gqmm.gather_qmm(x.cuda(), *there, rhs_indices=ids.cuda(), context=gqmm.Context(threads=1))
    with pytest.raises(ValueError, match="cuda:0"):
        gqmm.embed(gqmm.Weights.quantize(torch.randn(8, 64), "q8_0"), ids.cuda())
    with pytest.raises(ValueError, match="none of cpu, cuda"):
        made.to("mps")
    with pytest.raises(gqmm.Error):
        gqmm.Context(device="cuda:99")
