# SPDX-License-Identifier: MIT
"""Contexts: the threads, scratch memory and device that calls run on."""

from __future__ import annotations

import ctypes as C
import os
import sys
import threading
from typing import Any, Dict, List, Optional

from . import _abi

_lib = _abi.lib


class Context:
    """Threads and scratch memory of the C library.

    threads  the calling thread included; 0: one for each CPU this process may use
    isa      never use kernels above this one ("scalar", "avx2", ...); None: the best there is
    device   "cpu", or "cuda:0" with a library that was built for CUDA
    openmp   run on the OpenMP threads of this process (those of torch, say) in place of a pool
             of the context's own, so that the two do not spin against each other; threads is
             then the number asked for. RuntimeError where no OpenMP runtime is loaded

    A context serves one call at a time: calls of other threads wait for it, so that each has all
    of its threads. Programs that rather run calls side by side give every thread of theirs a
    context of its own with few threads. Every function takes `context=`.
    """

    _handle = 0

    def __init__(self, threads: int = 0, isa: Optional[str] = None, device: str = "cpu",
                 openmp: bool = False):
        desc = _abi.new("gqmm_context_desc", n_threads=threads, device=device.encode(),
                        isa=None if isa is None else isa.encode())
        if openmp:
            desc.parallel_for = C.cast(_lib.gqmm_openmp_for, C.c_void_p).value
            desc.parallel_user = _openmp()
        out = C.c_void_p()
        _abi.call("gqmm_context_create", desc, C.byref(out))
        self._handle = out.value or 0
        self._pid = os.getpid()
        self._device = None if device == "cpu" else device
        self._lock = threading.Lock()
        self._error = _abi.ErrorRecord()
        self._error_at = C.addressof(self._error)
        self._plans: Dict[Any, Any] = {}  # of calls whose weights are plain arrays

    @property
    def threads(self) -> int:
        return _lib.gqmm_context_threads(self._handle)

    @property
    def isa(self) -> str:
        """The best room of kernels that this context may use."""
        return _lib.gqmm_context_isa(self._handle).decode()

    @property
    def device(self) -> str:
        return self._device or "cpu"

    def explain(self) -> str:
        """One line on how the last call ran: operation, format, kernels, pairs, scratch bytes."""
        text = C.create_string_buffer(512)
        _lib.gqmm_explain(self._handle, C.addressof(text), len(text))
        return text.value.decode()

    def _call(self, name: str, desc: Any, frame: Any = None) -> None:
        """One operation. ctypes lets go of the GIL meanwhile."""
        with self._lock:
            if self._device and frame is not None:
                self._use_stream_of(frame)
            if getattr(_lib, name)(self._handle, C.addressof(desc), self._error_at):
                raise _abi.error_of(self._error)

    def _use_stream_of(self, frame: Any) -> None:
        """Calls go to the stream that the package of the arrays is using now."""
        stream = frame.torch.cuda.current_stream(self._device).cuda_stream
        record = _abi.ErrorRecord()
        if _lib.gqmm_context_set_stream(self._handle, stream, C.addressof(record)):
            raise _abi.error_of(record)

    def __repr__(self) -> str:
        return f"<gqmm.Context {self.device}, {self.threads} threads, {self.isa}>"

    def __del__(self, _destroy: Any = _lib.gqmm_context_destroy, _pid: Any = os.getpid) -> None:
        # The threads of a pool stay behind when a process forks: a child must not wait for them.
        if self._handle and self._pid == _pid():
            _destroy(self._handle)
            self._handle = 0


def _openmp() -> int:
    """The address of GOMP_parallel in whatever runtime the process has loaded."""
    try:
        return C.cast(C.CDLL(None).GOMP_parallel, C.c_void_p).value or 0
    except AttributeError:
        raise RuntimeError("no OpenMP runtime is loaded (import torch first)") from None


_contexts: Dict[Optional[str], Context] = {}
_left_behind: List[Context] = []  # contexts of the parent process, never destroyed here
_making = threading.Lock()


def _make(device: Optional[str]) -> Context:
    """Where torch is loaded, its threads are used: but not in a forked child, whose OpenMP runtime
    waits for threads that stayed with the parent."""
    if device is None and not _left_behind and hasattr(sys.modules.get("torch"), "get_num_threads"):
        try:
            return Context(sys.modules["torch"].get_num_threads(), openmp=True)
        except RuntimeError:
            pass
    return Context(device=device or "cpu")


def default_context(device: Optional[str] = None) -> Context:
    """The context of calls that name none: one for the CPU, one for each other device. Where torch
    is imported before the first call (and after `import gqmm.torch`), the one for the CPU runs on
    torch's OpenMP threads."""
    found = _contexts.get(device)
    if found is None:
        with _making:
            found = _contexts.get(device)
            if found is None:
                found = _contexts[device] = _make(device)
    return found


def set_default_context(context: Context) -> None:
    """Calls that name no context run on this one from now on (on its device)."""
    _contexts[context._device] = context


def _after_fork() -> None:
    global _making
    _making = threading.Lock()
    _left_behind.extend(_contexts.values())
    _contexts.clear()


os.register_at_fork(after_in_child=_after_fork)
