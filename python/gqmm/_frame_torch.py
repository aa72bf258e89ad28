# SPDX-License-Identifier: MIT
"""torch tensors on the CPU and on CUDA. There, calls go to torch's current stream, and results and
workspaces come from torch's caching allocator, in whose order they are used and freed: nothing
waits, and all of it may be captured by torch.cuda.graph."""

from __future__ import annotations

import operator
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch

from ._frames import SIZES, Frame, Look, Made, Raw, View

#: torch.empty without its parser of arguments, a third of its time; what inductor's code calls.
_guards = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
_cpu_empty: Any = getattr(_guards, "_empty_strided_cpu", None)
_cuda_empty: Any = getattr(_guards, "_empty_strided_cuda", None)
_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)


def _dense_strides(shape: Sequence[int]) -> Tuple[int, ...]:
    out, step = [], 1
    for n in reversed(shape):
        out.append(step)
        step *= max(n, 1)
    return tuple(reversed(out))


def _strides(a: Any) -> Tuple[int, ...]:
    """Of a tensor that is not dense; only such tensors can be views that negate."""
    if a.layout != torch.strided or a.is_neg():
        raise TypeError("torch tensors must be strided and plain (no negative view)")
    return a.stride()


def _place(a: Any) -> int:
    if not a.is_cuda:
        raise TypeError(f"torch tensors on device '{a.device}' cannot be used, only those of the "
                        "CPU and of CUDA")
    return a.get_device()


class Torch(Frame):
    name = "torch"

    def __init__(self) -> None:
        self.names: Dict[Any, str] = {
            getattr(torch, n): n for n in SIZES if hasattr(torch, n)}
        self.grad_enabled = torch.is_grad_enabled
        self.many = torch.cuda.device_count() > 1

    def raw(self, a: Any) -> Raw:
        return (a.data_ptr(), a.shape, a.is_contiguous() or _strides(a), a.dtype,
                None if a.is_cpu else a.get_device() if a.is_cuda else _place(a), None)

    def look(self, x: Any, w: Any, s: Any, b: Any, lhs: Any, rhs: Any) -> Look:
        left = right = 0
        lk: Any = None
        rk: Any = None
        wk: Any = None
        try:
            at = x.data_ptr()
            if rhs is not None:
                right = rhs.data_ptr()
                rk = rhs.shape, rhs.is_contiguous() or _strides(rhs), rhs.dtype, rhs.is_cpu
            if lhs is not None:
                left = lhs.data_ptr()
                lk = lhs.shape, lhs.is_contiguous() or _strides(lhs), lhs.dtype, lhs.is_cpu
            if b is not None:
                wk = (w.data_ptr(), w.shape, w.is_contiguous() or _strides(w), w.dtype,
                      s.data_ptr(), s.shape, s.is_contiguous() or _strides(s), s.dtype,
                      b.data_ptr(), b.shape, b.is_contiguous() or _strides(b), b.dtype)
            elif w is not None:
                wk = (w.data_ptr(), w.shape, w.is_contiguous() or _strides(w), w.dtype,
                      s.data_ptr(), s.shape, s.is_contiguous() or _strides(s), s.dtype)
        except AttributeError:  # not all of them are tensors
            return super().look(x, w, s, b, lhs, rhs)
        return (((at | left | right) & 3, x.shape, x.is_contiguous() or _strides(x), x.dtype, lk,
                 rk, wk), at, left, right,
                None if x.is_cpu else x.get_device() if x.is_cuda else _place(x), None)

    grad = staticmethod(operator.attrgetter("requires_grad"))

    def view(self, a: Any) -> View:
        if a.dtype not in self.names:
            raise ValueError(f"torch tensors of dtype {a.dtype} cannot be used")
        if a.layout != torch.strided or a.is_neg():
            raise TypeError("torch tensors must be strided and plain (no negative view)")
        size = a.element_size()
        return View(a.data_ptr(), a.shape, [s * size for s in a.stride()], self.names[a.dtype],
                    None if a.is_cpu else _place(a), a)

    def hold(self, v: View) -> Any:
        return v.owner.detach()  # of the storage: the tensor's .data may be replaced

    def dtype(self, name: str) -> Any:
        return getattr(torch, name)

    def maker(self, shape: Sequence[int], dtype: Any, device: Optional[int]) -> Callable[[], Made]:
        where = torch.device("cpu") if device is None else torch.device("cuda", device)
        shape = tuple(shape)
        many = self.many
        strides, quick = _dense_strides(shape), _cpu_empty if device is None else _cuda_empty

        def plain() -> Made:
            y = torch.empty(shape, dtype=dtype, device=where)
            return y, y.data_ptr()

        def on_cpu() -> Made:
            y = quick(shape, strides, dtype)
            return y, y.data_ptr()

        def on_cuda() -> Made:  # the quick one takes the current device
            if many and _device() != device:
                return plain()
            y = quick(shape, strides, dtype)
            return y, y.data_ptr()

        return plain if quick is None else on_cpu if device is None else on_cuda

    def dense(self, a: Any, dtype: Optional[str] = None) -> Any:
        with torch.no_grad():
            if dtype and a.dtype != self.dtype(dtype):
                a = a.to(self.dtype(dtype))
            return a.clone(memory_format=torch.contiguous_format)

    # ------------------------------------------------------------ on devices

    def stream(self, device: int) -> int:
        if _stream is None:
            return torch.cuda.current_stream(device).cuda_stream
        return _stream(device)

    def wait(self, device: int) -> None:
        torch.cuda.synchronize(device)

    def capturing(self) -> bool:
        return torch.cuda.is_current_stream_capturing()

    def spread(self, a: Any, shape: Tuple[int, ...]) -> Any:
        return a.to(torch.int32).expand(shape).contiguous()

    def count(self, batch: Tuple[int, ...], shape: Tuple[int, ...], device: Optional[int]) -> Any:
        n = 1
        for d in batch:
            n *= d
        where = "cpu" if device is None else f"cuda:{device}"
        return torch.arange(n, dtype=torch.int32, device=where).view(batch).expand(
            shape).contiguous()

    def number(self, value: float, device: Optional[int]) -> Any:
        where = "cpu" if device is None else f"cuda:{device}"
        return torch.full((1,), value, dtype=torch.float32, device=where)

    def to_host(self, a: Any) -> Any:
        return a.detach().cpu()
