# SPDX-License-Identifier: MIT
"""What is there, and how fast it is here."""

from __future__ import annotations

import ctypes as C
import importlib
import re
import statistics
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from . import _abi
from ._abi import HERE, lib
from ._block import moe
from ._context import Context, default_context, device_index
from ._frames import device_name
from ._product import gather_qmm
from ._weights import Weights


def shapes() -> Dict[str, Tuple[int, int, int, int]]:
    """{name: (E, F, D, S)} of the feed-forward blocks of real models."""
    path = HERE / "shapes.def"
    if not path.exists():  # an unpacked source tree
        path = HERE.parents[1] / "bench" / "shapes.def"
    rows = re.findall(r'^SHAPE\("([^"]+)",([^)]*)\)', path.read_text(), re.M)
    return {name: tuple(map(int, text.split(",")[:4])) for name, text in rows}  # type: ignore[misc]


def formats() -> List[str]:
    """The names of all weight formats: "q4_k", "affine4_g64_bf16", "mlx_nvfp4", "int4_g32" ..."""
    return _abi.format_names()


def format_info(name: str) -> Dict[str, Any]:
    """What a format is: weights in a block and in a group, bytes of a block in each plane."""
    f = _abi.format_info(name)
    return {
        "name": f.name.decode(), "summary": f.summary.decode(), "block": f.block_elems,
        "group": f.group_elems, "plane_bytes": list(f.plane_bytes[:f.n_planes]),
        "bits_per_weight": 8 * sum(f.plane_bytes[:f.n_planes]) / f.block_elems,
        "can_quantize": bool(f.can_quantize), "takes_importance": bool(f.takes_importance),
        "gguf_type": f.gguf_type if f.gguf_type >= 0 else None,
    }


def get_include() -> str:
    """The folder of gqmm.h, for programs in C; the library is libgqmm.so beside it."""
    return str(HERE / "include")


class Info(Dict[str, Any]):
    """A dict that prints as lines."""

    def __repr__(self) -> str:
        return "\n".join(f"{k:10} {v}" for k, v in self.items())


def info() -> Info:
    """Version, CPU, rooms of kernels, threads and CUDA devices of this machine."""
    context = default_context()
    rooms, i = [], 0
    while lib.gqmm_isa_at(i):
        room = lib.gqmm_isa_at(i)
        rooms.append(room.decode() + ("" if lib.gqmm_isa_available(room) else " (not here)"))
        i += 1
    return Info(version=lib.gqmm_version().decode(), library=lib._name,
                cpu=lib.gqmm_cpu_features().decode(), isa=context.isa, rooms=", ".join(rooms),
                threads=context.threads, formats=len(formats()),
                cuda="; ".join(_devices()) or _device_text("cuda"))


def _device_text(name: str) -> str:
    text = C.create_string_buffer(256)
    lib.gqmm_device_text(name.encode(), C.addressof(text), len(text))
    return text.value.decode()


def _devices() -> List[str]:
    """"cuda:0 NVIDIA H200, sm_90, ..." for each."""
    found, i = [], 1
    while lib.gqmm_device_at(i):
        name = lib.gqmm_device_at(i).decode()
        found.append(f"{name} {_device_text(name)}")
        i += 1
    return found


def _random_weights(rng: np.random.Generator, name: str, experts: int, rows: int,
                    cols: int) -> Weights:
    """Gaussian weights, really quantised: a few rows, of which all experts are put together."""
    few = min(rows, 64)
    x = (rng.standard_normal((few, cols)) / np.sqrt(cols)).astype(np.float32)
    one = Weights.quantize(x, name)
    del x
    planes = [h[0] for h in one._matrix.owner]
    choice = rng.integers(0, few, (experts, rows))
    return Weights.from_planes(name, [p[choice] for p in planes], cols)


