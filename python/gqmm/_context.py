# SPDX-License-Identifier: MIT
"""Contexts: the threads, scratch memory and device that calls run on."""

from __future__ import annotations

import ctypes as C
import os
import sys
import threading
from typing import Any, Dict, List, Optional

from . import _abi
from ._frames import _made, device_name

_lib = _abi.lib
_LEGACY = 1  # cudaStreamLegacy, the default stream, as a handle that is not NULL
_DEVICE_FAILED = 8


def device_index(device: Any) -> Optional[int]:
    """None for the CPU, else the number of a CUDA device: of "cpu", "cuda", "cuda:1" or anything
    that prints so (torch.device)."""
    text = "cpu" if device is None else str(device)
    if text == "cpu":
        return None
    kind, _, number = text.partition(":")
    if kind != "cuda" or not (number.isdigit() or text == "cuda"):
        raise ValueError(f"device '{text}' is none of cpu, cuda, cuda:0, cuda:1, ...")
    return int(number or 0)


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

    On CUDA a call is enqueued on the stream that the arrays' package is using, and returns. Calls
    of one context on several streams must not overlap; the default contexts are one for each.
    """

    _handle = 0

    def __init__(self, threads: int = 0, isa: Optional[str] = None, device: Any = "cpu",
                 openmp: bool = False, _stream: Optional[int] = None):
        self._device = device_index(device)
        self._stream = _stream
        #: a context of a single stream has no need to ask for it
        self._moves = self._device is not None and _stream is None
        desc = _abi.new("gqmm_context_desc", n_threads=threads,
                        device=device_name(self._device).encode(),
                        isa=None if isa is None else isa.encode())
        if self._device is not None:
            desc.stream = _stream or _LEGACY
        if openmp:
            desc.parallel_for = C.cast(_lib.gqmm_openmp_for, C.c_void_p).value
            desc.parallel_user = _openmp()
        out = C.c_void_p()
        _abi.call("gqmm_context_create", desc, C.byref(out))
        self._handle = out.value or 0
        self._pid = os.getpid()
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
        return device_name(self._device)

    def explain(self) -> str:
        """One line on how the last call ran: operation, format, kernels, pairs, scratch bytes."""
        text = C.create_string_buffer(512)
        _lib.gqmm_explain(self._handle, C.addressof(text), len(text))
        return text.value.decode()

    def synchronize(self) -> None:
        """Waits for the calls before. On CUDA, ids lie where nobody can look at them before a call:
        RangeError tells of bad ones among the calls before, once; their rows are zero. On the CPU
        there is nothing to wait for."""
        if self._device is not None:
            _wait(self._device)  # not for the stream, which its package may have destroyed
            _abi.call("gqmm_context_fault", self._handle)

    def _call(self, name: str, desc: Any, frame: Any = None) -> None:
        """One operation. ctypes lets go of the GIL meanwhile."""
        with self._lock:
            self._run(getattr(_lib, name), C.addressof(desc), frame)

    def _run(self, function: Any, desc: int, frame: Any) -> None:
        """The call itself, the lock being held."""
        if self._moves:
            self._follow(frame)
        if function(self._handle, desc, self._error_at):
            self._fail()
        if self._device is not None and frame.waits:
            _abi.call("gqmm_synchronize", self._handle)

    def _follow(self, frame: Any) -> None:
        """The calls that follow go to the stream that the package of the arrays is using."""
        stream = frame.stream(self._device)
        if stream != self._stream:
            _abi.call("gqmm_context_set_stream", self._handle, stream or _LEGACY)
            self._stream = stream

    def _fail(self) -> None:
        error = _abi.error_of(self._error)
        if error.status == _DEVICE_FAILED:  # gqmm.h: the context is of no more use
            for key, context in list(_contexts.items()):
                if context is self:
                    del _contexts[key]
        raise error

    def __repr__(self) -> str:
        if self._device is not None:
            return f"<gqmm.Context {self.device}, {self.isa}>"
        return f"<gqmm.Context {self.device}, {self.threads} threads, {self.isa}>"

    def __del__(self, _destroy: Any = _lib.gqmm_context_destroy, _pid: Any = os.getpid,
                _leave: Any = _lib.gqmm_context_set_stream) -> None:
        # The threads of a pool stay behind when a process forks: a child must not wait for them.
        if self._handle and self._pid == _pid():
            if self._device is not None:
                _leave(self._handle, _LEGACY, None)  # a stream of others may be gone already
            _destroy(self._handle)
            self._handle = 0


def _openmp() -> int:
    """The address of GOMP_parallel in whatever runtime the process has loaded."""
    try:
        return C.cast(C.CDLL(None).GOMP_parallel, C.c_void_p).value or 0
    except AttributeError:
        raise RuntimeError("no OpenMP runtime is loaded (import torch first)") from None


#: the default ones: None for the CPU, (device, stream) for a stream, device for one that was set
_contexts: Dict[Any, Context] = {}
_left_behind: List[Context] = []  # contexts of the parent process, never destroyed here
_making = threading.Lock()


def _make(key: Any) -> Context:
    """Where torch is loaded, its threads are used: but not in a forked child, whose OpenMP runtime
    waits for threads that stayed with the parent."""
    if key is not None:
        return Context(device=device_name(key[0]), _stream=key[1])
    if not _left_behind and hasattr(sys.modules.get("torch"), "get_num_threads"):
        try:
            return Context(sys.modules["torch"].get_num_threads(), openmp=True)
        except RuntimeError:
            pass
    return Context()


def _find(key: Any) -> Context:
    found = _contexts.get(key)
    if found is None:
        with _making:
            found = _contexts.get(key)
            if found is None:
                found = _contexts[key] = _make(key)
    return found


def context_of(device: Optional[int], frame: Any) -> Context:
    """The default context of a call: on CUDA, of the stream that `frame` is using."""
    if device is None:
        return _contexts.get(None) or _find(None)
    key = (device, frame.stream(device))
    return _contexts.get(device) or _contexts.get(key) or _find(key)


def any_context(device: Optional[int]) -> Context:
    """One of the device, for what is no call: making weights."""
    if device is None:
        return _find(None)
    return _contexts.get(device) or _find((device, 0))


def default_context(device: Any = None) -> Context:
    """The context of calls that name none: one for the CPU, one for each stream of a CUDA device
    (this is then the one of the default stream). Where torch is imported before the first call
    (and after `import gqmm.torch`), the one for the CPU runs on torch's OpenMP threads."""
    return any_context(device_index(device))


def set_default_context(context: Context) -> None:
    """Calls that name no context run on this one from now on (on its device)."""
    _contexts[context._device] = context


def _wait(device: int) -> None:
    for frame in list(_made.values()):
        frame.wait(device)


def synchronize(device: Any = None) -> None:
    """Waits for the calls of a CUDA device ("cuda", "cuda:1"; None: of all devices). RangeError
    tells of bad ids among the calls before on default contexts, once; their rows are zero."""
    index = device_index(device)
    bad = None
    for context in list(_contexts.values()):
        if context._device is not None and (device is None or context._device == index):
            try:
                context.synchronize()
            except _abi.RangeError as why:
                bad = why
    if bad is not None:
        raise bad


def _after_fork() -> None:
    global _making
    _making = threading.Lock()
    _left_behind.extend(_contexts.values())
    _contexts.clear()


os.register_at_fork(after_in_child=_after_fork)
