# SPDX-License-Identifier: MIT
"""What the scripts of this directory share: shapes, data, routing, statistics, the machine."""

import os
import platform
import re
import statistics
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

# A model file that is mapped has no huge pages either; read when numpy is loaded.
os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "peers"))

Shape = namedtuple("Shape", "name experts ff hidden used heads kv_heads head_dim layers vocab")
TILE_WEIGHTS = 1 << 18
PIECE = 256


def shapes():
    """Name to Shape, from shapes.def, which the command includes too."""
    found = {}
    for line in (HERE / "shapes.def").read_text().splitlines():
        match = re.match(r'SHAPE\("([^"]+)",(.*?)\)', line)
        if match:
            found[match[1]] = Shape(match[1], *(int(v) for v in match[2].split(",")))
    return found


def find_shape(text):
    """A name of shapes.def or "E,N,K,top"."""
    if text in shapes():
        return shapes()[text]
    numbers = text.split(",")
    if len(numbers) != 4:
        raise SystemExit(f"there is no shape '{text}'; known are {', '.join(shapes())}")
    return Shape(text, *(int(v) for v in numbers), 0, 0, 0, 0, 0)


class Tile:
    """Gaussian weights quantised once by the library, of whose pieces rows are put together: the
    trick of cli/bench_tile.c."""

    def __init__(self, lib, ctx, name, k, rng):
        self.piece = PIECE
        while k % self.piece:
            self.piece //= 2
        self.per_row = k // self.piece
        x = rng.standard_normal((TILE_WEIGHTS // self.piece, self.piece), np.float32) / k**0.5
        self.planes = lib.quantize(ctx, name, x)

    def rows(self, rng, n):
        """Byte planes [n, bytes of a row], each at a multiple of 64 as ggml wants it."""
        at = rng.integers(0, len(self.planes[0]), n * self.per_row)
        out = []
        for plane in self.planes:
            rows = aligned((n, self.per_row * plane.shape[1]))
            np.take(plane, at, axis=0, out=rows.reshape(len(at), plane.shape[1]), mode="clip")
            out.append(rows)
        return out


def aligned(shape, dtype=np.uint8, to=64):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + to, np.uint8)
    start = -raw.ctypes.data % to
    return raw[start:start + size].view(dtype).reshape(shape)


def route(rng, n_tokens, n_experts, n_used, skewed):
    """Expert ids [T, S], distinct within a token, and weights that sum to 1."""
    law = 1 / np.arange(1, n_experts + 1) if skewed else np.ones(n_experts)
    # The n_used largest of log(law) + Gumbel noise are a draw without replacement.
    keys = np.log(law) + rng.gumbel(size=(n_tokens, n_experts))
    ids = np.argsort(-keys, axis=1)[:, :n_used]
    ids = rng.permutation(n_experts)[ids].astype(np.int32)
    weights = rng.random((n_tokens, n_used), np.float32) + np.float32(0.1)
    return np.ascontiguousarray(ids), weights / weights.sum(1, keepdims=True)


def nmse(got, want):
    got, want = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    return float(((got - want) ** 2).sum() / (want**2).sum())


def spread(values):
    values = np.sort(values)
    return float((np.quantile(values, 0.9) - np.quantile(values, 0.1)) / np.median(values))


def median(values):
    return statistics.median(values)


def cpu_name():
    try:
        match = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        return match[1] if match else platform.machine()
    except OSError:
        return platform.machine()


def cache_bytes():
    """The last-level cache of the first CPU; 32 MiB where the system does not tell."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
    return max(sizes, default=32 << 20)


def commit():
    """The commit of this checkout, "-dirty" after it where files differ; None outside of git."""
    done = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def machine():
    return {"cpu": cpu_name(), "cache_bytes": cache_bytes(), "system": platform.system(),
            "commit": commit()}


def default_threads():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def built(name):
    """A file of the build directory, which GQMM_BUILD names."""
    return str(Path(os.environ.get("GQMM_BUILD", HERE.parent / "build")) / name)


def need_file(path):
    if not Path(path).exists():
        raise SystemExit(f"there is no {path}; build first, or set GQMM_BUILD")
    return path
