# SPDX-License-Identifier: MIT
"""quantize and dequantize, with MLX's arguments."""

from __future__ import annotations

from typing import Any, Optional, Tuple

from . import _abi
from ._context import Context, context_of
from ._frames import dtype_name, frame_of
from ._modes import SHORT, format_of, global_scale_of, mlx_matrix, mode_of, readable
from ._one_bit import delivered, quantized
from ._weights import make_handle, run_quantize


def quantize(w: Any, /, group_size: Optional[int] = None, bits: Optional[int] = None,
             mode: str = "affine", *, global_scale: Any = None, stream: Any = None,
             context: Optional[Context] = None) -> Tuple[Any, ...]:
    """Rounds w to codes and scales, as mlx.core.quantize does on the CPU, bit for bit.

    w       float32, float16 or bfloat16 [..., N, K], K a multiple of group_size
    mode    "affine" (group_size 64; 32, 128 · bits 4; 1, 2, 3, 5, 6, 8), "mxfp4", "mxfp8" (groups
            of 32), "nvfp4" (groups of 16; global_scale: the tensor's amax, one float32)
    result  (codes uint32 [..., N, K*bits/32], scales [..., N, K/group_size], biases likewise);
            mode "affine": scales and biases of the dtype of w; others: scales uint8, no biases

    w is copied where its rows are not dense. For other formats see gqmm.Weights.quantize.
    """
    group, width = mode_of("quantize", mode, group_size, bits)
    frame = frame_of(w)
    v = frame.view(w)
    if v.dtype not in SHORT:
        raise ValueError(f"[quantize] w must be float32, float16 or bfloat16, got {v.dtype}")
    if len(v.shape) < 2:
        raise ValueError(f"[quantize] w must have at least 2 dimensions, got shape {v.shape}")
    if v.shape[-1] % group:
        raise ValueError(f"[quantize] rows of {v.shape[-1]} elements do not divide into groups "
                         f"of {group}; w has shape {v.shape}")
    if width == 1:
        made = quantized(v, group)
        return tuple(delivered(a, frame, name, v.device)
                     for a, name in zip(made, ("uint32", v.dtype, v.dtype)))
    gv = global_scale_of("quantize", mode, global_scale, 1, v)
    lead = v.shape[:-1]
    shapes = [("uint32", lead + (v.shape[-1] * width // 32,))]
    scale = (v.dtype if mode == "affine" else "uint8", lead + (v.shape[-1] // group,))
    shapes += [scale] * (2 if mode == "affine" else 1)
    arrays = [frame.empty(shape, name, v.device)[0] for name, shape in shapes]
    if v.size:
        ready = readable("quantize", "w", w)
        run_quantize(context or context_of(v.device, frame), frame,
                     format_of(mode, group, width, v.dtype), ready, arrays, None,
                     gv.at if gv else 0)
    return tuple(frame.finish(a) for a in arrays)


def dequantize(w: Any, /, scales: Any, biases: Any = None, group_size: Optional[int] = None,
               bits: Optional[int] = None, mode: str = "affine", global_scale: Any = None,
               dtype: Any = None, *, stream: Any = None,
               context: Optional[Context] = None) -> Any:
    """Codes and scales back to floats, as mlx.core.dequantize.

    w       uint32 [..., N, K*bits/32]; scales, biases: see quantize
    dtype   of the result, any package's way to say float32, float16 or bfloat16. Default: that
            of scales and biases ("affine"), bfloat16 (other modes)
    result  [..., N, K]: scale * code + bias in float32, rounded once
    """
    frame = frame_of(w)
    name = None if dtype is None else dtype_name(dtype)
    m = mlx_matrix("dequantize", w, scales, biases, group_size, bits, mode, global_scale)
    if name is None:
        name = "bfloat16" if not m.types else m.types[0] if len(set(m.types)) == 1 else "float32"
    y, at = frame.empty(m.batch + (m.rows, m.cols), name, m.device)
    if m.planes:
        ctx = context or context_of(m.device, frame)
        handle = make_handle(ctx, m)
        try:
            experts = 1
            for n in m.batch:
                experts *= n
            ctx._call("gqmm_dequantize", _abi.new(
                "gqmm_dequantize_desc", y_type=_abi.TYPES[name], w=handle, first_row=0,
                n_rows=experts * m.rows, y=at), frame)
        finally:
            _abi.lib.gqmm_weights_destroy(handle)
    return frame.finish(y)
