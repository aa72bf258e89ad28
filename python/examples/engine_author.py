# SPDX-License-Identifier: MIT
# %% [markdown]
# An engine of one's own: a GGUF file mapped in place, the whole expert block in one call.
#     python python/examples/engine_author.py [FILE.gguf]

# %%
import sys
import time
from pathlib import Path

import numpy as np

import gqmm

default = Path(__file__).resolve().parents[2] / "models" / "stories-q4_k_m.gguf"
path = sys.argv[1] if len(sys.argv) > 1 else default
print(gqmm.info())

# %% A file is a mapping of names; quantised tensors are Weights, nothing has been read yet
file = gqmm.load(path)
print(file)
name = "blk.0.ffn_{}_exps.weight"
gate, up, down = (file[name.format(part)] for part in ("gate", "up", "down"))
router = file["blk.0.ffn_gate_inp.weight"]
slots = file.metadata[f"{file.metadata['general.architecture']}.expert_used_count"]
print(gate, up, down, sep="\n")

# %% Rows of the quantised embedding, then the block: router, top-k, SwiGLU, weighted sum
x = gqmm.embed(file.weights("token_embd.weight"), np.arange(64))
y, ids, weights = gqmm.moe(x, gate, up, down, router=router, n_slots=slots, return_routing=True)
print(f"y {y.shape} {y.dtype}, experts used {len(np.unique(ids))} of {gate.shape[0]}")

# %% The same by hand: a product of (token, expert) pairs for each matrix
g, u = (gqmm.gather_qmm(x[:, None, None], w, rhs_indices=ids) for w in (gate, up))
h = g / (1 + np.exp(-g)) * u
z = gqmm.gather_qmm(h.reshape(len(ids), slots, 1, -1), down, rhs_indices=ids)
z = (z[:, :, 0] * weights[..., None]).sum(1)
print(f"largest difference to the fused block: {np.abs(z - y).max():.1e}")

# %% 8-bit activations, and how long a call takes
for precision in ("exact", "int8"):
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        gqmm.moe(x, gate, up, down, ids=ids, weights=weights, precision=precision)
        times.append(time.perf_counter() - begin)
    print(f"{precision:5}: {sorted(times)[25] * 1e6:.0f} us for {len(x)} tokens")
print(gqmm.default_context().explain())
