/* SPDX-License-Identifier: MIT */
/* embed, dequantize and quantize on the device under test. */
#ifndef TESTS_DEVICE_ROWS_H
#define TESTS_DEVICE_ROWS_H

#include "device_product.h"

/* One call of embed (ids) or dequantize (rows from `first` on). */
typedef struct rows_job {
    stack s;
    planes w;
    span y, ids;
    bool embed, bad;
    int32_t type;
    int64_t n, first, step; /* step: elements between rows of y */
} rows_job;

static void rows_free(rows_job *j)
{
    planes_free(&j->w);
    stack_free(&j->s);
    span_free(&j->y);
    span_free(&j->ids);
}

static gqmm_status rows_call(const rows_job *j)
{
    const int64_t stride = j->step == j->s.cols ? 0 : j->step;
    gqmm_dequantize_desc q;
    gqmm_embed_desc d;
    GQMM_INIT(d);
    GQMM_INIT(q);
    on.calls++;
    q.y_type = d.y_type = j->type;
    q.w = d.w = j->w.w;
    q.y = d.y = span_at(&j->y);
    q.y_row_stride = d.y_row_stride = stride;
    d.n_ids = q.n_rows = j->n;
    q.first_row = j->first;
    d.ids = (const int32_t *)(const void *)span_at(&j->ids);
    return j->embed ? gqmm_embed(on.ctx, &d, &fault) : gqmm_dequantize(on.ctx, &q, &fault);
}

/* Two fp32 roundings in the definition; the factor of a global scale may be applied anywhere. */
static bool rows_check(const rows_job *j)
{
    const int64_t cols = j->s.cols, size = (int64_t)gqmm_type_size(j->type);
    const uint8_t *y = j->y.seen + j->y.front;
    double *w = make(cols, sizeof *w), *mag = make(cols, sizeof *mag), excess;
    bool ok = true;
    for (int64_t t = 0; ok && t < j->n; t++) {
        const int64_t r = j->embed ? ((int32_t *)(void *)span_image(&j->ids))[t] : j->first + t;
        const int64_t e = j->embed ? 0 : r / j->s.rows, row = j->embed ? r : r % j->s.rows;
        const bool zero = j->embed && (r < 0 || r >= j->s.rows);
        if (!zero)
            stack_decode(&j->s, e, row, w, mag, NULL);
        for (int64_t k = 0; ok && k < cols; k++) {
            const double got = element(y, j->type, t * j->step + k);
            const double bound = 4 * UNIT * mag[k] + 0x1p-149;
            if (zero ? got != 0 : !within(got, w[k], bound, mag[k], j->type, &excess))
                ok = fail("%s [%lld, %lld] (row %lld) is %.9g, expected %.9g", type_names[j->type],
                          (long long)t, (long long)k, (long long)r, got, zero ? 0 : w[k]);
        }
        for (int64_t b = cols * size; ok && t + 1 < j->n && b < j->step * size; b++)
            if (y[t * j->step * size + b] != BLANK)
                ok = fail("y was written between its rows");
    }
    free(w);
    free(mag);
    return ok;
}

static bool rows_run(rows_job *j)
{
    if (!span_blank(&j->y) || !step(rows_call(j)) || !span_get(&j->y) || !span_get(&j->ids) ||
        !planes_get(&j->w))
        return false;
    const gqmm_status status = gqmm_synchronize(on.ctx, &fault);
    NEED(status == (j->bad ? GQMM_E_INDEX : GQMM_OK), "gqmm_synchronize says %s: %s",
         gqmm_status_name(status), fault.text);
    return span_fenced(&j->y, "y") && rows_check(j) && span_intact(&j->ids, "ids") &&
           planes_intact(&j->w) && step(gqmm_synchronize(on.ctx, &fault));
}

