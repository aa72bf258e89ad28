# SPDX-License-Identifier: MIT
"""What the tests share. Examples are the same in each run; GQMM_FRESH=1 draws new ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import gqmm

settings.register_profile("check", deadline=None, derandomize=not os.environ.get("GQMM_FRESH"),
                          max_examples=int(os.environ.get("GQMM_EXAMPLES", "60")),
                          suppress_health_check=list(HealthCheck))
settings.load_profile("check")

# The tests may be a copy: tests/check_python.sh keeps the source tree out of sys.path.
ROOT = Path(os.environ.get("GQMM_SOURCE") or Path(__file__).resolve().parents[2])


ONE = gqmm.Context(threads=1)


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny calls: a pool would wait for the machine's other work again and again."""
    gqmm.set_default_context(ONE)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def mx():
    return pytest.importorskip("mlx.core", reason="mlx is not installed")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def no_cuda():
    """Why tests on CUDA cannot run here; empty if they can."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        return "torch has no CUDA here"
    line = gqmm.info()["cuda"]
    return "" if line.startswith("cuda:0") else f"gqmm: {line}"


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Where torch's tensors lie."""
    if request.param == "cuda" and no_cuda():
        pytest.skip(no_cuda())
    return request.param


@pytest.fixture
def cuda():
    if no_cuda():
        pytest.skip(no_cuda())
    yield "cuda"
    gqmm.synchronize()  # a bad id that no test expected


@pytest.fixture
def story():
    """The model in models/, a GGUF file of true weights."""
    path = ROOT / "models" / "stories-q4_k_m.gguf"
    if not path.exists():
        pytest.skip("models/stories-q4_k_m.gguf is not here")
    return path
