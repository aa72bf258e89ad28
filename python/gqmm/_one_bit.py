# SPDX-License-Identifier: MIT
"""MLX's affine codes of one bit. The C library has no format of them: they are computed with as
codes of two bits, which are a copy of twice the size and give the same weights, bit for bit."""

from __future__ import annotations

import ctypes as C
import importlib
from typing import Any, List, Optional

import numpy as np

from ._copies import moved
from ._frames import NUMPY, View, frame_of


def widened(a: Any) -> Any:
    """uint32 words of 32 codes each as twice as many words of 16 codes."""
    frame = frame_of(a)
    if frame.name == "torch":
        torch = importlib.import_module("torch")
        whole = a.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        return _spread(whole, torch.stack).to(torch.int32).view(torch.uint32)
    if frame.view(a).device is None:
        return _spread(frame.view(a).numpy(), np.stack)
    module = importlib.import_module("jax.numpy" if frame.name == "jax" else frame.name)
    return _spread(a, module.stack)


def _spread(x: Any, stack: Any) -> Any:
    """Bit i of a word becomes bit 2 i of two words."""
    halves: List[Any] = []
    for h in (x & 0xFFFF, x >> 16):
        for by, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
            h = (h | h << by) & mask
        halves.append(h)
    return stack(halves, -1).reshape(*x.shape[:-1], 2 * x.shape[-1])


def quantized(v: View, group: int) -> List[np.ndarray]:
    """Codes, scales and biases as MLX makes them on the CPU, where this is computed: the lesser
    value of a group is 0, the greater 1."""
    here = frame_of(v.owner).to_host(v.owner)
    x = frame_of(here).view(here).numpy()
    if v.dtype == "bfloat16" and x.dtype == np.uint16:
        raise TypeError("[quantize] bits=1 of bfloat16 needs the package ml_dtypes")
    groups = x.astype(np.float32).reshape(*x.shape[:-1], x.shape[-1] // group, group)
    low = groups.min(-1)
    scale = np.maximum(groups.max(-1) - low, np.float32(1e-7))
    codes = np.rint((groups - low[..., None]) / scale[..., None]) > 0
    words = np.packbits(codes.reshape(*x.shape[:-1], x.shape[-1]), -1, bitorder="little")
    return [words.view("<u4"), scale.astype(x.dtype), low.astype(x.dtype)]


def delivered(a: np.ndarray, frame: Any, name: str, device: Optional[int]) -> Any:
    """The values of a dense numpy array as an array of another package."""
    a = np.ascontiguousarray(a)
    if device is None:
        y, at = frame.empty(a.shape, name, None)
        C.memmove(at, a.ctypes.data, a.nbytes)
        return frame.finish(y)
    flat = moved(a.ctypes.data, (1, 1, a.nbytes), (a.nbytes, a.nbytes), (NUMPY, None),
                 (frame, device)).owner
    return flat.reshape(-1).view(frame.dtype(name)).reshape(a.shape)
