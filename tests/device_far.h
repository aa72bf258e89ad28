/* SPDX-License-Identifier: MIT */
/* Offsets beyond 2^31 on the device under test: more weights than that, and activations farther
 * apart. Only the far ends are filled and read. */
#ifndef TESTS_DEVICE_FAR_H
#define TESTS_DEVICE_FAR_H

#include "device_rows.h"

static bool far_copy(uint8_t *to, const void *from, int64_t bytes)
{
    return step(gqmm_device_copy(on.ctx, to, from, (size_t)bytes, &fault));
}

/* Memory of any size, or a note that the device has not so much. */
static uint8_t *far_memory(int64_t bytes)
{
    void *memory = NULL;
    if (gqmm_device_alloc(on.ctx, (size_t)bytes, &memory, &fault) == GQMM_OK)
        return memory;
    note("%lld MiB cannot be had here: left out", (long long)(bytes >> 20));
    return NULL;
}

/* A stack of two experts laid at the end of one of `e`: the handle reads them as e - 2 and e - 1.
 */
typedef struct far_stack {
    uint8_t *plane[3];
    int64_t bytes[3];
    gqmm_weights *w;
    span ids;
} far_stack;

static void far_free(far_stack *s)
{
    gqmm_weights_destroy(s->w);
    for (int i = 0; i < 3; i++)
        gqmm_device_free(on.ctx, s->plane[i], (size_t)s->bytes[i]);
    span_free(&s->ids);
}

static bool far_make(far_stack *far, const job *j, int64_t e)
{
    gqmm_weights_desc d = j->s.d;
    for (int i = 0; i < j->s.f->pub.n_planes; i++) {
        const int64_t expert = plane_size(&j->s, i) / 2;
        far->bytes[i] = e * expert;
        if (!(far->plane[i] = far_memory(far->bytes[i])))
            return true;
        if (!far_copy(far->plane[i] + (e - 2) * expert, j->s.memory[i], 2 * expert))
            return false;
        d.plane[i] = far->plane[i];
    }
    d.n_experts = e;
    d.global_scale = NULL;
    if (!step(gqmm_weights_create(on.ctx, &d, &far->w, &fault)) ||
        !span_make(&far->ids, (int64_t)j->rhs.bytes, 0))
        return false;
    for (int64_t p = 0; p < j->g.n_pairs; p++) {
        int32_t id;
        memcpy(&id, span_image(&j->rhs) + 4 * p, 4);
        id = id < 0 ? id : id + (int32_t)e - 2;
        memcpy(span_image(&far->ids) + 4 * p, &id, 4);
    }
    return span_put(&far->ids);
}

/* 8200 experts of 65 x 4096: 2.18e9 weights. */
static bool far_weights(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && i < 3; i++) {
        const call_plan p = {.e = 2,
                             .rows = 65,
                             .cols = 4096,
                             .pairs = i == 1 ? 100 : 5,
                             .m = 1,
                             .n_x = i == 1 ? 100 : 5,
                             .transpose = i != 2,
                             .x_type = GQMM_BF16,
                             .y_type = GQMM_F32,
                             .rhs = IDS_SKIP};
        job j;
        far_stack far = {0};
        ok = job_make(&j, f, &p) && far_make(&far, &j, 8200);
        if (ok && far.w) {
            j.g.w = far.w;
            j.g.rhs = (const int32_t *)(const void *)span_at(&far.ids);
            ok = job_run(&j);
        }
        far_free(&far);
        job_free(&j);
        ok = ok || job_explain(f, &p);
    }
    return ok;
}

/* A dense product whose weights are dequantised in slices, on sm_90. */
static bool far_slices(const gqmm_format_info *f)
{
    const call_plan p = {.e = 1,
                         .rows = 70008,
                         .cols = 256,
                         .pairs = 1,
                         .m = 520,
                         .n_x = 1,
                         .transpose = 1,
                         .x_type = GQMM_BF16,
                         .y_type = GQMM_F16,
                         .dense = true};
    return try_call(f, &p);
}

