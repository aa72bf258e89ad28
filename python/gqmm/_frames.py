# SPDX-License-Identifier: MIT
"""Arrays of other packages: where their elements lie, and new ones of the same kind.

`raw(a)` is the tuple (address, shape, strides, dtype, device, keep): strides in units of the
package, or something else for a dense array; dtype as the package names it; device None for the
CPU, else the index of a CUDA device; `keep` whatever must live as long as the address is used. Its
middle part is a key: arrays that agree in it are described alike. `View` says the same in one
language: bytes and names of dtypes. Here are numpy and the buffer protocol; torch and what speaks
DLPack have files of their own.
"""

from __future__ import annotations

import ctypes as C
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

Raw = Tuple[int, Sequence[int], Any, Any, Optional[int], Any]
SIZES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int8": 1, "uint8": 1, "int16": 2,
    "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "bool": 1,
}
FLOATS = ("float32", "float16", "bfloat16")
INTS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")

try:
    import ml_dtypes

    BF16: Any = np.dtype(ml_dtypes.bfloat16)
except ImportError:
    BF16 = None


def device_name(device: Optional[int]) -> str:
    return "cpu" if device is None else f"cuda:{device}"


class View:
    """One array: address, shape, strides in bytes, name of the dtype, device, the array itself
    and what else holds its memory."""

    __slots__ = ("at", "shape", "strides", "dtype", "device", "owner", "keep")

    def __init__(self, at: int, shape: Sequence[int], strides: Sequence[int], dtype: str,
                 device: Optional[int], owner: Any, keep: Any = None):
        self.at, self.shape, self.strides = at, tuple(shape), tuple(strides)
        self.dtype, self.device, self.owner, self.keep = dtype, device, owner, keep

    def hold(self) -> Any:
        """What keeps this very memory, whatever becomes of the array object."""
        return frame_of(self.owner).hold(self)

    @property
    def itemsize(self) -> int:
        return SIZES[self.dtype]

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    def is_dense(self) -> bool:
        """C-contiguous and aligned."""
        return (merged(self.shape, self.strides, self.itemsize) is not None
                and self.at % self.itemsize == 0)

    def numpy(self) -> np.ndarray:
        """The same memory as a numpy array; bfloat16 as uint16 where numpy lacks it."""
        name = self.dtype if self.dtype != "bfloat16" else "uint16"
        holder = _Holder({"data": (self.at, True), "shape": self.shape, "strides": self.strides,
                          "typestr": np.dtype(name).str, "version": 3}, self.owner)
        if self.size == 0:
            out = np.empty(self.shape, name)
        else:
            out = np.asarray(holder)
        return out.view(BF16) if self.dtype == "bfloat16" and BF16 is not None else out


class _Holder:
    def __init__(self, interface: Dict[str, Any], owner: Any):
        self.__array_interface__, self.owner = interface, owner


def merged(shape: Sequence[int], strides: Sequence[int], unit: int) -> Optional[int]:
    """`unit` if these axes are one dense axis of elements `unit` apart, else None."""
    step = unit
    if 0 in shape:
        return unit
    for n, s in zip(reversed(shape), reversed(strides)):
        if n > 1 and s != step:
            return None
        step *= n
    return unit


def one_stride(shape: Sequence[int], strides: Sequence[int]) -> Optional[int]:
    """The stride of these axes seen as one, None if they are not: 0 where there is one element."""
    out, step = 0, None
    for n, s in zip(reversed(shape), reversed(strides)):
        if n == 0:
            return 0
        if n > 1:
            if step is None:
                out = s
            elif s != step:
                return None
            step = s * n
    return out


Made = Tuple[Any, int]  # a new array and its address

#: what tells apart the kinds of calls, addresses of x, lhs and rhs, device of x, what holds memory
Look = Tuple[Any, int, int, int, Optional[int], Any]
_NONE: Raw = (0, (), None, None, None, None)


def _raw(a: Any) -> Raw:
    return _NONE if a is None else (_frames.get(type(a)) or frame_of(a)).raw(a)


