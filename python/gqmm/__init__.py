# SPDX-License-Identifier: MIT
"""gqmm: the matrix products of quantised mixture-of-experts models, one call for thousands of
(token, expert) pairs, on numpy, torch, MLX and other arrays where they lie.

    quantized_matmul, gather_qmm, quantize, dequantize    the functions of mlx.core, same arguments
    moe, embed                                            the feed-forward block; rows by token id
    Weights                                               a stack of matrices in any format
    load, File                                            GGUF and safetensors files, mapped
    Context, default_context, set_default_context         threads, devices
    synchronize                                           waits for CUDA, tells of bad ids
    info, bench, shapes, formats, format_info             what is there and how fast it is
    gqmm.torch, gqmm.mlx_compat                           modules for torch and MLX programs

Letters: E experts, N rows of one, K columns, T tokens, S slots of a token, M rows of x in a pair.
"""

from ._abi import ArgumentError, Error, OutOfMemory, RangeError
from ._abi import lib as _lib
from ._block import embed, moe
from ._context import Context, default_context, set_default_context, synchronize
from ._file import File, Tensor, load
from ._info import bench, format_info, formats, get_include, info, shapes
from ._product import gather_qmm, quantized_matmul
from ._quant import dequantize, quantize
from ._weights import Weights

__version__: str = _lib.gqmm_version().decode()
__all__ = [
    "ArgumentError", "Context", "Error", "File", "OutOfMemory", "RangeError", "Tensor", "Weights",
    "bench", "default_context", "dequantize", "embed", "format_info", "formats", "gather_qmm",
    "get_include", "info", "load", "moe", "quantize", "quantized_matmul", "set_default_context",
    "shapes", "synchronize",
]
