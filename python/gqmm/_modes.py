# SPDX-License-Identifier: MIT
"""MLX's quantisation modes: their defaults, what is wrong with an argument, and the planes of
(w, scales, biases) as the C library takes them."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from . import _abi
from ._frames import View, device_name, frame_of, one_stride, promote, view
from ._one_bit import widened

DEFAULTS = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
AFFINE_BITS, AFFINE_GROUPS = (1, 2, 3, 4, 5, 6, 8), (32, 64, 128)
SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class Matrix(NamedTuple):
    """A stack of matrices in the words of gqmm_weights_desc."""

    format: str
    batch: Tuple[int, ...]
    rows: int
    cols: int
    planes: List[Tuple[int, int, int]]  # address, bytes from row to row, from expert to expert
    global_at: int
    global_stride: int
    device: Optional[int]
    owner: Any
    types: Tuple[str, ...]  # of scales and biases: affine results promote them with x
    copied: bool = False  # a plane is a copy of what was given


def mode_of(tag: str, mode: str, group_size: Optional[int], bits: Optional[int]) -> Tuple[int, int]:
    """(group_size, bits) with the defaults of the mode. ValueError for what no mode has."""
    if mode not in DEFAULTS:
        raise ValueError(f"[{tag}] mode '{mode}' is unknown; known are {', '.join(DEFAULTS)}")
    group = DEFAULTS[mode][0] if group_size is None else int(group_size)
    width = DEFAULTS[mode][1] if bits is None else int(bits)
    if mode == "affine":
        if group not in AFFINE_GROUPS:
            raise ValueError(f"[{tag}] affine group_size {group}: 32, 64 and 128 are supported")
        if width not in AFFINE_BITS:
            raise ValueError(f"[{tag}] affine bits {width}: 1, 2, 3, 4, 5, 6 and 8 are supported")
    elif (group, width) != DEFAULTS[mode]:
        raise ValueError(f"[{tag}] mode {mode} has group_size {DEFAULTS[mode][0]} and bits "
                         f"{DEFAULTS[mode][1]}, got {group} and {width}")
    return group, width


def format_of(mode: str, group: int, bits: int, scale_type: str) -> str:
    if mode == "affine":
        return f"affine{bits}_g{group}_{SHORT[scale_type]}"
    return "mlx_" + mode


def _check_types(tag: str, mode: str, w: View, scales: View, biases: Optional[View]) -> None:
    if w.dtype != "uint32" and not (w.dtype == "int32" and frame_of(w.owner).name == "torch"):
        raise ValueError(f"[{tag}] w must be uint32 codes, got {w.dtype}")
    if mode == "affine":
        if biases is None:
            raise ValueError(f"[{tag}] mode affine needs biases")
        for name, v in (("scales", scales), ("biases", biases)):
            if v.dtype not in SHORT:
                raise ValueError(f"[{tag}] {name} must be float32, float16 or bfloat16, "
                                 f"got {v.dtype}")
    else:
        if scales.dtype != "uint8":
            raise ValueError(f"[{tag}] scales of mode {mode} must be uint8, got {scales.dtype}")
        if biases is not None:
            raise ValueError(f"[{tag}] mode {mode} has no biases")


def _check_shapes(tag: str, w: View, scales: View, biases: Optional[View], group: int,
                  bits: int) -> None:
    if len(w.shape) < 2:
        raise ValueError(f"[{tag}] w must have at least 2 dimensions, got shape {w.shape}")
    if biases is not None and biases.shape != scales.shape:
        raise ValueError(f"[{tag}] scales have shape {scales.shape}, but biases {biases.shape}")
    if len(scales.shape) != len(w.shape) or scales.shape[:-1] != w.shape[:-1]:
        raise ValueError(f"[{tag}] w has shape {w.shape}, so scales must have shape "
                         f"{w.shape[:-1] + (w.shape[-1] * 32 // bits // group,)}, "
                         f"got {scales.shape}")
    if w.shape[-1] * 32 != scales.shape[-1] * group * bits:
        raise ValueError(f"[{tag}] rows of {w.shape[-1]} words hold {w.shape[-1] * 32 / bits:g} "
                         f"codes of {bits} bits, but {scales.shape[-1]} scales for groups of "
                         f"{group} make {scales.shape[-1] * group}")


def plane(v: View) -> Optional[Tuple[int, int, int]]:
    """Where the rows of v lie; None if strides of bytes cannot say it."""
    if v.shape[-1] > 1 and v.strides[-1] != v.itemsize:
        return None
    row = v.strides[-2] if v.shape[-2] > 1 else v.shape[-1] * v.itemsize
    step = one_stride(v.shape[:-2], v.strides[:-2])
    if step is None or abs(row) < v.shape[-1] * v.itemsize:
        return None
    experts = 1
    for n in v.shape[:-2]:
        experts *= n
    if experts > 1 and step == 0:  # one matrix seen as many: strides cannot say it
        return None
    return v.at, row, step if experts > 1 else 0


def readable(tag: str, name: str, a: Any, dtype: Optional[str] = None) -> View:
    """A view of `a` whose rows are dense: itself, or a copy where strides cannot say it."""
    v = view(a)
    if (dtype is None or v.dtype == dtype) and (0 in v.shape or plane(v)):
        return v
    return view(frame_of(a).dense(a, dtype))


def global_scale_of(tag: str, mode: str, scale: Any, experts: int, like: View) -> Optional[View]:
    """nvfp4's tensor amax: one float32 for all experts, or one each; where the codes lie."""
    if scale is None:
        return None
    if mode != "nvfp4":
        raise ValueError(f"[{tag}] global_scale is of mode nvfp4, not of {mode}")
    if isinstance(scale, (int, float, np.floating)):
        scale = frame_of(like.owner).number(float(scale), like.device)
    v = view(scale)
    if v.device != like.device:
        raise ValueError(f"[{tag}] global_scale lies on {device_name(v.device)}, the codes on "
                         f"{device_name(like.device)}")
    if v.dtype != "float32":
        raise ValueError(f"[{tag}] global_scale must be float32, got {v.dtype}")
    if v.size not in (1, experts):
        raise ValueError(f"[{tag}] global_scale must be one number or one for each of {experts} "
                         f"experts, got shape {v.shape}")
    return v if v.is_dense() else view(frame_of(scale).dense(scale))