class Frame:
    """What gqmm does with the arrays of one package."""

    name = ""
    grad: Any = None  # of an array: whether it wants gradients, if grad_enabled() says so too
    grad_enabled: Any = None
    waits = False  # results on a device are handed out when they are complete

    def raw(self, a: Any) -> Raw:
        raise NotImplementedError

    def look(self, x: Any, w: Any, s: Any, b: Any, lhs: Any, rhs: Any) -> Look:
        """What a call must know of its arrays each time; all but x may be None."""
        xr, lr, rr = self.raw(x), _raw(lhs), _raw(rhs)
        key: Tuple[Any, ...] = ((xr[0] | lr[0] | rr[0]) & 3, *xr[1:5], *lr[1:5], *rr[1:5])
        if w is not None:
            key += _raw(w)[:4] + _raw(s)[:4] + _raw(b)[:4]  # addresses tell devices too
        return key, xr[0], lr[0], rr[0], xr[4], (xr, lr, rr)

    def view(self, a: Any) -> View:
        raise NotImplementedError

    def dtype(self, name: str) -> Any:
        """The package's dtype of this name."""
        raise NotImplementedError

    def maker(self, shape: Sequence[int], dtype: Any, device: Optional[int]) -> Callable[[], Made]:
        """What makes new arrays of this kind, one after another."""
        raise NotImplementedError

    def empty(self, shape: Sequence[int], name: str, device: Optional[int]) -> Made:
        return self.maker(shape, self.dtype(name), device)()

    def finish(self, a: Any) -> Any:
        """What a caller gets for a filled array of empty()."""
        return a

    def finisher(self) -> Any:
        """finish(), or None where it does nothing."""
        return None if type(self).finish is Frame.finish else self.finish

    def hold(self, v: View) -> Any:
        return v.owner, v.keep

    def dense(self, a: Any, dtype: Optional[str] = None) -> Any:
        """A dense copy, of another dtype if one is named: something that view() takes."""
        source = self.view(a)
        if source.device is not None:
            raise TypeError(f"{self.name}: an array on {device_name(source.device)} must be dense "
                            "here")
        values = source.numpy()
        if dtype and dtype != source.dtype:
            if source.dtype == "bfloat16" and BF16 is None:
                values = (values.astype(np.uint32) << 16).view(np.float32)
            values = values.astype(numpy_dtype(dtype))
        out = np.empty(values.shape, values.dtype)  # C order, whatever the strides were
        out[...] = values
        return out

    # ------------------------------------------------------------ on devices

    def stream(self, device: int) -> int:
        """The cudaStream_t that this package is using now."""
        raise TypeError(f"{self.name}: results on {device_name(device)} are made for torch, CuPy "
                        "and JAX arrays only")

    def wait(self, device: int) -> None:
        """For all calls on the device whose results are not waited for anyhow."""

    def capturing(self) -> bool:
        """Whether calls go into a graph, so that memory made now may not be kept."""
        return False

    def spread(self, a: Any, shape: Tuple[int, ...]) -> Any:
        """Ids as a dense int32 array, broadcast."""
        return np.ascontiguousarray(np.broadcast_to(self.view(a).numpy().astype(np.int32), shape))

    def count(self, batch: Tuple[int, ...], shape: Tuple[int, ...], device: Optional[int]) -> Any:
        """0, 1, 2, ... in the shape `batch`, broadcast: a dense int32 array."""
        ids = np.arange(int(np.prod(batch, dtype=np.int64)), dtype=np.int32).reshape(batch)
        return np.ascontiguousarray(np.broadcast_to(ids, shape))

    def number(self, value: float, device: Optional[int]) -> Any:
        """One float32."""
        return np.array([value], np.float32)

    def to_host(self, a: Any) -> Any:
        """The array in the memory of the host."""
        return a


def numpy_dtype(name: str) -> Any:
    if name == "bfloat16":
        if BF16 is None:
            raise TypeError("numpy has no bfloat16 without the package ml_dtypes; install it or "
                            "ask for dtype='float32'")
        return BF16
    return np.dtype(name)


# ---------------------------------------------------------------- numpy

def _data_offset() -> int:
    """Where an ndarray object keeps its data pointer: right behind the object's head, in the C ABI
    of numpy since its first version. Probed, because heads differ between builds of Python; 0 if
    it is not found, then `ctypes.data` serves, which is seven times as slow."""
    probes: List[Any] = [np.empty(3), np.empty((2, 5), np.int8)[1:], np.empty((), np.float16)]
    if sys.implementation.name == "cpython":
        offset = object.__basicsize__
        if all(C.c_size_t.from_address(id(p) + offset).value == p.ctypes.data for p in probes):
            return offset
    return 0


