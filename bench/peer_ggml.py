# SPDX-License-Identifier: MIT
"""ggml's CPU backend through ctypes: the libraries of the PyPI package llama-cpp-python.

The block is the graph that llama.cpp builds: mul_mat_id twice, swiglu, mul_mat_id, times the
weights, and the sum over the slots as adds of views; of one matrix it is mul_mat. `repack` puts the
weights into the buffer that rewrites them at load, for formats that it knows; else they are read
where they lie.
"""

import ctypes as C
import importlib.util
from pathlib import Path

import numpy as np

P, I32, I64, SIZE = C.c_void_p, C.c_int32, C.c_int64, C.c_size_t
F32_TYPE, I32_TYPE = 0, 26
# Signatures: name, result, arguments.
BASE = [
    ("ggml_free", None, [P]),
    ("ggml_tensor_overhead", SIZE, []),
    ("ggml_graph_overhead", SIZE, []),
    ("ggml_new_tensor_1d", P, [P, I32, I64]),
    ("ggml_new_tensor_2d", P, [P, I32, I64, I64]),
    ("ggml_new_tensor_3d", P, [P, I32, I64, I64, I64]),
    ("ggml_mul_mat", P, [P, P, P]),
    ("ggml_mul_mat_id", P, [P, P, P, P]),
    ("ggml_swiglu_split", P, [P, P, P]),
    ("ggml_mul", P, [P, P, P]),
    ("ggml_add", P, [P, P, P]),
    ("ggml_view_2d", P, [P, P, I64, I64, SIZE, SIZE]),
    ("ggml_cont", P, [P, P]),
    ("ggml_set_input", None, [P]),
    ("ggml_set_output", None, [P]),
    ("ggml_new_graph", P, [P]),
    ("ggml_build_forward_expand", None, [P, P]),
    ("ggml_nbytes", SIZE, [P]),
    ("ggml_get_data", P, [P]),
    ("ggml_type_name", C.c_char_p, [I32]),
    ("ggml_gallocr_new", P, [P]),
    ("ggml_gallocr_alloc_graph", C.c_bool, [P, P]),
    ("ggml_gallocr_free", None, [P]),
    ("ggml_backend_free", None, [P]),
    ("ggml_backend_buffer_free", None, [P]),
    ("ggml_backend_get_default_buffer_type", P, [P]),
    ("ggml_backend_cpu_buffer_from_ptr", P, [P, SIZE]),
    ("ggml_backend_tensor_alloc", I32, [P, P, P]),
    ("ggml_backend_alloc_ctx_tensors_from_buft", P, [P, P]),
    ("ggml_backend_tensor_set", None, [P, P, SIZE, SIZE]),
    ("ggml_backend_graph_compute", I32, [P, P]),
    ("ggml_backend_get_device", P, [P]),
    ("ggml_backend_dev_backend_reg", P, [P]),
    ("ggml_backend_reg_get_proc_address", P, [P, C.c_char_p]),
    ("ggml_backend_buft_name", C.c_char_p, [P]),
]
CPU = [
    ("ggml_backend_cpu_init", P, []),
    ("ggml_backend_cpu_set_n_threads", None, [P, C.c_int]),
]


# ggml reports every matrix that it repacks; nobody reads that here.
SILENCE = C.CFUNCTYPE(None, C.c_int, C.c_char_p, P)(lambda level, text, user: None)


class InitParams(C.Structure):
    _fields_ = [("mem_size", SIZE), ("mem_buffer", P), ("no_alloc", C.c_bool)]


class Tensor(C.Structure):
    """struct ggml_tensor, for nb and extra."""

    _fields_ = [("type", I32), ("buffer", P), ("ne", I64 * 4), ("nb", SIZE * 4), ("op", I32),
                ("op_params", I32 * 16), ("flags", I32), ("src", P * 10), ("view_src", P),
                ("view_offs", SIZE), ("data", P), ("name", C.c_char * 64), ("extra", P),
                ("padding", C.c_char * 8)]


def fields(tensor):
    return C.cast(tensor, C.POINTER(Tensor)).contents