static bool rows_make(rows_job *j, const gqmm_format_info *f, int64_t e, int64_t rows, int64_t cols,
                      bool odd)
{
    const stack_how how = {odd ? 7 : 0, odd ? 13 : 0, odd && rnd() & 1, rnd() & 1};
    const int64_t size = (int64_t)gqmm_type_size(j->type);
    j->s = stack_make(NULL, f->pub.name, e, rows, cols, how);
    j->step = cols + (odd ? 3 : 0);
    if (!planes_make(&j->w, &j->s, odd) ||
        !span_make(&j->y, (j->n ? (j->n - 1) * j->step + cols : 0) * size, odd ? size : 0))
        return false;
    if (!j->embed)
        return true;
    if (!span_make(&j->ids, 4 * j->n, odd ? 4 : 0))
        return false;
    int32_t *ids = (int32_t *)(void *)span_image(&j->ids);
    for (int64_t t = 0; t < j->n; t++)
        ids[t] = (int32_t)rnd_below(rows + 1) - 1;
    if (j->bad && j->n > 2) {
        ids[1] = (int32_t)rows;
        ids[2] = INT32_MIN;
    }
    return span_put(&j->ids);
}

static bool try_rows(const gqmm_format_info *f, bool embed, int i)
{
    const int64_t block = f->pub.block_elems, cols = block * PICK(1, 2, 3, 1 + 700 / block);
    const int64_t rows = PICK(1, 37, 130), e = embed ? 1 + i % 2 : 3;
    rows_job j = {.embed = embed, .type = i % 3, .bad = embed && on.cuda && i == 4};
    j.n = embed ? PICK(3, 50, 257) : rows * e;
    if (!embed && i % 2) { /* a part that begins in one expert and ends in another */
        j.first = rnd_below(rows * e);
        j.n -= j.first;
    }
    const bool ok = rows_make(&j, f, e, rows, cols, i >= 3) && rows_run(&j);
    rows_free(&j);
    return ok || fail_in("%s [%lld, %lld, %lld]%s", f->pub.name, (long long)e, (long long)rows,
                         (long long)cols, i >= 3 ? " odd" : "");
}

static bool embed_format(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && i < (h.quick ? 5 : 9); i++)
        ok = try_rows(f, true, i);
    return ok;
}

static bool dequantize_format(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && i < (h.quick ? 4 : 9); i++)
        ok = try_rows(f, false, i);
    return ok;
}

/* ------------------------------------------------------------------ quantize */

/* x of one call, and the planes that it is to give; row WILD of x holds no ordinary numbers. */
enum { WILD = 3 };

typedef struct round_job {
    const gqmm_format_info *f;
    gqmm_quantize_desc d;
    span x, plane[3], amax;
    bool global;
} round_job;

static void round_free(round_job *j)
{
    span_free(&j->x);
    for (int i = 0; i < 3; i++)
        span_free(&j->plane[i]);
    span_free(&j->amax);
}

static bool round_make(round_job *j, int32_t type, int64_t rows, int64_t n, bool odd)
{
    const int64_t cols = n * j->f->pub.block_elems, x_step = cols + (odd ? 3 : 0);
    const int64_t size = (int64_t)gqmm_type_size(type);
    GQMM_INIT(j->d);
    j->d.x_type = type;
    j->d.format = j->f->pub.name;
    j->d.n_rows = rows;
    j->d.n_cols = cols;
    j->d.x_row_stride = odd ? x_step : 0;
    if (!span_make(&j->x, ((rows - 1) * x_step + cols) * size, odd ? size : 0))
        return false;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++)
            set_element(span_image(&j->x), type, r * x_step + k,
                        r == WILD    ? (k % 2 ? NAN : INFINITY)
                        : r % 7 == 6 ? 0.0f
                                     : rnd_gauss());
    for (int i = 0; i < j->f->pub.n_planes; i++) {
        const int64_t row = gqmm_format_row_bytes(&j->f->pub, i, cols), step = row + (odd ? 5 : 0);
        j->d.row_stride[i] = odd ? step : 0;
        if (!span_make(&j->plane[i], (rows - 1) * step + row, odd ? 1 + i : 0))
            return false;
        j->d.plane[i] = span_at(&j->plane[i]);
    }
    if (j->global) {
        if (!span_make(&j->amax, 4, 0))
            return false;
        set_element(span_image(&j->amax), GQMM_F32, 0, 4.5f);
        j->d.global_scale = (const float *)(const void *)span_at(&j->amax);
    }
    j->d.x = span_at(&j->x);
    return span_put(&j->x) && span_put(&j->amax);
}