/* Rows past 2^31 weights of one expert: embed and dequantize. */
static bool far_rows(const gqmm_format_info *f)
{
    const int64_t rows = 600011, cols = 4096, at[3] = {rows - 1, rows / 2 * 2 - 70000, 0};
    uint8_t *plane[3] = {NULL};
    int64_t bytes[3] = {0};
    rows_job j = {.embed = true,
                  .n = 3,
                  .step = cols,
                  .s = stack_make(NULL, f->pub.name, 1, 3, cols, (stack_how){0})};
    gqmm_weights_desc d = j.s.d;
    bool ok = true, room = true;
    d.n_rows = rows;
    for (int i = 0; ok && room && i < f->pub.n_planes; i++) {
        const int64_t row = gqmm_format_row_bytes(&f->pub, i, cols);
        bytes[i] = rows * row;
        room = (plane[i] = far_memory(bytes[i])) != NULL;
        for (int r = 0; ok && room && r < 3; r++)
            ok = far_copy(plane[i] + at[r] * row, j.s.memory[i] + r * row, row);
        d.plane[i] = plane[i];
    }
    if (ok && room) {
        ok = step(gqmm_weights_create(on.ctx, &d, &j.w.w, &fault)) &&
             span_make(&j.y, 3 * cols * 4, 0) && span_make(&j.ids, 12, 0);
        for (int pass = 0; ok && pass < 4; pass++) { /* three ids at once, then each row alone */
            int32_t *ids = (int32_t *)(void *)span_image(&j.ids);
            for (int r = 0; r < 3; r++)
                ids[r] = pass ? 0 : (int32_t)at[r];
            j.embed = pass == 0;
            j.n = pass ? 1 : 3;
            j.first = pass ? at[pass - 1] : 0;
            ok = span_put(&j.ids) && span_blank(&j.y) && step(rows_call(&j)) && span_get(&j.y) &&
                 step(gqmm_synchronize(on.ctx, &fault));
            for (int r = 0; r < 3; r++)
                ids[r] = r;
            j.first = pass ? pass - 1 : 0; /* where the stack of three has that row */
            ok = ok && rows_check(&j);
        }
    }
    for (int i = 0; i < 3; i++)
        gqmm_device_free(on.ctx, plane[i], (size_t)bytes[i]);
    rows_free(&j);
    return ok;
}

/* x and y of 2^31 + 64 elements from matrix to matrix: five gigabytes for each pair. */
static bool far_activations(const gqmm_format_info *f)
{
    const call_plan p = {.e = 2,
                         .rows = 130,
                         .cols = 512,
                         .pairs = 3,
                         .m = 1,
                         .n_x = 3,
                         .transpose = 1,
                         .x_type = GQMM_BF16,
                         .y_type = GQMM_BF16,
                         .rhs = IDS_RANDOM};
    const int64_t far = (1ll << 31) + 64, bytes = (2 * far + 512) * 2;
    uint8_t *x = far_memory(bytes), *y = far_memory(bytes);
    job j;
    bool ok = job_make(&j, f, &p);
    for (int i = 0; ok && x && y && i < 3; i++)
        ok = far_copy(x + i * far * 2, span_image(&j.x) + i * j.k * 2, j.k * 2);
    if (ok && x && y) {
        gqmm_gather g = j.g;
        g.x = x;
        g.y = y;
        g.x_mat_stride = g.y_pair_stride = far;
        ok = span_blank(&j.y) && step(gqmm_gather_qmm(on.ctx, &g, &fault));
        for (int i = 0; ok && i < 3; i++)
            ok = far_copy(j.y.seen + j.y.front + i * j.n * 2, y + i * far * 2, j.n * 2);
        ok = ok && step(gqmm_synchronize(on.ctx, &fault)) && check_rows(&j);
    }
    gqmm_device_free(on.ctx, x, (size_t)bytes);
    gqmm_device_free(on.ctx, y, (size_t)bytes);
    job_free(&j);
    return ok || job_explain(f, &p);
}

#endif