class Ggml:
    def __init__(self, threads):
        folder = Path(importlib.util.find_spec("llama_cpp").origin).parent / "lib"
        self.base = C.CDLL(str(folder / "libggml-base.so"), C.RTLD_GLOBAL)
        self.cpu = C.CDLL(str(folder / "libggml-cpu.so"), C.RTLD_GLOBAL)
        for dll, table in ((self.base, BASE), (self.cpu, CPU)):
            for name, result, arguments in table:
                function = getattr(dll, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name.removeprefix("ggml_"), function)
        self.base.ggml_init.restype, self.base.ggml_init.argtypes = P, [InitParams]
        self.base.ggml_version.restype = C.c_char_p
        self.version = self.base.ggml_version().decode()
        self.base.ggml_log_set(SILENCE, None)
        self.backend = self.backend_cpu_init()
        self.backend_cpu_set_n_threads(self.backend, threads)
        self.plain = self.backend_get_default_buffer_type(self.backend)
        self.repacking = self.find_repacking()

    def has(self, feature):
        return bool(getattr(self.cpu, f"ggml_cpu_has_{feature}")())

    def features(self):
        return " ".join(f for f in ("avx2", "avx512", "avx512_vnni", "neon", "dotprod")
                        if self.has(f))

    def context(self, n_tensors):
        size = n_tensors * self.tensor_overhead() + 2 * self.graph_overhead()
        return self.base.ggml_init(InitParams(size, None, True))

    def find_repacking(self):
        """The buffer type that rewrites weights at load, or None."""
        device = self.backend_get_device(self.backend)
        address = self.backend_reg_get_proc_address(self.backend_dev_backend_reg(device),
                                                    b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return None
        types = C.CFUNCTYPE(C.POINTER(P), P)(address)(device)
        i = 0
        while types and types[i]:
            if b"REPACK" in self.backend_buft_name(types[i]):
                return types[i]
            i += 1
        return None


class Weights:
    """One layer's [E, rows, k] matrices of a ggml type over the given bytes."""

    def __init__(self, ggml, repack, matrices):
        self.g, self.context, self.buffers = ggml, ggml.context(len(matrices)), []
        self.tensors = [ggml.new_tensor_3d(self.context, kind, k, rows, experts)
                        for kind, (experts, rows, k), _ in matrices]
        self.keep = [data for _, _, data in matrices]
        for tensor, data in zip(self.tensors, self.keep):
            assert ggml.nbytes(tensor) == data.nbytes, "the sizes of a matrix differ"
        self.good = True
        if repack:
            self.buffers.append(ggml.backend_alloc_ctx_tensors_from_buft(self.context,
                                                                        ggml.repacking))
            # Without traits of its own in `extra` the buffer cannot serve this type and shape.
            self.good = all(fields(t).extra for t in self.tensors)
            for tensor, data in zip(self.tensors, self.keep) if self.good else ():
                ggml.backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
        else:
            for tensor, data in zip(self.tensors, self.keep):
                buffer = ggml.backend_cpu_buffer_from_ptr(data.ctypes.data, data.nbytes)
                ggml.backend_tensor_alloc(buffer, tensor, data.ctypes.data)
                self.buffers.append(buffer)

    def free(self):
        for buffer in self.buffers:
            self.g.backend_buffer_free(buffer)
        self.g.free(self.context)


class Block:
    """The graph of one layer for T tokens."""

    def __init__(self, ggml, weights, shape, n_tokens):
        g, self.g, self.weights = ggml, ggml, weights
        k, used = shape.hidden, shape.used
        self.context = ctx = g.context(64 + 4 * used)
        self.inputs = []
        if len(weights.tensors) == 1:
            self.y, self.shape = self.dense(k, n_tokens), (n_tokens, shape.ff)
        else:
            self.y, self.shape = self.experts(k, used, n_tokens), (n_tokens, k)
        g.set_output(self.y)
        self.graph = g.new_graph(ctx)
        g.build_forward_expand(self.graph, self.y)
        self.allocator = g.gallocr_new(g.plain)
        assert g.gallocr_alloc_graph(self.allocator, self.graph), "ggml found no memory"

    def input(self, tensor):
        self.g.set_input(tensor)
        self.inputs.append(tensor)
        return tensor

    def dense(self, k, n_tokens):
        x = self.input(self.g.new_tensor_2d(self.context, F32_TYPE, k, n_tokens))
        return self.g.mul_mat(self.context, self.weights.tensors[0], x)

    def experts(self, k, used, n_tokens):
        g, ctx = self.g, self.context
        x = self.input(g.new_tensor_3d(ctx, F32_TYPE, k, 1, n_tokens))
        ids = self.input(g.new_tensor_2d(ctx, I32_TYPE, used, n_tokens))
        w = self.input(g.new_tensor_3d(ctx, F32_TYPE, 1, used, n_tokens))
        gate, up, down = self.weights.tensors
        h = g.swiglu_split(ctx, g.mul_mat_id(ctx, gate, x, ids), g.mul_mat_id(ctx, up, x, ids))
        y = g.mul(ctx, g.mul_mat_id(ctx, down, h, ids), w)
        nb = fields(y).nb
        parts = [g.view_2d(ctx, y, k, n_tokens, nb[2], i * nb[1]) for i in range(used)]
        total = parts[0]
        for part in parts[1:]:
            total = g.add(ctx, total, part)
        return g.cont(ctx, total) if used == 1 else total

    def set(self, x, ids, w):
        for tensor, array in zip(self.inputs, (x, ids, w)):
            C.memmove(self.g.get_data(tensor), array.ctypes.data, array.nbytes)

    def run(self):
        if self.g.backend_graph_compute(self.g.backend, self.graph) != 0:
            raise RuntimeError("ggml could not compute the graph")

    def output(self):
        n = self.shape[0] * self.shape[1]
        array = (C.c_float * n).from_address(self.g.get_data(self.y))
        return np.array(array, np.float32).reshape(self.shape)

    def free(self):
        self.g.gallocr_free(self.allocator)
        self.g.free(self.context)
