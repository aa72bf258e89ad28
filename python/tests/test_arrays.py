# SPDX-License-Identifier: MIT
"""Arrays of all packages, their lifetimes, threads, forks, leaks."""

import array
import gc
import os
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import gqmm
from gqmm._frames import one_stride, view


@pytest.fixture
def problem(rng):
    q = gqmm.quantize(rng.standard_normal((4, 8, 64)).astype(np.float32))
    x = rng.standard_normal((5, 1, 64)).astype(np.float32)
    ids = rng.integers(0, 4, 5).astype(np.int32)
    return q, x, ids, gqmm.gather_qmm(x, *q, rhs_indices=ids)


def test_torch(torch, problem):
    q, x, ids, want = problem
    t = [torch.from_numpy(a) for a in q]
    for kind in (torch.int32, torch.int64, torch.uint8):
        y = gqmm.gather_qmm(torch.from_numpy(x), *t, rhs_indices=torch.from_numpy(ids).to(kind))
        assert type(y) is torch.Tensor and (y.numpy() == want).all()
    y = gqmm.gather_qmm(torch.from_numpy(x), t[0].view(torch.int32), *t[1:],
                        rhs_indices=torch.from_numpy(ids))
    assert (y.numpy() == want).all()
    half = gqmm.quantized_matmul(torch.from_numpy(x[0]).bfloat16(), *[a[0].contiguous() for a in t])
    assert half.dtype == torch.float32  # bf16 activations, f32 scales
    codes, scales = gqmm.quantize(torch.from_numpy(x[0]), mode="mxfp8")
    assert codes.dtype == torch.uint32 and scales.dtype == torch.uint8
    assert gqmm.dequantize(codes, scales, mode="mxfp8").dtype == torch.bfloat16
    back = gqmm.dequantize(codes, scales, mode="mxfp8", dtype=torch.float16)
    assert back.dtype == torch.float16
    with pytest.raises(TypeError, match="meta"):
        gqmm.quantized_matmul(torch.empty(1, 64, device="meta"), *t)


def test_mlx(mx, problem):
    q, x, ids, want = problem
    y = gqmm.gather_qmm(mx.array(x), *map(mx.array, q), rhs_indices=mx.array(ids))
    assert isinstance(y, mx.array) and (np.array(y) == want).all()
    lazy = gqmm.gather_qmm(mx.array(x) * 2, *map(mx.array, q), rhs_indices=mx.array(ids))
    assert np.allclose(np.array(lazy), 2 * want, atol=1e-5)
    odd = mx.array(x.swapaxes(0, 2).copy()).swapaxes(0, 2)  # not dense
    assert (np.array(gqmm.gather_qmm(odd, *map(mx.array, q), rhs_indices=mx.array(ids))) ==
            want).all()
    b = gqmm.quantized_matmul(mx.array(x[0]).astype(mx.bfloat16),
                              *gqmm.quantize(mx.array(x[:, 0]).astype(mx.bfloat16)))
    assert b.dtype == mx.bfloat16


def test_jax(problem):
    jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")
    q, x, ids, want = problem
    y = gqmm.gather_qmm(jnp.asarray(x), *map(jnp.asarray, q), rhs_indices=jnp.asarray(ids))
    assert "jax" in type(y).__module__ and (np.asarray(y) == want).all()
    b = gqmm.quantized_matmul(jnp.asarray(x[0], jnp.bfloat16), *map(jnp.asarray, q[:0]),
                              gqmm.Weights.from_array(x[:, 0]))
    assert b.dtype == jnp.bfloat16


class Foreign:
    """A package of its own: nothing but DLPack."""

    def __init__(self, a):
        self.a, self.asked = a, 0

    def __dlpack__(self, **_):
        self.asked += 1
        return self.a.__dlpack__()

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


def test_dlpack_and_buffers(problem):
    q, x, ids, want = problem
    y = gqmm.gather_qmm(Foreign(x), *map(Foreign, q), rhs_indices=Foreign(ids))
    assert (y == want).all()
    strided = np.zeros((5, 2, 64), np.float32)
    strided[:, :1] = x
    assert (gqmm.gather_qmm(Foreign(strided[:, :1]), *q, rhs_indices=ids) == want).all()
    y = gqmm.gather_qmm(memoryview(x), *q, rhs_indices=array.array("i", ids.tolist()))
    assert (y == want).all()
    for wrong in ([1.0], None, 3, "text"):
        with pytest.raises(TypeError):
            gqmm.quantized_matmul(wrong, *[a[0] for a in q])


def test_types_that_numpy_has(problem):
    q, x, _, _ = problem
    one = [a[0] for a in q]
    for bad in (x.astype(np.float64), x.astype(">f4"), x.astype(np.complex64)):
        with pytest.raises(ValueError):
            gqmm.quantized_matmul(bad, *one)
    whole = gqmm.quantized_matmul(np.arange(64, dtype=np.int32)[None], *one)  # as MLX: promoted
    assert whole.dtype == np.float32


