# SPDX-License-Identifier: MIT
"""What only CUDA has: streams, graphs, compiled graphs, bad ids, CuPy and JAX."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import gqmm  # noqa: E402
import gqmm.torch as gt  # noqa: E402


@pytest.fixture(autouse=True)
def still(cuda):
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def problem():
    """(x, parts, ids, the result), with few pairs and no workspace."""
    q = [a.cuda() for a in gqmm.quantize(torch.randn(4, 32, 64))]
    x, ids = torch.randn(5, 1, 1, 64).cuda(), torch.randint(0, 4, (5, 2)).cuda()
    return x, q, ids, gqmm.gather_qmm(x, *q, rhs_indices=ids)


@pytest.fixture
def larger():
    """The same with sorted pairs and a workspace."""
    w = gqmm.Weights.quantize(torch.randn(4, 96, 256).cuda() / 16, "q8_0")
    x, ids = torch.randn(200, 1, 1, 256).cuda(), torch.randint(0, 4, (200, 2)).cuda()
    return x, w, ids, gqmm.gather_qmm(x, w, rhs_indices=ids)


def captured(run, stream=None):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        y = run()
    return graph, y


@pytest.mark.parametrize("warm", [False, True])
def test_graphs(problem, larger, warm):
    """Also where the very first call of a kind, and the first on its stream, is in the graph."""
    for x, w, ids, want in (problem, larger):
        parts = w if isinstance(w, list) else [w]
        run = lambda: gqmm.gather_qmm(x, *parts, rhs_indices=ids)  # noqa: E731
        if not warm:
            w = gqmm.Weights.from_mlx(*parts) if len(parts) > 1 else parts[0]
            parts = [w]
            w._plans.clear()
        graph, y = captured(run, torch.cuda.Stream())
        y.zero_()
        graph.replay()
        assert torch.equal(y, want)
        x.mul_(2)
        ids.copy_(ids.flip(0))
        graph.replay()
        assert torch.equal(y, gqmm.gather_qmm(x, *parts, rhs_indices=ids))


def test_graph_of_a_block():
    gate, up, down = (gqmm.Weights.quantize(torch.randn(*s).cuda() / 8, "q8_0")
                      for s in ((4, 64, 96), (4, 64, 96), (4, 96, 64)))
    router = torch.randn(4, 96).cuda()
    for tokens in (1, 150):
        x = torch.randn(tokens, 96).cuda()
        run = lambda: gqmm.moe(x, gate, up, down, router=router, n_slots=2,  # noqa: E731
                               return_routing=True)
        graph, made = captured(run)
        for _ in range(3):
            x.copy_(torch.randn(tokens, 96).cuda())
            graph.replay()
            assert all(torch.equal(a, b) for a, b in zip(made, run()))


def test_ids_made_in_a_graph_are_not_kept(problem):
    """lhs is counted out by gqmm: a plan of a capture must not keep memory of the graph's pool."""
    x, q, ids, want = problem
    made = gqmm.Weights.from_mlx(*q)
    graph, y = captured(lambda: gqmm.gather_qmm(x, made, rhs_indices=ids))
    before = gqmm.gather_qmm(x, made, rhs_indices=ids)
    assert torch.equal(before, want)
    graph.replay()
    assert torch.equal(y, want)
    del graph, y
    torch.cuda.empty_cache()
    torch.full((4096,), 7, device="cuda")
    assert torch.equal(gqmm.gather_qmm(x, made, rhs_indices=ids), want)


def test_calls_wait_for_nothing(larger):
    """While a stream is busy the call returns, and its result follows what is ahead of it."""
    x, w, ids, _ = larger
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        gqmm.gather_qmm(x, w, rhs_indices=ids)
        torch.cuda._sleep(200_000_000)  # a tenth of a second
        x.mul_(3)
        y = gqmm.gather_qmm(x, w, rhs_indices=ids)
        assert not stream.query()
    stream.synchronize()
    assert torch.equal(y, gqmm.gather_qmm(x, w, rhs_indices=ids))


def test_streams_and_threads(problem, larger):
    wrong, start = [], threading.Barrier(6)

    def work(t):
        x, w, ids, want = larger if t % 2 else problem
        parts = w if isinstance(w, list) else [w]
        start.wait()
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(100):
                y = gqmm.gather_qmm(x, *parts, rhs_indices=ids)
            torch.cuda.current_stream().synchronize()
            if not torch.equal(y, want):
                wrong.append(t)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(t,)) for t in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_context_of_ones_own(larger):
    x, w, ids, want = larger
    context = gqmm.Context(device="cuda")
    assert "cuda:0" in repr(context)
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            y = gqmm.gather_qmm(x, w, rhs_indices=ids, context=context)
            assert torch.equal(y, want)
    context.synchronize()
    assert "sorted" in context.explain()
    del context
    old = gqmm.torch._contexts.copy()
    gqmm.set_default_context(gqmm.Context(device="cuda:0"))
    try:
        assert torch.equal(gqmm.gather_qmm(x, w, rhs_indices=ids), want)
    finally:
        gqmm.torch._contexts.clear()
        gqmm.torch._contexts.update(old)