def bench(op: str = "moe", shape: Union[str, Tuple[int, int, int, int]] = "qwen3-30b-a3b",
          formats: Union[str, Sequence[str]] = "q4_k", tokens: Sequence[int] = (1, 8, 64),
          precision: str = "exact", seconds: float = 0.5, seed: int = 0,
          context: Optional[Context] = None, device: Any = None) -> List[Dict[str, Any]]:
    """Times an operation, Python included: rows (dicts) for pandas.DataFrame.

    op      "moe" (the block) or "gather_qmm" (gate alone, F rows)
    shape   a name of gqmm.shapes() or (E, F, D, S)
    device  "cuda" or "cuda:1": torch tensors in bfloat16 there, a round of 8 calls waited for as
            one; else numpy arrays in float32
    result  a row for each format and number of tokens: us (median), us_min, spread (90th less
            10th percentile over the median), gbs (bytes of the experts touched, once each, per
            second), gflops, experts (touched)

    One layer of weights is used over and over: what fits in a cache is read from there. For cold
    weights and floors see `gqmm bench` of the command.
    """
    if op not in ("moe", "gather_qmm"):
        raise ValueError(f"op '{op}' is none of moe, gather_qmm")
    known = shapes()
    if isinstance(shape, str) and shape not in known:
        raise ValueError(f"shape '{shape}' is unknown; known are {', '.join(known)}")
    experts, ff, width, slots = known[shape] if isinstance(shape, str) else shape
    rng = np.random.default_rng(seed)
    put, wait = _placed(device)
    index = device_index(device)
    rows = []
    for name in [formats] if isinstance(formats, str) else formats:
        sizes = [(ff, width)] + ([(ff, width), (width, ff)] if op == "moe" else [])
        parts = [_random_weights(rng, name, experts, *size).to(device_name(index))
                 for size in sizes]
        gate = parts[0]
        for t in tokens:
            x = put(rng.standard_normal((t, width), np.float32), True)
            chosen = [np.argsort(rng.random((t, experts)), 1)[:, :slots].astype(np.int32)
                      for _ in range(8)]
            lists = [put(ids, False) for ids in chosen]
            share = put(np.full((t, slots), 1 / slots, np.float32), False)

            def once(ids: Any) -> None:
                if op == "moe":
                    moe(x, *parts, ids=ids, weights=share, precision=precision, context=context)
                else:
                    gather_qmm(x[:, None, None], gate, rhs_indices=ids, precision=precision,
                               context=context)

            us = _time(once, lists, seconds, wait)
            touched = statistics.mean(len(np.unique(ids)) for ids in chosen)
            moved = touched * sum(p.nbytes / p.n_experts for p in parts)
            sums = t * slots * sum(p.shape[1] * p.shape[2] for p in parts)
            mid = statistics.median(us)
            rows.append({
                "op": op, "shape": shape if isinstance(shape, str) else ",".join(map(str, shape)),
                "format": name, "tokens": t, "precision": precision, "device": gate.device,
                "threads": (context or default_context(device)).threads, "isa": gate.isa, "us": mid, "us_min": us[0],
                "spread": (us[len(us) * 9 // 10] - us[len(us) // 10]) / mid,
                "gbs": moved / mid / 1e3, "gflops": 2 * sums / mid / 1e3, "experts": touched,
                "repeats": len(us)})
    return rows


def _placed(device: Any) -> Tuple[Any, Any]:
    """What brings numpy arrays to a device, floats that x is made of in bfloat16, and what waits
    for it (None: calls are done when they return)."""
    index = device_index(device)
    if index is None:
        return (lambda a, is_x: a), None
    torch = importlib.import_module("torch")
    where = torch.device("cuda", index)

    def put(a: np.ndarray, is_x: bool) -> Any:
        return torch.from_numpy(a).to(where, torch.bfloat16 if is_x else None)

    return put, lambda: torch.cuda.synchronize(where)


def _time(once: Any, lists: List[Any], seconds: float, wait: Any) -> List[float]:
    """Microseconds of calls, in order of size."""
    rounds = [[ids] for ids in lists] if wait is None else [lists]
    wait = wait or (lambda: None)
    for ids in lists[:2]:
        once(ids)
    us: List[float] = []
    wait()
    end = time.perf_counter() + seconds
    while len(us) < 10 or (time.perf_counter() < end and len(us) < 100000):
        some = rounds[len(us) % len(rounds)]
        begin = time.perf_counter()
        for ids in some:
            once(ids)
        wait()
        us.append((time.perf_counter() - begin) * 1e6 / len(some))
        if len(us) >= 3 and time.perf_counter() > end + 10 * seconds:
            break
    return sorted(us)
