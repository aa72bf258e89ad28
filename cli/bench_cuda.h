/* SPDX-License-Identifier: MIT */
/* What gqmm bench --device cuda has on the device: layers of weights, and the operands of a row. */
#ifndef GQMM_CLI_BENCH_CUDA_H
#define GQMM_CLI_BENCH_CUDA_H

#include "bench_call.h"
#include "bench_device.h"

/* Everything of the layers of one format that lives on the device. */
typedef struct on_device {
    bench *b;
    bench_device *device;
    gqmm_context *ctx;
    const bench_layers *l; /* the host's: one layer */
    uint8_t *memory;
    size_t layer_bytes; /* with its router */
    gqmm_weights **w, **router;
    gqmm_error err;
} on_device;

enum { MOST_BUFFERS = 12 };

typedef struct operands {
    on_device *d;
    bench_inputs in;
    void *buffer[MOST_BUFFERS];
    size_t bytes[MOST_BUFFERS];
    int n;
    int32_t *ids; /* of the host, or those that the routers chose */
} operands;

/* Whether the library's call went well; says what is wrong if not. */
bool bench_did(on_device *d, gqmm_status status);
bool bench_copy(on_device *d, void *to, const void *from, size_t bytes);
bool bench_settle(on_device *d);

/* moe chooses its experts itself; with skewed routing they are given. */
bool bench_has_router(const bench *b);
size_t bench_router_bytes(const bench_layers *l);
size_t bench_type_size(int32_t type);

/* The layers of d->l, on the device as often as l->n_layers says; and what a row works on. Drop
 * both in either case. */
bool bench_put_layers(on_device *d);
void bench_drop_layers(on_device *d);
bool bench_put_operands(operands *o, on_device *d, int64_t tokens);
void bench_drop_operands(operands *o);

#endif