def test_bad_ids_are_told_later(problem):
    x, q, ids, want = problem
    ids[3, 1] = 9
    y = gqmm.gather_qmm(x, *q, rhs_indices=ids)
    assert not y[3, 1].any() and torch.equal(y[:3], want[:3])
    with pytest.raises(gqmm.RangeError, match="expert id"):
        gqmm.synchronize("cuda")
    gqmm.synchronize()  # told once


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_compiled(mode):
    """One graph for inductor; then in CUDA graphs of torch's making."""
    experts = gt.QuantizedExperts(torch.randn(4, 64, 32).cuda(), torch.randn(4, 32, 32).cuda(),
                                  "q8_0")
    linear = gt.QuantizedLinear(torch.randn(32, 32).cuda(), torch.randn(32).cuda(), "q8_0")

    def layer(x, ids, w):
        return torch.relu(linear(experts(x, ids, w))) + 1

    try:
        compiled = torch.compile(layer, fullgraph=True, mode=mode)
        for n in range(4):
            x, ids, w = (torch.randn(5, 32).cuda(), torch.randint(0, 4, (5, 2)).cuda(),
                         torch.rand(5, 2).cuda())
            got = compiled(x, ids, w).clone()
            assert torch.allclose(got, layer(x, ids, w), atol=1e-5)
    except Exception as why:
        if "InductorError" not in repr(type(why)) and "Triton" not in repr(type(why)):
            raise
        pytest.skip(f"inductor does not work here: {str(why)[:80]}")


def test_modules_move():
    linear = torch.nn.Linear(256, 32)
    layer = gt.QuantizedLinear.from_linear(linear, "q6_k")
    x = torch.randn(3, 256)
    want = layer(x)
    moved = layer.cuda()
    assert torch.allclose(moved(x.cuda()).cpu(), want, atol=1e-4)
    assert moved.weight.plane0.is_cuda
    there = gt.QuantizedLinear.from_linear(linear.cuda(), "q6_k")
    assert torch.equal(there.weight.plane0, moved.weight.plane0)


@pytest.mark.parametrize("kind", ["qwen3moe", "gpt-oss"])
def test_models_of_transformers(kind):
    from test_torch import model_of

    model = model_of(kind)
    ids = torch.randint(0, 96, (2, 7))
    gt.quantize_model(model, experts="q8_0", linears="q8_0")
    want = model(ids).logits
    got = model.cuda()(ids.cuda()).logits.cpu()
    assert torch.allclose(got, want, atol=2e-3 * want.abs().max())
    fresh = model_of(kind).cuda()
    done = gt.quantize_model(fresh, experts="q8_0", linears="q8_0")
    assert "q8_0" in done.values()
    half = fresh.bfloat16()(ids.cuda()).logits
    assert bool(half.isfinite().all())


def test_gguf_on_the_device(story):
    file = gqmm.load(story)
    here = [file[f"blk.0.ffn_{n}_exps.weight"] for n in ("gate", "up", "down")]
    there = [w.to("cuda") for w in here]
    x = torch.randn(4, 256)
    router = torch.from_numpy(np.array(file["blk.0.ffn_gate_inp.weight"]))
    want = gqmm.moe(x, *here, router=router, n_slots=2)
    got = gqmm.moe(x.cuda(), *there, router=router.cuda(), n_slots=2)
    assert torch.allclose(got.cpu(), want, atol=1e-4)


def test_cupy(problem):
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    x, q, ids, want = problem
    there = [cupy.asarray(a) for a in (x, *q, ids)]
    y = gqmm.gather_qmm(there[0], *there[1:4], rhs_indices=there[4])
    assert isinstance(y, cupy.ndarray) and (y.get() == want.cpu().numpy()).all()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for i in (there[4].astype(cupy.int32), there[4][::-1], there[4].astype(cupy.uint8)):
            y = gqmm.gather_qmm(there[0], *there[1:4], rhs_indices=i)
        stream.synchronize()
    assert (y.get() == want.cpu().numpy()).all()
    parts = gqmm.quantize(cupy.ones((4, 64), cupy.float32), mode="mxfp8")
    assert (gqmm.dequantize(*parts, mode="mxfp8", dtype="float32") == 1).all()
    w = gqmm.Weights.quantize(cupy.ones((4, 256), cupy.float32), "q4_k")
    assert w.device == "cuda:0" and isinstance(w.dequantize(), cupy.ndarray)
    mixed = gqmm.gather_qmm(x, *there[1:4], rhs_indices=there[4])  # torch's x
    torch.cuda.synchronize()
    assert torch.equal(mixed, want)


def test_jax(problem, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if jax.devices()[0].platform not in ("gpu", "cuda"):
        pytest.skip("jax has no CUDA here")
    x, q, ids, want = problem
    there = [jax.device_put(a.cpu().numpy()) for a in (x, *q, ids.int())]
    for _ in range(2):
        y = gqmm.gather_qmm(there[0] * 1, *there[1:4], rhs_indices=there[4])
        assert "jax" in type(y).__module__ and (np.asarray(y) == want.cpu().numpy()).all()
    z = gqmm.gather_qmm(there[0] * 2, *there[1:4], rhs_indices=there[4])
    assert (np.asarray(y) == want.cpu().numpy()).all() and not (np.asarray(z) == y).all()
    codes, scales = gqmm.quantize(there[0][:, 0, 0], mode="mxfp8")
    assert gqmm.dequantize(codes, scales, mode="mxfp8").dtype == "bfloat16"
    with pytest.raises(TypeError, match="inside jit"):
        jax.jit(lambda a: gqmm.gather_qmm(a, *there[1:4], rhs_indices=there[4]))(there[0])


def test_bench_on_the_device():
    rows = gqmm.bench("moe", (4, 64, 256, 2), "q8_0", (1, 200), seconds=0.01, device="cuda")
    assert [r["device"] for r in rows] == ["cuda:0"] * 2 and all(r["us"] > 0 for r in rows)


def test_scripts(story):
    from test_docs import run

    out = run(["bench/python_cuda.py", "--rounds", "2", "--json"])
    assert out.count('"graph"') == 8 and '"host"' in out
    out = run(["python/examples/torch_user.py", "30", "cuda"], ["transformers", "tokenizers"])
    assert "\nthe same text\n" in out
