# SPDX-License-Identifier: MIT
# %% [markdown]
# MLX on a Linux CPU: the same program, gqmm's kernels under it.
#     python python/examples/mlx_user.py
# needs: pip install "mlx[cpu]"

# %%
import time

import mlx.core as mx

import gqmm.mlx_compat

mx.set_default_device(mx.cpu)
mx.random.seed(0)


def switch_layer(x, w, ids):
    """A layer of experts as mlx-lm calls it: x [T, 1, 1, K], ids [T, S]."""
    return mx.gather_qmm(x, *w, rhs_indices=ids, transpose=True, group_size=64, bits=4)


def timed(f, *arguments, repeat=5):
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        y = f(*arguments)
        mx.eval(y)
        times.append(time.perf_counter() - begin)
    return y, min(times) * 1e3


# %% 16 experts of 768 x 2048 at 4 bits, 8 tokens, 4 experts each
w = mx.quantize(mx.random.normal((16, 768, 2048)) / 45, group_size=64, bits=4)
x = mx.random.normal((8, 1, 1, 2048))
ids = mx.random.randint(0, 16, (8, 4)).astype(mx.uint32)
mx.eval(w, x, ids)
before, ms = timed(switch_layer, x, w, ids)
print(f"mlx.core {mx.__version__}: {ms:.2f} ms")

# %% The one line
gqmm.mlx_compat.install()
after, ms = timed(switch_layer, x, w, ids)
print(f"gqmm {gqmm.__version__}: {ms:.2f} ms")
print(f"largest difference {float(mx.abs(before - after).max()):.1e}")

# %% Gradients still work
g = mx.grad(lambda x: (switch_layer(x, w, ids) ** 2).sum())(x)
print("gradient", g.shape, dict(gqmm.mlx_compat.counts))
gqmm.mlx_compat.uninstall()
