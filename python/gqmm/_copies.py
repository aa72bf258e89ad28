# SPDX-License-Identifier: MIT
"""Copies between the host and CUDA devices; they wait until they are done."""

from __future__ import annotations

from typing import Any, Tuple

from . import _abi
from ._context import context_of
from ._frames import View, view


def moved(at: int, shape: Tuple[int, int, int], strides: Tuple[int, int], source: Tuple[Any, Any],
          target: Tuple[Any, Any]) -> View:
    """Rows of bytes [E, N, bytes] with the strides of experts and of rows, as a new dense array.
    source and target: (frame, device)."""
    e, n, size = shape
    out, to = target[0].empty(shape, "uint8", target[1])
    if strides == (n * size, size):
        parts = [(0, 0, e * n * size)]
    else:
        parts = [(i * strides[0] + j * strides[1], (i * n + j) * size, size)
                 for i in range(e) for j in range(n)]
    if source[1] is not None:
        source[0].wait(source[1])
    context = context_of(*(target if target[1] is not None else source)[::-1])
    with context._lock:
        for begin, end, count in parts:
            _abi.call("gqmm_device_copy", context._handle, to + end, at + begin, count)
        _abi.call("gqmm_synchronize", context._handle)
    return view(out)