def test_unaligned_activations_are_copied(problem):
    q, x, ids, want = problem
    raw = np.zeros(x.nbytes + 1, np.uint8)
    off = raw[1:].view(np.float32).reshape(x.shape)
    off[...] = x
    for a in (x, off, x, off):
        assert (gqmm.gather_qmm(a, *q, rhs_indices=ids) == want).all()


def test_one_stride():
    assert one_stride((2, 3, 4), (48, 16, 4)) == 4
    assert one_stride((2, 1, 4), (16, 999, 4)) == 4
    assert one_stride((2, 3, 4), (96, 16, 4)) is None
    assert one_stride((1, 1), (7, 7)) == 0
    assert view(np.zeros((3, 0, 2), np.float32)).is_dense()


def test_weights_keep_their_memory(rng):
    w = rng.standard_normal((8, 64)).astype(np.float32)
    q = [a.copy() for a in gqmm.quantize(w)]
    gone = weakref.ref(q[0])
    made = gqmm.Weights.from_mlx(*q)
    want = made.dequantize()
    del q
    gc.collect()
    noise = [np.full(4096, 7, np.uint8) for _ in range(50)]
    assert gone() is not None and (made.dequantize() == want).all()
    del made, noise
    gc.collect()
    assert gone() is None


def test_torch_weights_outlive_a_swap(torch, rng):
    w = torch.nn.Parameter(torch.from_numpy(rng.standard_normal((8, 64)).astype(np.float32)))
    made = gqmm.Weights.from_array(w)
    want = made.dequantize()
    w.data = torch.zeros(8, 64)
    gc.collect()
    assert (made.dequantize() == want).all()


@pytest.mark.parametrize("own_contexts", [False, True])
def test_ten_threads(rng, own_contexts):
    gqmm.set_default_context(gqmm.Context(threads=2))
    q = gqmm.quantize(rng.standard_normal((16, 96, 256)).astype(np.float32))
    made = gqmm.Weights.from_mlx(*q)
    xs = [rng.standard_normal((n, 1, 256)).astype(np.float32) for n in range(1, 11)]
    ids = [rng.integers(0, 16, len(x)).astype(np.int32) for x in xs]
    want = [gqmm.gather_qmm(x, made, rhs_indices=i) for x, i in zip(xs, ids)]
    wrong, start = [], threading.Barrier(10)

    def work(t):
        context = gqmm.Context(threads=2) if own_contexts else None
        start.wait()
        for r in range(60):
            n = (t + r) % 10
            weights = (made,) if r % 2 else q
            y = gqmm.gather_qmm(xs[n], *weights, rhs_indices=ids[n], context=context)
            if not (y == want[n]).all():
                wrong.append((t, r))

    threads = [threading.Thread(target=work, args=(t,)) for t in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_other_threads_run_meanwhile():
    """The GIL is not held: while a long product runs, this thread counts."""
    w = gqmm.Weights.from_array(np.ones((2048, 2048), np.float32), gqmm.Context(isa="scalar"))
    x = np.ones((256, 2048), np.float32)
    context, counted, done = gqmm.Context(threads=1), [], threading.Event()

    def work():
        gqmm.quantized_matmul(x, w, context=context)
        done.set()

    t = threading.Thread(target=work)
    t.start()
    while not done.wait(0.005):
        counted.append(1)
    t.join()
    assert len(counted) >= 3


def test_a_forked_child_computes(rng):
    q = gqmm.quantize(rng.standard_normal((8, 64)).astype(np.float32))
    x = rng.standard_normal((3, 64)).astype(np.float32)
    want = gqmm.quantized_matmul(x, *q)
    child = os.fork()
    if child == 0:
        good = (gqmm.quantized_matmul(x, *q) == want).all()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_leaks(problem):
    """10^5 calls of each kind: references as before, memory as before."""
    q, x, ids, _ = problem
    made = gqmm.Weights.from_mlx(*q)
    things = [x, ids, made, *q]

    def many(n):
        for _ in range(n):
            gqmm.gather_qmm(x, made, rhs_indices=ids)
            gqmm.gather_qmm(x, *q, rhs_indices=ids)

    many(100)
    counts = [sys.getrefcount(a) for a in things]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    many(50_000)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert [sys.getrefcount(a) for a in things] == counts
    assert after - before < 20_000


def test_slow_paths_do_not_leak(problem):
    """Handles and copies that live for one call: the process does not grow."""
    q, x, ids, _ = problem
    backwards = x[:, :, ::-1]

    def many(n):
        for _ in range(n):
            gqmm.gather_qmm(backwards, *q, rhs_indices=ids)
            gqmm.dequantize(*q)
            gqmm.quantize(x)
            gqmm.Weights.from_mlx(*q)
            with pytest.raises(ValueError):
                gqmm.quantized_matmul(x, q[0], q[1][:1], q[2])

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    many(300)
    before = resident()
    many(3000)
    assert resident() - before < 4 << 20
    assert len(gqmm.default_context()._plans) < 4096
