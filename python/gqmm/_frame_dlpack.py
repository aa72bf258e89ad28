# SPDX-License-Identifier: MIT
"""Arrays of packages that speak DLPack, and what is quicker for some of them: MLX, JAX, CuPy."""

from __future__ import annotations

import ctypes as C
import struct
from typing import Any, Callable, Optional, Sequence, Tuple

import numpy as np

from ._abi import lib
from ._frames import (BF16, NUMPY, SIZES, Frame, Look, Made, Raw, View, _made, device_name,
                      numpy_dtype)

_NAMES = {
    (2, 32): "float32", (2, 16): "float16", (4, 16): "bfloat16", (2, 64): "float64",
    (0, 8): "int8", (0, 16): "int16", (0, 32): "int32", (0, 64): "int64",
    (1, 8): "uint8", (1, 16): "uint16", (1, 32): "uint32", (1, 64): "uint64", (6, 8): "bool",
}
_PER_THREAD = 2  # cudaStreamPerThread


class _Tensor(C.Structure):  # DLTensor
    _fields_ = [("data", C.c_void_p), ("device_type", C.c_int32), ("device_id", C.c_int32),
                ("ndim", C.c_int32), ("code", C.c_uint8), ("bits", C.c_uint8),
                ("lanes", C.c_uint16), ("shape", C.POINTER(C.c_int64)),
                ("strides", C.POINTER(C.c_int64)), ("byte_offset", C.c_uint64)]


_pointer_of = C.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = C.c_void_p
_pointer_of.argtypes = [C.py_object, C.c_char_p]


def _exported(a: Any) -> Any:
    """a.__dlpack__(). Of arrays on CUDA, such that torch's current stream waits for their contents
    (or the default stream, where torch is not in use)."""
    kind, index = a.__dlpack_device__()
    if kind != 2:
        return a.__dlpack__()
    torch = _made.get("torch")
    return a.__dlpack__(stream=(torch.stream(index) if torch else 0) or 1)


def _looker() -> Any:
    """gqmm_look of the C library (python/look.c), ready to be called; None in a library without."""
    dll = C.PyDLL(lib._name)
    if not hasattr(dll, "gqmm_look"):
        return None
    api = [C.cast(getattr(C.pythonapi, name), C.c_void_p) for name in
           ("PyObject_GetBuffer", "PyBuffer_Release", "PyBytes_FromStringAndSize")]
    dll.gqmm_look_with(*api, C.c_void_p(id(None)))
    dll.gqmm_look.restype = C.py_object
    dll.gqmm_look.argtypes = [C.py_object] * 6
    return dll.gqmm_look


_look = _looker()


class Dlpack(Frame):
    """Any array with __dlpack__; results are numpy's, and there are none on devices."""

    def __init__(self, name: str):
        self.name = name

    def raw(self, a: Any) -> Raw:
        capsule = _exported(a)
        t = _Tensor.from_address(_pointer_of(capsule, b"dltensor"))
        shape = t.shape[:t.ndim] if t.ndim else []
        if t.ndim and t.strides:
            strides = t.strides[:t.ndim]
        else:
            strides = [int(np.prod(shape[i + 1:])) for i in range(t.ndim)]
        if t.device_type in (1, 3):  # kDLCPU, kDLCUDAHost
            device = None
        elif t.device_type == 2:
            device = t.device_id
        else:
            raise TypeError(f"{self.name}: arrays on DLPack device type {t.device_type} cannot be "
                            "used, only those of the CPU and of CUDA")
        return ((t.data or 0) + t.byte_offset, tuple(shape), tuple(strides),
                (t.code, t.bits, t.lanes), device, capsule)

    def view(self, a: Any) -> View:
        at, shape, steps, dtype, device, capsule = self.raw(a)
        strides: Any = steps
        name = _NAMES.get(dtype[:2])
        if name is None or dtype[2] != 1:
            raise ValueError(f"{self.name}: arrays of DLPack type {dtype} cannot be used")
        return View(at, shape, [s * SIZES[name] for s in strides], name, device, a, capsule)

    def dtype(self, name: str) -> Any:
        return numpy_dtype(name)

    def maker(self, shape: Sequence[int], dtype: Any, device: Optional[int]) -> Callable[[], Made]:
        if device is not None:
            self.stream(device)  # says that there is none
        return NUMPY.maker(shape, dtype, None)


class Mlx(Dlpack):
    """MLX arrays on the CPU: read without a copy (and evaluated by it); a result is copied once,
    because MLX takes over no memory of others there."""

    def __init__(self) -> None:
        import mlx.core as mx

        super().__init__("mlx")
        self.mx = mx
        self.bf16 = BF16 is None  # results in bfloat16 come as uint16

    def look(self, x: Any, w: Any, s: Any, b: Any, lhs: Any, rhs: Any, _look=_look,
             _three=struct.Struct("3q").unpack_from) -> Look:
        try:
            found = _look(x, lhs, rhs, w, s, b)
        except (TypeError, BufferError):  # an array without a buffer, torch's or CuPy's
            found = b""
        if not found:
            return super().look(x, w, s, b, lhs, rhs)
        return (found[24:], *_three(found), None, None)

    def raw(self, a: Any, _view=memoryview, _one=C.c_char.from_buffer, _at=C.addressof) -> Raw:
        held = _view(a)
        try:
            at = _at(_one(held))
        except (TypeError, ValueError):  # not dense, or empty
            return super().raw(a) if a.size else (0, a.shape, None, a.dtype, None, a)
        return at, held.shape, None, held.format, None, held

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
        if self.bf16 and a.dtype == np.uint16:
            return self.mx.array(a).view(self.mx.bfloat16)
        return self.mx.array(a)

    def finisher(self) -> Any:
        return self.finish if self.bf16 else self.mx.array

    def dtype(self, name: str) -> Any:
        return np.dtype(np.uint16) if name == "bfloat16" and BF16 is None else numpy_dtype(name)


