# SPDX-License-Identifier: MIT
"""Arrays of other packages: where their elements lie, and new ones of the same kind.

`raw(a)` is the tuple (address, shape, strides, dtype, device, keep): strides in units of the
package, or something else for a dense array; dtype as the package names it, device None for the CPU, `keep`
whatever must live as long as the address is used. Its middle part is a key: arrays that agree in
it are described alike. `View` says the same in one language: bytes and names of dtypes.
"""

from __future__ import annotations

import ctypes as C
import operator
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

Raw = Tuple[int, Sequence[int], Any, Any, Optional[str], Any]
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


class View:
    """One array: address, shape, strides in bytes, name of the dtype, device, the array itself
    and what else holds its memory."""

    __slots__ = ("at", "shape", "strides", "dtype", "device", "owner", "keep")

    def __init__(self, at: int, shape: Sequence[int], strides: Sequence[int], dtype: str,
                 device: Optional[str], owner: Any, keep: Any = None):
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


class Frame:
    """What gqmm does with the arrays of one package."""

    name = ""
    grad: Any = None  # of an array: whether it wants gradients, if grad_enabled() says so too
    grad_enabled: Any = None

    def raw(self, a: Any) -> Raw:
        raise NotImplementedError

    def key(self, a: Any) -> Tuple[Any, ...]:
        """The address and what tells the arrays of a description apart: raw(a)[:4]."""
        return self.raw(a)[:4]

    def view(self, a: Any) -> View:
        raise NotImplementedError

    def dtype(self, name: str) -> Any:
        """The package's dtype of this name."""
        raise NotImplementedError

    def empty(self, shape: Sequence[int], dtype: Any, device: Optional[str],
              like: Any = None) -> Tuple[Any, int]:
        """A new array and its address; `like` is an array of the package on that device."""
        raise NotImplementedError

    def finish(self, a: Any) -> Any:
        """What a caller gets for a filled array of empty()."""
        return a

    def hold(self, v: View) -> Any:
        return v.owner, v.keep

    def dense(self, a: Any, dtype: Optional[str] = None) -> Any:
        """A dense copy, of another dtype if one is named: something that view() takes."""
        source = self.view(a)
        if source.device is not None:
            raise TypeError(f"{self.name}: an array on {source.device} must be dense here")
        values = source.numpy()
        if dtype and dtype != source.dtype:
            if source.dtype == "bfloat16" and BF16 is None:
                values = (values.astype(np.uint32) << 16).view(np.float32)
            values = values.astype(numpy_dtype(dtype))
        out = np.empty(values.shape, values.dtype)  # C order, whatever the strides were
        out[...] = values
        return out


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

    def key(self, a: np.ndarray, _cell=C.c_size_t.from_address,
            _offset=offset) -> Tuple[Any, ...]:
        return (_cell(id(a) + _offset).value if _offset else a.ctypes.data,
                a.shape, a.strides, a.dtype)

    def view(self, a: np.ndarray) -> View:
        name = a.dtype.name
        if name not in SIZES or not a.dtype.isnative:
            raise ValueError(f"numpy arrays of dtype {a.dtype} cannot be used")
        return View(a.ctypes.data, a.shape, a.strides, name, None, a)

    def dtype(self, name: str) -> Any:
        return numpy_dtype(name)

    def empty(self, shape: Sequence[int], dtype: Any, device: Optional[str], like: Any = None,
              _cell=C.c_size_t.from_address, _offset=offset) -> Tuple[Any, int]:
        y = np.empty(shape, dtype)
        return y, _cell(id(y) + _offset).value if _offset else y.ctypes.data


# ---------------------------------------------------------------- torch

class Torch(Frame):
    name = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.make = torch.empty
        self.names = {getattr(torch, n): n for n in SIZES if hasattr(torch, n)}
        self.grad_enabled = torch.is_grad_enabled

    def raw(self, a: Any) -> Raw:
        return (a.data_ptr(), a.shape, a.is_contiguous() or a.stride(), a.dtype,
                None if a.is_cpu else self.device(a), None)

    def key(self, a: Any) -> Tuple[Any, ...]:
        return a.data_ptr(), a.shape, a.is_contiguous() or a.stride(), a.dtype

    def device(self, a: Any) -> str:
        if a.device.type != "cuda":
            raise TypeError(f"torch tensors on device '{a.device}' cannot be used")
        return f"cuda:{a.device.index or 0}"

    grad = staticmethod(operator.attrgetter("requires_grad"))

    def view(self, a: Any) -> View:
        if a.dtype not in self.names:
            raise ValueError(f"torch tensors of dtype {a.dtype} cannot be used")
        if a.layout != self.torch.strided or a.is_neg():
            raise TypeError("torch tensors must be strided and plain (no negative view)")
        size = a.element_size()
        return View(a.data_ptr(), a.shape, [s * size for s in a.stride()], self.names[a.dtype],
                    None if a.is_cpu else self.device(a), a)

    def hold(self, v: View) -> Any:
        return v.owner.detach()  # of the storage: the tensor's .data may be replaced

    def dtype(self, name: str) -> Any:
        return getattr(self.torch, name)

    def empty(self, shape: Sequence[int], dtype: Any, device: Optional[str],
              like: Any = None) -> Tuple[Any, int]:
        if like is not None and like.dtype is dtype:
            y = like.new_empty(shape)
        else:
            y = self.make(shape, dtype=dtype, device=device or "cpu")
        return y, y.data_ptr()

    def dense(self, a: Any, dtype: Optional[str] = None) -> Any:
        with self.torch.no_grad():
            if dtype and a.dtype != self.dtype(dtype):
                a = a.to(self.dtype(dtype))
            return a.clone(memory_format=self.torch.contiguous_format)