class Numpy(Frame):
    name = "numpy"
    offset = _data_offset()

    def raw(self, a: np.ndarray, _cell=C.c_size_t.from_address, _offset=offset) -> Raw:
        return (_cell(id(a) + _offset).value if _offset else a.ctypes.data,
                a.shape, a.strides, a.dtype, None, None)

    def look(self, x: Any, w: Any, s: Any, b: Any, lhs: Any, rhs: Any,
             _cell=C.c_size_t.from_address, _offset=offset) -> Look:
        array = np.ndarray
        if (not _offset or lhs is not None or type(rhs) is not array or type(x) is not array
                or w is not None and not type(w) is type(s) is type(b) is array):
            return super().look(x, w, s, b, lhs, rhs)
        at, ids = _cell(id(x) + _offset).value, _cell(id(rhs) + _offset).value
        if w is None:
            return (((at | ids) & 3, x.shape, x.strides, x.dtype, rhs.shape, rhs.strides,
                     rhs.dtype), at, 0, ids, None, None)
        return (((at | ids) & 3, x.shape, x.strides, x.dtype, rhs.shape, rhs.strides, rhs.dtype,
                 _cell(id(w) + _offset).value, w.shape, w.strides, w.dtype,
                 _cell(id(s) + _offset).value, s.shape, s.strides, s.dtype,
                 _cell(id(b) + _offset).value, b.shape, b.strides, b.dtype),
                at, 0, ids, None, None)

    def view(self, a: np.ndarray) -> View:
        name = a.dtype.name
        if name not in SIZES or not a.dtype.isnative:
            raise ValueError(f"numpy arrays of dtype {a.dtype} cannot be used")
        return View(a.ctypes.data, a.shape, a.strides, name, None, a)

    def dtype(self, name: str) -> Any:
        return numpy_dtype(name)

    def maker(self, shape: Sequence[int], dtype: Any, device: Optional[int]) -> Callable[[], Made]:
        if device is not None:
            raise TypeError(f"{self.name} arrays do not lie on {device_name(device)}")
        empty, cell, offset = np.empty, C.c_size_t.from_address, self.offset

        def make() -> Made:
            y = empty(shape, dtype)
            return y, cell(id(y) + offset).value if offset else y.ctypes.data

        return make


class Buffer(Numpy):
    """Objects with the buffer protocol (bytes, array.array, memoryview): results are numpy's."""

    def raw(self, a: Any, *_: Any) -> Raw:  # type: ignore[override]
        values = np.asarray(memoryview(a))
        return (values.ctypes.data, values.shape, values.strides, values.dtype, None, values)

    def view(self, a: Any) -> View:
        v = super().view(np.asarray(memoryview(a)))
        v.owner, v.keep = a, v.owner
        return v


# ---------------------------------------------------------------- which is whose

NUMPY = Numpy()
_frames: Dict[type, Frame] = {np.ndarray: NUMPY}
_made: Dict[str, Frame] = {"numpy": NUMPY}


def frame_named(name: str, make: Optional[Callable[[], Frame]] = None) -> Frame:
    """The one Frame of a package."""
    if name not in _made:
        if make is None and name == "torch":  # which need not be there for the others
            from . import _frame_torch

            make = _frame_torch.Torch
        elif make is None:
            from . import _frame_dlpack

            make = {"mlx": _frame_dlpack.Mlx,
                    "jax": _frame_dlpack.Jax, "cupy": _frame_dlpack.Cupy,
                    "buffer": Buffer}[name]
        _made[name] = make()
    return _made[name]


def _find(a: Any) -> Frame:
    kind = type(a)
    modules = {base.__module__.split(".")[0] for base in kind.__mro__}
    if isinstance(a, np.ndarray):
        return NUMPY
    if "torch" in modules:
        return frame_named("torch")
    if hasattr(a, "__dlpack__"):
        for name, of in (("mlx", {"mlx"}), ("jax", {"jax", "jaxlib"}), ("cupy", {"cupy"})):
            if modules & of:
                return frame_named(name)
        from ._frame_dlpack import Dlpack

        name = kind.__module__.split(".")[0]
        return frame_named(name + " (DLPack)", lambda: Dlpack(name))
    try:
        memoryview(a)
    except TypeError:
        raise TypeError(f"expected an array (numpy, torch, MLX, or anything with __dlpack__ or "
                        f"the buffer protocol), got {kind.__module__}.{kind.__qualname__}"
                        ) from None
    return frame_named("buffer")


def frame_of(a: Any) -> Frame:
    """The Frame of an array. TypeError for what is none."""
    found = _frames.get(type(a))
    if found is None:
        found = _frames[type(a)] = _find(a)
    return found


def view(a: Any) -> View:
    return frame_of(a).view(a)


def dtype_name(dtype: Any) -> str:
    """"float32" of numpy's, torch's, MLX's or our own way to say it."""
    text = str(dtype)
    if isinstance(dtype, type) or dtype is None:
        text = np.dtype(dtype).name if dtype is not None else "None"
    name = text.split(".")[-1].rstrip("'>")
    if name not in FLOATS:
        raise ValueError(f"dtype {dtype} is none of {', '.join(FLOATS)}")
    return name


def promote(*names: str) -> str:
    """The float type of a result, by MLX's rules: integers give way, unlike floats make float32.
    ValueError for float64 and for integers alone."""
    floats = {n for n in names if n not in INTS and n != "bool"}
    if not floats or not floats <= set(FLOATS):
        bad = ", ".join(names)
        raise ValueError(f"dtypes {bad}: only float32, float16 and bfloat16 are computed with")
    return floats.pop() if len(floats) == 1 else "float32"