/* The bytes that the format's own quantiser makes, and poison between rows. */
static bool round_check(const round_job *j)
{
    const gqmm_format_info *f = j->f;
    const int64_t cols = j->d.n_cols, size = (int64_t)gqmm_type_size(j->d.x_type);
    const int64_t x_step = j->d.x_row_stride ? j->d.x_row_stride : cols;
    float *row = make(cols, sizeof *row);
    bool ok = true;
    for (int64_t r = 0; ok && r < j->d.n_rows; r++) {
        gqmm_widen(row, span_image(&j->x) + r * x_step * size, j->d.x_type, cols);
        for (int64_t b = 0; ok && r != WILD && b < cols / f->pub.block_elems; b++) {
            uint8_t want[3][BLOCK_BYTES];
            uint8_t *const to[3] = {want[0], want[1], want[2]};
            f->quantize(f, to, row + b * f->pub.block_elems, NULL, j->global ? 4.5f : 0.0f,
                        j->d.x_type);
            for (int i = 0; ok && i < f->pub.n_planes; i++) {
                const int64_t dense = gqmm_format_row_bytes(&f->pub, i, cols);
                const int64_t at = r * (j->d.row_stride[i] ? j->d.row_stride[i] : dense);
                const int64_t bytes = f->pub.plane_bytes[i];
                const uint8_t *got = j->plane[i].seen + j->plane[i].front + at;
                if (memcmp(got + b * bytes, want[i], (size_t)bytes) != 0)
                    ok = fail("%s: row %lld, block %lld of plane %d differs from the quantiser's",
                              type_names[j->d.x_type], (long long)r, (long long)b, i);
                for (int64_t k = dense; ok && r + 1 < j->d.n_rows && k < j->d.row_stride[i]; k++)
                    if (got[k] != BLANK)
                        ok = fail("plane %d was written between its rows", i);
            }
        }
    }
    free(row);
    return ok;
}

static bool round_run(round_job *j)
{
    const bool searches = j->f->pub.takes_importance && on.cuda;
    for (int i = 0; i < 3; i++)
        if (!span_blank(&j->plane[i]))
            return false;
    fault.text[0] = 0;
    on.calls++;
    const gqmm_status status = gqmm_quantize(on.ctx, &j->d, &fault);
    if (searches && status == GQMM_E_UNSUPPORTED) {
        NEED(fault.text[0], "refused without a sentence");
    } else if (!step(status)) {
        return false;
    }
    for (int i = 0; i < 3; i++)
        if (!span_get(&j->plane[i]))
            return false;
    if (!span_get(&j->x) || !step(gqmm_synchronize(on.ctx, &fault)) || !span_intact(&j->x, "x"))
        return false;
    for (int i = 0; i < 3; i++)
        if (!(status ? span_intact : span_fenced)(&j->plane[i], "a plane"))
            return false;
    return status != GQMM_OK || round_check(j);
}

static bool quantize_format(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && i < (h.quick ? 4 : 8); i++) {
        const int64_t block = f->pub.block_elems;
        round_job j = {.f = f, .global = f->pub.has_global_scale && i % 2};
        ok = round_make(&j, i % 3, PICK(5, 19, 65), PICK(1, 3, 1 + 600 / block), i % 4 == 3) &&
             round_run(&j);
        round_free(&j);
    }
    return ok;
}

#endif