# ---------------------------------------------------------------- DLPack

_DLPACK_NAMES = {
    (2, 32): "float32", (2, 16): "float16", (4, 16): "bfloat16", (2, 64): "float64",
    (0, 8): "int8", (0, 16): "int16", (0, 32): "int32", (0, 64): "int64",
    (1, 8): "uint8", (1, 16): "uint16", (1, 32): "uint32", (1, 64): "uint64", (6, 8): "bool",
}


class _Tensor(C.Structure):  # DLTensor
    _fields_ = [("data", C.c_void_p), ("device_type", C.c_int32), ("device_id", C.c_int32),
                ("ndim", C.c_int32), ("code", C.c_uint8), ("bits", C.c_uint8),
                ("lanes", C.c_uint16), ("shape", C.POINTER(C.c_int64)),
                ("strides", C.POINTER(C.c_int64)), ("byte_offset", C.c_uint64)]


_pointer_of = C.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = C.c_void_p
_pointer_of.argtypes = [C.py_object, C.c_char_p]


class Dlpack(Frame):
    """Any array with __dlpack__: JAX, CuPy, TensorFlow ... Results are made by `make`."""

    def __init__(self, name: str, make: Callable[[np.ndarray], Any]):
        self.name, self.make = name, make

    def raw(self, a: Any) -> Raw:
        capsule = a.__dlpack__()
        t = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
        shape = t.shape[:t.ndim] if t.ndim else []
        if t.ndim and t.strides:
            strides = t.strides[:t.ndim]
        else:
            strides = [int(np.prod(shape[i + 1:])) for i in range(t.ndim)]
        if t.device_type in (1, 3):  # kDLCPU, kDLCUDAHost
            device = None
        elif t.device_type == 2:
            device = f"cuda:{t.device_id}"
        else:
            raise TypeError(f"{self.name}: arrays on DLPack device type {t.device_type} cannot be "
                            "used, only those of the CPU and of CUDA")
        return ((t.data or 0) + t.byte_offset, tuple(shape), tuple(strides),
                (t.code, t.bits, t.lanes), device, capsule)

    def view(self, a: Any) -> View:
        at, shape, steps, dtype, device, capsule = self.raw(a)
        strides: Any = steps
        name = _DLPACK_NAMES.get(dtype[:2])
        if name is None or dtype[2] != 1:
            raise ValueError(f"{self.name}: arrays of DLPack type {dtype} cannot be used")
        return View(at, shape, [s * SIZES[name] for s in strides], name, device, a, capsule)

    def dtype(self, name: str) -> Any:
        return numpy_dtype(name)

    def empty(self, shape: Sequence[int], dtype: Any, device: Optional[str],
              like: Any = None) -> Tuple[Any, int]:
        if device is not None:
            raise TypeError(f"{self.name}: results on {device} are made for torch tensors only")
        y = np.empty(shape, dtype)
        return y, y.ctypes.data

    def finish(self, a: Any) -> Any:
        return self.make(a)


class Mlx(Dlpack):
    """MLX arrays on the CPU: read without a copy (and evaluated by it); a result is copied once,
    because MLX takes over no memory of others there."""

    def __init__(self) -> None:
        import mlx.core as mx

        super().__init__("mlx", mx.array)
        self.mx = mx

    def raw(self, a: Any, _one=C.c_char.from_buffer, _at=C.addressof) -> Raw:
        held = memoryview(a)
        try:
            at = _at(_one(held))
        except (TypeError, ValueError):  # not dense, or empty
            return super().raw(a) if a.size else (0, a.shape, None, a.dtype, None, a)
        return at, a.shape, None, a.dtype, None, held

    def view(self, a: Any) -> View:
        name = str(a.dtype).split(".")[-1]
        if name == "bool_":
            name = "bool"
        if name not in SIZES:
            raise ValueError(f"mlx arrays of dtype {a.dtype} cannot be used")
        at, shape, steps, dtype, device, keep = self.raw(a)
        strides: Any = steps
        if strides is None:  # dense
            strides = memoryview(a).strides
        else:
            strides = [s * SIZES[name] for s in strides]
        return View(at, shape, strides, name, device, a, keep)

    def finish(self, a: np.ndarray) -> Any:
        if a.dtype == np.uint16 and BF16 is None:
            return self.make(a).view(self.mx.bfloat16)
        return self.make(a)

    def dtype(self, name: str) -> Any:
        return np.dtype(np.uint16) if name == "bfloat16" and BF16 is None else numpy_dtype(name)


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


def _once(name: str, make: Callable[[], Frame]) -> Frame:
    if name not in _made:
        _made[name] = make()
    return _made[name]


def _jax_array(a: np.ndarray) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(a)


def _find(a: Any) -> Frame:
    kind = type(a)
    modules = {base.__module__.split(".")[0] for base in kind.__mro__}
    if isinstance(a, np.ndarray):
        return NUMPY
    if "torch" in modules:
        return _once("torch", Torch)
    if "mlx" in modules and hasattr(a, "__dlpack__"):
        return _once("mlx", Mlx)
    if modules & {"jax", "jaxlib"} and hasattr(a, "__dlpack__"):
        return _once("jax", lambda: Dlpack("jax", _jax_array))
    if hasattr(a, "__dlpack__"):
        name = kind.__module__.split(".")[0]
        return _once(name, lambda: Dlpack(name, lambda y: y))
    try:
        memoryview(a)
    except TypeError:
        raise TypeError(f"expected an array (numpy, torch, MLX, or anything with __dlpack__ or "
                        f"the buffer protocol), got {kind.__module__}.{kind.__qualname__}"
                        ) from None
    return _once("buffer", Buffer)


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