def mlx_matrix(tag: str, w: Any, scales: Any, biases: Any, group_size: Optional[int],
               bits: Optional[int], mode: str, global_scale: Any = None) -> Matrix:
    """(w, scales, biases) of MLX as a Matrix, with all its errors."""
    group, width = mode_of(tag, mode, group_size, bits)
    wv, sv = view(w), view(scales)
    bv = None if biases is None else view(biases)
    _check_types(tag, mode, wv, sv, bv)
    _check_shapes(tag, wv, sv, bv, group, width)
    given = w
    if width == 1:
        w, width = widened(w), 2
        wv = view(w)
    types = (sv.dtype,) if bv is None else (sv.dtype, bv.dtype)
    kind = promote(*types) if bv is not None else ""
    views = [readable(tag, "w", w), readable(tag, "scales", scales, kind or None)]
    if bv is not None:
        views.append(readable(tag, "biases", biases, kind))
    if len({v.device for v in views}) != 1:
        raise ValueError(f"[{tag}] w, scales and biases lie on different devices: "
                         + ", ".join(device_name(v.device) for v in views))
    batch = wv.shape[:-2]
    experts = 1
    for n in batch:
        experts *= n
    gv = global_scale_of(tag, mode, global_scale, experts, wv)
    empty = 0 in wv.shape
    return Matrix(format_of(mode, group, width, kind), batch, wv.shape[-2],
                  wv.shape[-1] * 32 // width,
                  [] if empty else [plane(v) for v in views],  # type: ignore[misc]
                  gv.at if gv else 0, 1 if gv and gv.size > 1 else 0, views[0].device,
                  [v.hold() for v in views] + [gv and gv.hold()], types if bv is not None else (),
                  any(v.owner is not a for v, a in zip(views, (given, scales, biases))))


def blocks_matrix(format: str, data: Any, rows: int, cols: int) -> Matrix:
    """GGUF blocks (one plane) in an array whose last axis holds the bytes of a row, or flat."""
    v = view(data)
    need = _abi.row_bytes(format, cols)
    if len(need) != 1:
        raise ValueError(f"format {format} has {len(need)} planes, not one")
    if not v.is_dense():
        raise ValueError("the blocks must be dense (C-contiguous)")
    total, one = v.size * v.itemsize, rows * need[0]
    if one == 0 or total == 0 or total % one:
        raise ValueError(f"{total} bytes are no whole number of [{rows}, {cols}] matrices of "
                         f"{format}, {one} bytes each")
    return Matrix(format, (total // one,), rows, cols, [(v.at, need[0], one)], 0, 0, v.device,
                  v.hold(), ())
