# SPDX-License-Identifier: MIT
"""MLX on the CPU (mlx[cpu] from PyPI): gather_qmm as mlx-lm's SwitchGLU calls it, and
quantized_matmul; fp32."""

import re

import numpy as np


def arguments(name):
    """gather_qmm's arguments for a format of ours, or None where MLX has no such format in fp32."""
    match = re.fullmatch(r"affine(\d)_g(\d+)_f32", name)
    if match:
        return {"mode": "affine", "bits": int(match[1]), "group_size": int(match[2])}
    return {"mlx_mxfp4": {"mode": "mxfp4", "bits": 4, "group_size": 32},
            "mlx_mxfp8": {"mode": "mxfp8", "bits": 8, "group_size": 32}}.get(name)


class Mlx:
    def __init__(self):
        import mlx.core as mx

        self.mx, self.version = mx, mx.__version__
        mx.set_default_device(mx.cpu)

    def matrix(self, name, shape, planes):
        """Codes, scales and biases of [E, rows, k] from byte planes."""
        mx = self.mx
        parts = [mx.array(planes[0].view(np.uint32).reshape(*shape[:2], -1))]
        for plane in planes[1:]:
            values = plane.view(np.float32) if name.startswith("affine") else plane
            parts.append(mx.array(values.reshape(*shape[:2], -1)))
        mx.eval(parts)
        return parts


class Block:
    """One layer for T tokens; matrices are those of Mlx.matrix()."""

    def __init__(self, mlx, name, matrices):
        self.mx, self.how, self.matrices = mlx.mx, arguments(name), matrices

    def set(self, x, ids, w):
        mx = self.mx
        self.x = mx.array(x) if len(self.matrices) == 1 else mx.array(x)[:, None, None, :]
        self.ids, self.w = mx.array(ids), mx.array(w)
        mx.eval(self.x, self.ids, self.w)

    def product(self, x, parts):
        return self.mx.gather_qmm(x, *parts, rhs_indices=self.ids, transpose=True, **self.how)

    def run(self):
        mx = self.mx
        if len(self.matrices) == 1:
            parts = [part[0] for part in self.matrices[0]]
            self.y = mx.quantized_matmul(self.x, *parts, transpose=True, **self.how)
            mx.eval(self.y)
            return
        gate, up = (self.product(self.x, m) for m in self.matrices[:2])
        y = self.product(gate * mx.sigmoid(gate) * up, self.matrices[2])
        self.y = (y.squeeze(2) * self.w[..., None]).sum(1)
        mx.eval(self.y)

    def output(self):
        return np.array(self.y)

    def free(self):
        pass
