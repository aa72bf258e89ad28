# SPDX-License-Identifier: MIT
"""Index arguments of gather_qmm, flattened to what the C library takes: an address and a stride."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np

from ._frames import INTS, View, frame_of, one_stride


class Ids:
    """One index argument: address, stride in int32 (-1: one id for all), what keeps the memory."""

    __slots__ = ("at", "stride", "keep")

    def __init__(self, at: int, stride: int, keep: Any):
        self.at, self.stride, self.keep = at, stride, keep


def check_ids(tag: str, name: str, v: View) -> None:
    if v.dtype not in INTS:
        raise ValueError(f"[{tag}] {name} must be integers, got {v.dtype}")


def given_ids(v: View, out: Tuple[int, ...]) -> Optional[Ids]:
    """The ids where they lie, if a stride can say it. Of 64-bit ids the low halves are read, which
    is the cast to 32 bits that MLX does."""
    if v.dtype not in ("int32", "uint32", "int64", "uint64") or v.at % 4:
        return None
    if v.size == 1:
        return Ids(v.at, -1, v.owner)
    if v.shape != out:
        return None
    stride = one_stride(v.shape, [s // 4 for s in v.strides])
    if stride is None or stride < 1:
        return None
    return Ids(v.at, stride, v.owner)


def spread_ids(v: View, out: Tuple[int, ...]) -> Ids:
    """The ids copied, broadcast and dense."""
    return _dense(frame_of(v.owner), frame_of(v.owner).spread(v.owner, out))


def default_ids(frame: Any, batch: Tuple[int, ...], out: Tuple[int, ...],
                device: Optional[int]) -> Optional[Ids]:
    """0, 1, 2, ... over the batch, broadcast; None where nothing is broadcast."""
    n = int(np.prod(batch, dtype=np.int64))
    if batch == out or n == np.prod(out, dtype=np.int64):
        return None
    if n == 1:
        return one_id(frame, device)
    return _dense(frame, frame.count(batch, out, device))


def one_id(frame: Any, device: Optional[int]) -> Ids:
    """0 for all pairs."""
    if device is None:
        return Ids(_ZERO.ctypes.data, -1, _ZERO)
    ids = _dense(frame, frame.count((1,), (1,), device))
    ids.stride = -1
    return ids


def _dense(frame: Any, a: Any) -> Ids:
    v = frame_of(a).view(a)
    return Ids(v.at, 1, (a, v.keep))


_ZERO = np.zeros(1, np.int32)
