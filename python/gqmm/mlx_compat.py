# SPDX-License-Identifier: MIT
"""MLX programs on gqmm's kernels: install() puts them under quantized_matmul, gather_qmm, quantize
and dequantize of mlx.core (its CPU build), and so under mlx.nn and mlx-lm.

Results are computed at once, not lazily, and copied once into an MLX array. What is left to MLX
is in FALLS_BACK; counts says how often each happened.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Sequence

import mlx.core as mx

import gqmm

from . import dequantize, gather_qmm, quantize, quantized_matmul

NAMES = ("quantized_matmul", "gather_qmm", "quantize", "dequantize")
FALLS_BACK = {
    "gradients": "vjp and jvp (mx.grad, mx.value_and_grad ...): the forward pass is gqmm's, and "
                 "quantized_matmul's derivative by x; all others are those of MLX's functions",
    "transforms": "inside mx.compile and mx.vmap, where arrays have no values yet",
    "bits": "mode affine with bits=1, for which gqmm would copy the codes",
    "device": "streams and default devices other than the CPU",
}
counts: Counter = Counter()  # calls by name of function, and by key of FALLS_BACK
_mlx: Dict[str, Callable[..., Any]] = {}


def _traced(why: Exception) -> bool:
    """Whether an array could not be evaluated because a function transformation is at work."""
    return "during function transformations" in str(why)


def _elsewhere(stream: Any) -> bool:
    where = mx.default_device() if stream is None else stream
    return getattr(where, "device", where) not in (mx.cpu, mx.Device(mx.cpu))


def _no_gradient(name: str, mode: str) -> Callable[[Any], Any]:
    """The identity whose derivative refuses: scales of the modes mxfp4, mxfp8 and nvfp4."""
    identity = mx.custom_function(lambda a: a)

    @identity.vjp
    def _(primals: Any, cotangent: Any, output: Any) -> Any:
        raise ValueError(f"[{name}] no gradient with respect to the scales of mode {mode}")

    return identity


def _listed(a: Any) -> List[Any]:
    return list(a) if isinstance(a, (list, tuple)) else [a]


def _differentiable(y: Any, original: Callable[..., Any], inputs: Sequence[Any],
                    by_x: Optional[Callable[[Any], Any]] = None,
                    along_x: Optional[Callable[[Any], Any]] = None) -> Any:
    """y as if original(*inputs) had made it, as far as derivatives are concerned. by_x and along_x
    are its derivatives by the first input (of vjp and jvp) where these are products themselves."""
    function = mx.custom_function(lambda *a: y)

    @function.vjp
    def _(primals: Any, cotangent: Any, output: Any) -> Any:
        counts["gradients"] += 1
        given = _listed(primals)
        grads = mx.vjp(original, given, _listed(cotangent))[1]  # lazy: what nobody uses is not made
        if by_x is not None:
            dx = by_x(_listed(cotangent)[0])
            if dx.shape == given[0].shape and dx.dtype == given[0].dtype:
                grads = [dx] + grads[1:]
        return tuple(grads) if isinstance(primals, (list, tuple)) else grads[0]

    @function.jvp
    def _(primals: Any, tangents: Any) -> Any:
        counts["gradients"] += 1
        given, along = _listed(primals), _listed(tangents)
        asked = [i for i, t in enumerate(along) if t is not None]
        if asked == [0] and along_x is not None:
            return along_x(along[0])

        def some(*changed: Any) -> Any:
            full = list(given)
            for i, a in zip(asked, changed):
                full[i] = a
            return original(*full)

        out = mx.jvp(some, [given[i] for i in asked], [along[i] for i in asked])[1]
        return out[0] if len(out) == 1 else tuple(out)

    return function(*inputs)


def _product(name: str, ours: Callable[..., Any]) -> Callable[..., Any]:
    theirs = _mlx[name]

    @functools.wraps(ours)
    def patched(x: Any, w: Any, /, scales: Any, biases: Any = None, *args: Any,
                **options: Any) -> Any:
        how = _bound(name, args, options)
        if _elsewhere(how.get("stream")):
            counts["device"] += 1
            return theirs(x, w, scales, biases, *args, **options)
        if how.get("bits") == 1:
            counts["bits"] += 1
            return theirs(x, w, scales, biases, *args, **options)
        try:
            y = ours(x, w, scales, biases, *args, **options)
        except (ValueError, RuntimeError) as why:
            if not _traced(why):
                raise
            counts["transforms"] += 1
            return theirs(x, w, scales, biases, *args, **options)
        counts[name] += 1
        by_x = along_x = None
        if name == "quantized_matmul":
            other = {**how, "transpose": not how.get("transpose", True)}

            def by_x(cotangent: Any) -> Any:
                return patched(cotangent, w, scales, biases, **other)

            def along_x(tangent: Any) -> Any:
                return patched(tangent, w, scales, biases, *args, **options)

        if biases is None:
            guarded = _no_gradient(name, how.get("mode", "affine"))(scales)
            return _differentiable(
                y, lambda a, s: theirs(a, w, mx.stop_gradient(s), None, *args, **options),
                [x, guarded], by_x, along_x)
        return _differentiable(y, lambda a, s, b: theirs(a, w, s, b, *args, **options),
                               [x, scales, biases], by_x, along_x)

    return patched


#: what follows (x, w, scales, biases), or (w) and (w, scales, biases)
_ORDER: Dict[str, List[str]] = {
    "quantized_matmul": ["transpose", "group_size", "bits", "mode"],
    "gather_qmm": ["lhs_indices", "rhs_indices", "transpose", "group_size", "bits", "mode",
                   "global_scale"],
    "quantize": ["group_size", "bits", "mode"],
    "dequantize": ["group_size", "bits", "mode", "global_scale", "dtype"],
}


def _bound(name: str, args: Sequence[Any], options: Dict[str, Any]) -> Dict[str, Any]:
    return {**dict(zip(_ORDER[name], args)), **options}


def _patched_quantize(w: Any, /, *args: Any, **options: Any) -> Any:
    theirs, how = _mlx["quantize"], _bound("quantize", args, options)
    for key, left in (("device", _elsewhere(how.get("stream"))), ("bits", how.get("bits") == 1)):
        if left:
            counts[key] += 1
            return theirs(w, *args, **options)
    try:
        out = quantize(w, *args, **options)
    except (ValueError, RuntimeError) as why:
        if not _traced(why):
            raise
        counts["transforms"] += 1
        return theirs(w, *args, **options)
    counts["quantize"] += 1
    return out


def _patched_dequantize(w: Any, /, scales: Any, biases: Any = None, *args: Any,
                        **options: Any) -> Any:
    theirs, how = _mlx["dequantize"], _bound("dequantize", args, options)
    for key, left in (("device", _elsewhere(how.get("stream"))), ("bits", how.get("bits") == 1)):
        if left:
            counts[key] += 1
            return theirs(w, scales, biases, *args, **options)
    try:
        y = dequantize(w, scales, biases, *args, **options)
    except (ValueError, RuntimeError) as why:
        if not _traced(why):
            raise
        counts["transforms"] += 1
        return theirs(w, scales, biases, *args, **options)
    counts["dequantize"] += 1
    if biases is None:
        return y
    return _differentiable(y, lambda s, b: theirs(w, s, b, *args, **options), [scales, biases])


def install(verbose: bool = True) -> None:
    """Patches mlx.core; prints what runs where unless verbose is False. Twice is once."""
    if not _mlx:
        _mlx.update({name: getattr(mx, name) for name in NAMES})
        mx.quantized_matmul = _product("quantized_matmul", quantized_matmul)
        mx.gather_qmm = _product("gather_qmm", gather_qmm)
        mx.quantize = functools.wraps(quantize)(_patched_quantize)
        mx.dequantize = functools.wraps(dequantize)(_patched_dequantize)
    if verbose:
        print(report())


def uninstall() -> None:
    """Puts MLX's own functions back."""
    for name, function in _mlx.items():
        setattr(mx, name, function)
    _mlx.clear()


def report() -> str:
    """What runs on gqmm and what is left to MLX."""
    lines = [f"gqmm {gqmm.__version__} computes {', '.join(NAMES)} of mlx.core {getattr(mx, '__version__')}. "
             "Left to MLX:"]
    return "\n".join(lines + [f"  {key}: {text}" for key, text in FALLS_BACK.items()])