class Jax(Dlpack):
    """JAX arrays. Its streams are its own: on CUDA a call waits for its arrays and for its result,
    which is written into a new array before anything else sees it."""

    waits = True

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        super().__init__("jax")
        self.jax, self.jnp = jax, jnp

    def raw(self, a: Any) -> Raw:
        if isinstance(a, self.jax.core.Tracer):
            raise TypeError("jax: inside jit, grad and vmap arrays have no values; call gqmm "
                            "outside of them, or through jax.pure_callback")
        where = a.devices()
        place = next(iter(where))
        if place.platform == "cpu":
            return super().raw(a)
        if len(where) != 1 or place.platform not in ("gpu", "cuda"):
            raise TypeError(f"jax: arrays on {where} cannot be used, only those of one CPU or CUDA "
                            "device")
        a.block_until_ready()
        return (a.unsafe_buffer_pointer(), a.shape, None, a.dtype, place.local_hardware_id, a)

    def view(self, a: Any) -> View:
        at, shape, steps, dtype, device, keep = self.raw(a)
        if device is None:
            return super().view(a)
        name = str(dtype)
        if name not in SIZES:
            raise ValueError(f"jax arrays of dtype {dtype} cannot be used")
        strides = [SIZES[name] * int(np.prod(shape[i + 1:])) for i in range(len(shape))]
        return View(at, shape, strides, name, device, a, keep)

    def maker(self, shape: Sequence[int], dtype: Any, device: Optional[int]) -> Callable[[], Made]:
        if device is None:
            return super().maker(shape, dtype, None)
        place = next(d for d in self.jax.devices() if d.local_hardware_id == device)

        def make() -> Made:
            with self.jax.default_device(place):
                y = self.jnp.zeros(shape, dtype)
            y.block_until_ready()
            return y, y.unsafe_buffer_pointer()

        return make

    def finish(self, a: Any) -> Any:
        return self.jnp.asarray(a)

    def dense(self, a: Any, dtype: Optional[str] = None) -> Any:
        if self.raw(a)[4] is None:
            return super().dense(a, dtype)
        return a.astype(dtype or a.dtype).block_until_ready()  # JAX's arrays are dense

    def stream(self, device: int) -> int:
        return _PER_THREAD

    def spread(self, a: Any, shape: Tuple[int, ...]) -> Any:
        if self.raw(a)[4] is None:
            return super().spread(a, shape)
        return self.jnp.broadcast_to(a.astype(np.int32), shape).block_until_ready()

    def count(self, batch: Tuple[int, ...], shape: Tuple[int, ...], device: Optional[int]) -> Any:
        return self._put(super().count(batch, shape, None), device)

    def number(self, value: float, device: Optional[int]) -> Any:
        return self._put(super().number(value, None), device)

    def to_host(self, a: Any) -> Any:
        return np.asarray(a)

    def _put(self, a: np.ndarray, device: Optional[int]) -> Any:
        if device is None:
            return a
        place = next(d for d in self.jax.devices() if d.local_hardware_id == device)
        return self.jax.device_put(a, place).block_until_ready()


class Cupy(Frame):
    """CuPy arrays, on CuPy's current stream."""

    name = "cupy"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy

    def raw(self, a: Any) -> Raw:
        return (a.data.ptr, a.shape, a.flags.c_contiguous or a.strides, a.dtype, a.device.id, None)

    def view(self, a: Any) -> View:
        name = a.dtype.name
        if name not in SIZES:
            raise ValueError(f"cupy arrays of dtype {a.dtype} cannot be used")
        return View(a.data.ptr, a.shape, a.strides, name, a.device.id, a)

    def dtype(self, name: str) -> Any:
        return numpy_dtype(name)

    def maker(self, shape: Sequence[int], dtype: Any, device: Optional[int]) -> Callable[[], Made]:
        if device is None:
            raise TypeError(f"cupy arrays do not lie on {device_name(device)}")
        empty, current, on = self.cupy.empty, self.cupy.cuda.runtime.getDevice, device

        def make() -> Made:
            if current() == on:
                y = empty(shape, dtype)
            else:
                with self.cupy.cuda.Device(on):
                    y = empty(shape, dtype)
            return y, y.data.ptr

        return make

    def dense(self, a: Any, dtype: Optional[str] = None) -> Any:
        with a.device:
            return a.astype(numpy_dtype(dtype) if dtype else a.dtype, order="C", copy=True)

    def stream(self, device: int) -> int:
        return self.cupy.cuda.get_current_stream().ptr

    def wait(self, device: int) -> None:
        self.cupy.cuda.Device(device).synchronize()

    def capturing(self) -> bool:
        return self.cupy.cuda.get_current_stream().is_capturing()

    def spread(self, a: Any, shape: Tuple[int, ...]) -> Any:
        with a.device:
            return self.cupy.ascontiguousarray(
                self.cupy.broadcast_to(a.astype(np.int32), shape))

    def count(self, batch: Tuple[int, ...], shape: Tuple[int, ...], device: Optional[int]) -> Any:
        with self.cupy.cuda.Device(device):
            ids = self.cupy.arange(int(np.prod(batch, dtype=np.int64)), dtype=np.int32)
            return self.cupy.ascontiguousarray(
                self.cupy.broadcast_to(ids.reshape(batch), shape))

    def number(self, value: float, device: Optional[int]) -> Any:
        with self.cupy.cuda.Device(device):
            return self.cupy.full((1,), value, np.float32)

    def to_host(self, a: Any) -> Any:
        return a.get()
