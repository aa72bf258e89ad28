# SPDX-License-Identifier: MIT
"""Weights of every format, int4 against torch, files good and broken, the block."""

import gc

import numpy as np
import pytest

import gqmm

from conftest import ROOT


@pytest.mark.parametrize("name", [f for f in gqmm.formats()
                                  if not f.startswith("affine") or "g64" in f])
def test_every_format(rng, name):
    w = rng.standard_normal((3, 8, 256)).astype(np.float32)
    made = gqmm.Weights.quantize(w, name)
    assert made.shape == (3, 8, 256) and made.format == name and name in repr(made)
    assert made.nbytes * 8 == made.bits_per_weight * w.size
    assert gqmm.format_info(name)["bits_per_weight"] == made.bits_per_weight
    d = made.dequantize()
    assert ((d - w) ** 2).sum() / (w**2).sum() < 0.2
    x = rng.standard_normal((4, 1, 256)).astype(np.float32)
    ids = np.array([2, 0, 1, 2])
    y = gqmm.gather_qmm(x, made, rhs_indices=ids)
    assert np.allclose(y, x @ d.swapaxes(1, 2)[ids], atol=1e-3)
    assert np.allclose(gqmm.gather_qmm(x[..., :8], made, rhs_indices=ids, transpose=False),
                       x[..., :8] @ d[ids], atol=1e-3)
    assert (gqmm.embed(gqmm.Weights.quantize(w[0], name), np.array([[1, -1]])) ==
            np.stack([d[0, 1], 0 * d[0, 1]])).all()


def test_int4_is_torch(torch, rng):
    """torch packs and multiplies the same layout: low nibble even, (q - 8) * scale, bf16."""
    for group in (32, 64, 128):
        q = torch.from_numpy(rng.integers(0, 16, (2, 8, 256)).astype(np.uint8))
        scales = torch.from_numpy(rng.random((2, 8, 256 // group)).astype(np.float32)).bfloat16()
        packed = q[..., ::2] | (q[..., 1::2] << 4)
        want = (q.float() - 8) * scales.float().repeat_interleave(group, -1)
        made = gqmm.Weights.from_int4(packed, scales)
        assert made.format == f"int4_g{group}"
        assert torch.equal(made.dequantize(like=packed), want)
        x = torch.from_numpy(rng.standard_normal((2, 3, 256)).astype(np.float32))
        assert torch.allclose(gqmm.quantized_matmul(x, made), x @ want.mT, atol=1e-3)
    with pytest.raises(ValueError, match="bfloat16"):
        gqmm.Weights.from_int4(packed, scales.float())


def test_repack_and_blocks(rng):
    w = gqmm.Weights.quantize(rng.standard_normal((2, 8, 256)).astype(np.float32), "q4_k")
    planes = w.repack("affine4_g32_f32")
    assert np.allclose(planes.dequantize(), w.dequantize(), atol=1e-6)
    raw = w._matrix.owner[0][0].tobytes()
    again = gqmm.Weights.from_blocks("q4_k", raw, 8, 256)
    assert again.shape == (2, 8, 256) and (again.dequantize() == w.dequantize()).all()
    with pytest.raises(ValueError, match="no whole number"):
        gqmm.Weights.from_blocks("q4_k", raw[:-1], 8, 256)
    with pytest.raises(ValueError, match="unknown; known are"):
        gqmm.Weights.quantize(np.zeros((8, 256), np.float32), "q9")
    with pytest.raises(gqmm.Error):
        planes.repack("q4_k")


def test_importance(rng):
    w, imp = rng.standard_normal((16, 256)), rng.random(256).astype(np.float32) ** 4
    errors = [((gqmm.Weights.quantize(w.astype(np.float32), "q3_k", importance=i).dequantize()
                - w) ** 2 @ imp).sum() for i in (None, imp)]
    assert errors[1] < errors[0]


def test_gguf_in_place(story):
    file = gqmm.load(story)
    assert file.kind == "gguf" and file.metadata["general.architecture"] == "qwen3moe"
    assert "stories" in repr(file) and len(file) == len(list(file))
    name = "blk.0.ffn_gate_exps.weight"
    made = file[name]
    assert made.shape == (12, 256, 256) and made.format == "q4_k"
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    reader = gguf.GGUFReader(str(story))
    for t in reader.tensors:
        want = gguf.quants.dequantize(t.data, t.tensor_type)
        got = file[t.name]
        got = got.dequantize() if isinstance(got, gqmm.Weights) else got
        assert np.array_equal(got.reshape(want.shape), want), t.name
    same = gqmm.Weights.from_gguf(story, name)
    want = made.dequantize()
    del file, made
    gc.collect()
    assert (same.dequantize() == want).all()
    with pytest.raises(KeyError):
        gqmm.Weights.from_gguf(story, "blk.99.none")


def test_arrays_of_a_file_keep_it_open(story):
    a = gqmm.load(story)["output_norm.weight"]
    gc.collect()
    assert a.dtype == np.float32 and a.shape == (256,) and np.isfinite(a).all()
    with pytest.raises(ValueError):
        a[0] = 1


def test_safetensors(tmp_path, rng):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    w = rng.standard_normal((4, 8, 64)).astype(np.float32)
    q, s, b = gqmm.quantize(w, group_size=32)
    numpy.save_file({"e.weight": q, "e.scales": s, "e.biases": b, "plain": w},
                    tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"quantization": {"group_size": 32, "bits": 4}}')
    file = gqmm.load(tmp_path / "m.safetensors")
    made = file.weights("e")
    assert made.format == "affine4_g32_f32" and made.shape == (4, 8, 64)
    assert (made.dequantize() == gqmm.dequantize(q, s, b, 32)).all()
    assert (file["plain"] == w).all() and (file.weights("plain").dequantize() == w).all()


def test_broken_files(tmp_path, story):
    bytes_ = story.read_bytes()
    for cut in (3, 30, 5000, len(bytes_) - 1):
        path = tmp_path / f"cut{cut}.gguf"
        path.write_bytes(bytes_[:cut])
        with pytest.raises(gqmm.Error) as e:
            gqmm.load(path)
        assert e.value.status_name == "GQMM_E_FORMAT" and len(str(e.value)) > 15
    path = tmp_path / "count.gguf"
    path.write_bytes(bytes_[:8] + b"\xff" * 8 + bytes_[16:])
    with pytest.raises(gqmm.Error) as e:
        gqmm.Weights.from_gguf(path, "output.weight")
    assert e.value.offset == 8 and "18446744073709551615" in str(e.value)
    with pytest.raises(gqmm.Error, match="No such file"):
        gqmm.load(tmp_path / "none.gguf")


def test_moe_is_its_parts(rng):
    e, f, d, s, t = 6, 64, 96, 2, 7
    w = [rng.standard_normal(shape).astype(np.float32) / 8
         for shape in ((e, f, d), (e, f, d), (e, d, f))]
    gate, up, down = (gqmm.Weights.quantize(a, "q8_0") for a in w)
    x = rng.standard_normal((t, d)).astype(np.float32)
    router = rng.standard_normal((e, d)).astype(np.float32)
    y, ids, weights = gqmm.moe(x, gate, up, down, router=router, n_slots=s, return_routing=True)
    logits = x @ router.T
    order = np.argsort(-logits, 1)[:, :s]
    assert (ids == order).all()
    top = np.exp(np.take_along_axis(logits, order, 1))
    assert np.allclose(weights, top / top.sum(1, keepdims=True), atol=1e-5)
    g, u, dn = (a.dequantize() for a in (gate, up, down))
    want = np.zeros_like(x)
    for i in range(t):
        for j in range(s):
            a, b = g[ids[i, j]] @ x[i], u[ids[i, j]] @ x[i]
            want[i] += weights[i, j] * (dn[ids[i, j]] @ (a / (1 + np.exp(-a)) * b))
    assert np.allclose(y, want, atol=1e-4)
    assert np.array_equal(gqmm.moe(x, gate, up, down, ids=ids.astype(np.int64),
                                   weights=weights.astype(np.float64)), y)
    both = gqmm.Weights.quantize(np.concatenate(w[:2], 1), "q8_0")
    assert np.allclose(gqmm.moe(x, both, None, down, ids=ids, weights=weights), y, atol=1e-5)
    wide = np.zeros((t, 2, d), np.float32)
    wide[:, 0] = x
    assert np.array_equal(gqmm.moe(wide[:, 0], gate, up, down, ids=ids, weights=weights), y)
    for bad in (dict(ids=ids), dict(ids=ids[:3], weights=weights), dict(router=router),
                dict(ids=ids, weights=weights, precision="fast")):
        with pytest.raises((TypeError, ValueError)):
            gqmm.moe(x, gate, up, down, **bad)
    with pytest.raises(ValueError, match="rows of 96"):
        gqmm.moe(x, down, None, gate, ids=ids, weights=weights)


def test_bench_and_info():
    rows = gqmm.bench("gather_qmm", (4, 32, 256, 2), ["q4_k", "affine4_g64_f16"], (1, 4),
                      seconds=0.01)
    assert len(rows) == 4 and {r["format"] for r in rows} == {"q4_k", "affine4_g64_f16"}
    assert all(r["us"] >= r["us_min"] > 0 for r in rows)
    assert {r["device"] for r in rows} == {"cpu"}
    info = gqmm.info()
    if not info["cuda"].startswith("cuda:0"):  # it loads, and says why there is no device
        with pytest.raises(gqmm.Error, match="CUDA"):
            gqmm.Context(device="cuda:0")
    assert info["version"] == gqmm.__version__ and "threads" in repr(info)
    with pytest.raises(ValueError, match="known are"):
        gqmm.bench(shape="nothing")


def test_version_is_the_header():
    text = (ROOT / "include" / "gqmm.h").read_text()
    for part, number in zip(("MAJOR", "MINOR", "PATCH"), gqmm.__version__.split(".")):
        assert f"GQMM_VERSION_{part} {number}\n" in text
