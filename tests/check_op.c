/* SPDX-License-Identifier: MIT */
/* gather_qmm, qmm, embed, dequantize and quantize through the public interface, against the
 * definition in double: ids, strides, types, shapes, and offsets beyond 32 bits. */
#include "gather_job.h"

static int64_t pick(const int64_t *set, int n)
{
    return set[rnd_below(n)];
}
#define PICK(...) \
    pick((const int64_t[]){__VA_ARGS__}, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

/* ------------------------------------------------------------------ gather_qmm, qmm */

static int32_t *make_ids(int64_t n, int64_t limit, int64_t *stride, int kind)
{
    const int64_t step = true_stride(*stride, 1);
    int32_t *ids = make(step * n + 1, sizeof *ids);
    const int32_t one = (int32_t)rnd_below(limit);
    for (int64_t i = 0; i < step * n + 1; i++)
        ids[i] = kind == 0 ? one : (int32_t)rnd_below(limit) * (rnd_below(6) ? 1 : 0);
    for (int64_t p = 0; kind == 2 && p < n; p++)
        if (rnd_below(4) == 0)
            ids[p * step] = -1;
    for (int64_t i = 0; step > 1 && i < step * n; i++)
        if (i % step)
            ids[i] = 0x7ffffff0; /* between the strides: never read */
    return ids;
}

static void random_strides(gqmm_gather *g, int64_t n, int64_t k)
{
    const int64_t m = g->m ? g->m : 1;
    g->x_row_stride = PICK(0, 0, k + 5, -1, 1);
    g->x_mat_stride = PICK(0, 0, m * (k + 5) + 3, -1, k);
    switch (rnd_below(4)) {
    case 1: /* gaps */
        g->y_row_stride = n + 3;
        g->y_pair_stride = m * (n + 3) + 1;
        break;
    case 2: /* rows of the pairs interleaved: [M, P, N] */
        g->y_pair_stride = n;
        g->y_row_stride = n * (g->n_pairs ? g->n_pairs : 1);
        break;
    default:
        break;
    }
}

static job random_job(bool dense)
{
    const gqmm_format_info *f = &gqmm_formats[rnd_below(gqmm_n_formats)];
    const int block = f->pub.block_elems;
    const int64_t rows = PICK(1, 2, 7, 63, 64, 65, 130);
    const int64_t cols = block * PICK(1, 2, 3, 1 + 200 / block);
    const stack_how how = {.row_gap = PICK(0, 0, 3),
                           .expert_gap = PICK(0, 0, 101),
                           .reversed = rnd_below(4) == 0,
                           .global = rnd() & 1};
    job j = {.s = stack_make(ctx, f->pub.name, PICK(1, 2, 5), rows, cols, how), .dense = dense};
    gqmm_gather *g = &j.g;
    GQMM_INIT(*g);
    g->precision = (int32_t)rnd_below(2);
    g->transpose = rnd_below(3) != 0;
    g->sorted = (int32_t)rnd_below(2);
    g->m = PICK(0, 1, 1, 2, 3, 20);
    g->n_pairs = dense ? 1 : PICK(0, 1, 2, 5, 17, 40);
    g->n_x = dense ? 1 : PICK(1, 3, 7, 60);
    g->x_type = (int32_t)rnd_below(3);
    g->y_type = (int32_t)rnd_below(3);
    random_strides(g, g->transpose ? rows : cols, g->transpose ? cols : rows);
    if (dense) {
        g->m = PICK(1, 2, 16, 17, 33);
        g->y_pair_stride = 0;
        j.expert = rnd_below(j.s.e);
    }
    g->lhs_stride = PICK(0, 1, 3, -1);
    g->rhs_stride = PICK(0, 1, 2, -1);
    if (!dense && (g->n_pairs > g->n_x || rnd_below(3)))
        g->lhs = j.lhs = make_ids(g->n_pairs, g->n_x, &g->lhs_stride, (int)rnd_below(3));
    if (!dense && (g->n_pairs > j.s.e || rnd_below(3)))
        g->rhs = j.rhs = make_ids(g->n_pairs, j.s.e, &g->rhs_stride, (int)rnd_below(3));
    j.lhs_step = true_stride(g->lhs_stride, 1);
    j.rhs_step = true_stride(g->rhs_stride, 1);
    job_fill(&j);
    return j;
}

static bool random_jobs(bool dense, int n)
{
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        job j = random_job(dense);
        if (j.x_elems && rnd_below(4) == 0)
            set_element(j.x, j.g.x_type, rnd_below(j.x_elems), rnd() & 1 ? NAN : INFINITY);
        ok = job_run(&j);
        job_free(&j);
    }
    note("%d random calls", n);
    return ok;
}

static bool gather_random(void)
{
    return random_jobs(false, h.quick ? 60 : 700);
}

static bool qmm_random(void)
{
    return random_jobs(true, h.quick ? 30 : 300);
}

static const int64_t row_set[] = {0,  1,  2,  7,  8,     15,    16,    17,    31,    32,
                                  33, 63, 64, 65, 32767, 32768, 32769, 32800, 40002, 65537};

/* Numbers of rows around every limit of small integers: as pairs, as rows of one pair, as stored
 * rows. */
static bool row_counts(void)
{
    bool ok = true;
    for (int i = 0; ok && i < COUNT(row_set) - (h.quick ? 5 : 0); i++)
        for (int kind = 0; ok && kind < 4; kind++) {
            const int64_t r = row_set[i], stored = kind == 2 && r ? r : 3;
            job j = {.s = stack_make(ctx, "q4_0", 7, stored, 32, (stack_how){0}),
                     .dense = kind == 1,
                     .expert = 6,
                     .lhs_step = 1,
                     .rhs_step = 1};
            GQMM_INIT(j.g);
            j.g.transpose = 1;
            j.g.precision = i % 2;
            j.g.n_pairs = kind == 1 ? r > 0 : kind == 2 ? 2 : r;
            j.g.m = kind == 1 ? r : 1;
            j.g.n_x = kind == 1 ? 1 : kind == 2 ? 2 : r;
            if (kind == 0) /* random experts; kind 3: all pairs on one */
                j.g.rhs = j.rhs = make_ids(r, 7, &j.g.rhs_stride, 2);
            if (kind == 3)
                j.g.rhs = j.rhs = make_ids(r, 7, &j.g.rhs_stride, 0);
            job_fill(&j);
            ok = job_run(&j);
            job_free(&j);
        }
    return ok;
}

/* `sorted` and the order of pairs change no bit of a row. */
static bool order_of_pairs(void)
{
    job j = {
        .s = stack_make(ctx, "q4_k", 4, 65, 256, (stack_how){0}), .lhs_step = 1, .rhs_step = 1};
    enum { P = 40, N = 65 };
    static float shuffled[P][N];
    int32_t lhs[P], rhs[P], at[P];
    GQMM_INIT(j.g);
    j.g.transpose = 1;
    j.g.n_pairs = j.g.n_x = P;
    for (int i = 0; i < P; i++) {
        lhs[i] = at[i] = i;
        rhs[i] = i * 4 / P;
    }
    j.g.lhs = lhs;
    j.g.rhs = rhs;
    bool ok = true;
    for (int precision = 0; ok && precision < 2; precision++) {
        int32_t lhs2[P], rhs2[P];
        job_fill(&j);
        j.g.precision = precision;
        j.g.sorted = 1;
        ok = gqmm_gather_qmm(ctx, &j.g, &err) == GQMM_OK;
        for (int i = P - 1; i > 0; i--) {
            const int64_t o = rnd_below(i + 1);
            const int32_t t = at[i];
            at[i] = at[o];
            at[o] = t;
        }
        for (int i = 0; i < P; i++) {
            lhs2[i] = lhs[at[i]];
            rhs2[i] = rhs[at[i]];
        }
        gqmm_gather g = j.g;
        g.lhs = lhs2;
        g.rhs = rhs2;
        g.sorted = 0;
        g.y = shuffled;
        ok = ok && gqmm_gather_qmm(ctx, &g, &err) == GQMM_OK;
        for (int i = 0; ok && i < P; i++)
            if (memcmp(shuffled[i], (float *)(void *)j.y + at[i] * N, sizeof shuffled[i]) != 0)
                ok = fail("pair %d has other bits when the pairs are shuffled", i);
        free(j.x);
        free(j.y);
        free(j.w);
        free(j.mag);
        j.x = j.y = NULL;
        j.w = j.mag = NULL;
    }
    job_free(&j);
    return ok;
}

/* ------------------------------------------------------------------ rows */

/* The bytes of one row as embed and dequantize must write them. */
static void want_row(const stack *s, int64_t e, int64_t row, int32_t type, void *out)
{
    float *w = make(s->cols, sizeof *w);
    stack_decode(s, e, row, NULL, NULL, w);
    gqmm_narrow(out, type, w, s->cols);
    free(w);
}

static bool embed_and_dequantize(void)
{
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const int block = gqmm_formats[i].pub.block_elems;
        const int64_t e = 3, rows = 37, cols = block * PICK(1, 3, 1 + 500 / block), gap = i % 3;
        const stack_how how = {i % 4, i % 5, i % 2, i % 3 != 0};
        stack s = stack_make(ctx, gqmm_formats[i].pub.name, e, rows, cols, how);
        const int32_t type = i % 3;
        const size_t size = gqmm_type_size(type), row = (size_t)cols * size;
        const size_t step = row + (size_t)gap * size;
        uint8_t *y = make(e * rows, step), *want = make(e * rows, step);
        int32_t ids[50];
        gqmm_embed_desc d;
        gqmm_dequantize_desc q;
        bool ok;
        GQMM_INIT(d);
        GQMM_INIT(q);
        memset(y, 0xcd, (size_t)(e * rows) * step);
        memset(want, 0xcd, (size_t)(e * rows) * step);
        for (int t = 0; t < 50; t++) {
            ids[t] = (int32_t)rnd_below(rows + 1) - 1;
            memset(want + (size_t)t * step, 0, row);
            if (ids[t] >= 0)
                want_row(&s, 0, ids[t], type, want + (size_t)t * step);
        }
        d.y_type = q.y_type = type;
        d.w = q.w = s.w;
        d.n_ids = 50;
        d.ids = ids;
        d.y = q.y = y;
        d.y_row_stride = q.y_row_stride = gap ? cols + gap : 0;
        ok = gqmm_embed(ctx, &d, &err) == GQMM_OK && memcmp(y, want, 50 * step) == 0;
        memset(want, 0xcd, (size_t)(e * rows) * step);
        memset(y, 0xcd, (size_t)(e * rows) * step);
        q.first_row = rnd_below(e * rows);
        q.n_rows = e * rows - q.first_row;
        for (int64_t r = 0; r < q.n_rows; r++)
            want_row(&s, (q.first_row + r) / rows, (q.first_row + r) % rows, type,
                     want + (size_t)r * step);
        const bool ok2 = gqmm_dequantize(ctx, &q, &err) == GQMM_OK &&
                         memcmp(y, want, (size_t)(e * rows) * step) == 0;
        stack_free(&s);
        free(y);
        free(want);
        NEED(ok && ok2, "%s of %s to %s differs from the definition", ok ? "dequantize" : "embed",
             gqmm_formats[i].pub.name, type_names[type]);
    }
    return true;
}

/* quantize: each block as the format's own quantiser makes it, gaps of the planes untouched. */
static bool quantize_format(const gqmm_format_info *f, int32_t type)
{
    const int block = f->pub.block_elems;
    const int64_t rows = 19, cols = 3 * block, x_step = cols + 2;
    uint8_t *x = make(rows * x_step, gqmm_type_size(type));
    uint8_t *got[3] = {NULL}, *want[3] = {NULL};
    float *row = make(cols, sizeof *row);
    gqmm_quantize_desc d;
    bool ok = true;
    GQMM_INIT(d);
    d.x_type = type;
    d.format = f->pub.name;
    d.x = x;
    d.n_rows = rows;
    d.n_cols = cols;
    d.x_row_stride = x_step;
    for (int64_t i = 0; i < rows * x_step; i++)
        set_element(x, type, i, rnd_gauss());
    for (int i = 0; i < f->pub.n_planes; i++) {
        d.row_stride[i] = gqmm_format_row_bytes(&f->pub, i, cols) + 5;
        got[i] = make(rows, (size_t)d.row_stride[i]);
        want[i] = make(rows, (size_t)d.row_stride[i]);
        d.plane[i] = got[i];
    }
    for (int64_t r = 0; r < rows; r++) {
        gqmm_widen(row, x + (size_t)(r * x_step) * gqmm_type_size(type), type, cols);
        for (int64_t b = 0; b < 3; b++) {
            uint8_t *p[3] = {NULL};
            for (int i = 0; i < f->pub.n_planes; i++)
                p[i] = want[i] + r * d.row_stride[i] + b * f->pub.plane_bytes[i];
            f->quantize(f, p, row + b * block, NULL, 0.0f, type);
        }
    }
    ok = gqmm_quantize(ctx, &d, &err) == GQMM_OK;
    for (int i = 0; i < f->pub.n_planes; i++) {
        ok = ok && memcmp(got[i], want[i], (size_t)(rows * d.row_stride[i])) == 0;
        free(got[i]);
        free(want[i]);
    }
    free(x);
    free(row);
    return ok ? true
              : fail("quantize of %s to %s differs from its quantiser", type_names[type],
                     f->pub.name);
}

static bool quantize(void)
{
    bool ok = true;
    for (int32_t i = 0; ok && i < gqmm_n_formats; i++)
        if (gqmm_formats[i].quantize)
            ok = quantize_format(&gqmm_formats[i], i % 3);
    return ok;
}

/* ------------------------------------------------------------------ 64-bit offsets */

/* Address space without memory behind it, as a file with holes has it. */
static void *sparse(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Rows past 2^31 elements and experts past 2^32 bytes: embed and dequantize. */
static bool far_rows(void)
{
    const int64_t rows = (1 << 20) + 5, cols = 4096, row = cols / 32 * 18;
    const size_t bytes = (size_t)(3 * rows * row);
    const int64_t last = 3 * rows - 1;
    int32_t ids[3] = {0, (int32_t)rows - 1, 1 << 19};
    float *y = make(3 * cols, sizeof *y), *want = make(3 * cols, sizeof *want);
    uint8_t *memory = sparse(bytes);
    NEED(memory, "no address space for %zu bytes", bytes);
    stack s = {.f = gqmm_format_by_name("q4_0"), .e = 3, .rows = rows, .cols = cols};
    gqmm_embed_desc d;
    gqmm_dequantize_desc q;
    GQMM_INIT(s.d);
    GQMM_INIT(d);
    GQMM_INIT(q);
    s.d.format = "q4_0";
    s.d.n_experts = 3;
    s.d.n_rows = rows;
    s.d.n_cols = cols;
    s.d.plane[0] = memory;
    NEED(gqmm_weights_create(ctx, &s.d, &s.w, &err) == GQMM_OK, "%s", err.text);
    for (int i = 0; i < 4; i++) {
        uint8_t *p[3] = {memory + (i < 3 ? ids[i] : last) * row, NULL, NULL};
        fill_row(s.f, p, cols, BLOCKS_SANE);
        if (i < 3)
            stack_decode(&s, 0, ids[i], NULL, NULL, want + i * cols);
    }
    d.w = q.w = s.w;
    d.n_ids = 3;
    d.ids = ids;
    d.y = q.y = y;
    bool ok = gqmm_embed(ctx, &d, &err) == GQMM_OK &&
              memcmp(y, want, (size_t)(3 * cols) * sizeof *y) == 0;
    q.first_row = last;
    q.n_rows = 1;
    stack_decode(&s, 2, rows - 1, NULL, NULL, want);
    ok = ok && gqmm_dequantize(ctx, &q, &err) == GQMM_OK &&
         memcmp(y, want, (size_t)cols * sizeof *y) == 0;
    stack_free(&s);
    munmap(memory, bytes);
    free(y);
    free(want);
    return ok ? true : fail("a row beyond 2^31 weights was not the one read");
}

/* Strides of 3 and 10 GiB in w, 2^31 + 64 elements in x and y. */
static bool far_strides(void)
{
    const int64_t row_step = 3ll << 30, expert_step = 10ll << 30, far = (1ll << 31) + 64;
    const size_t w_bytes = (size_t)(3 * expert_step), xy_bytes = (size_t)(3 * far * 4);
    uint8_t *w = sparse(w_bytes), *x = sparse(xy_bytes), *y = sparse(xy_bytes);
    if (!w || !x || !y) {
        note("no address space for %zu bytes: not run", w_bytes + 2 * xy_bytes);
        return true;
    }
    job j = {.s = {.f = gqmm_format_by_name("q8_0"), .e = 3, .rows = 3, .cols = 64},
             .lhs_step = 1,
             .rhs_step = 1,
             .n = 3,
             .k = 64};
    GQMM_INIT(j.s.d);
    GQMM_INIT(j.g);
    j.s.d = (gqmm_weights_desc){.struct_size = sizeof j.s.d,
                                .format = "q8_0",
                                .n_experts = 3,
                                .n_rows = 3,
                                .n_cols = 64,
                                .plane = {w},
                                .row_stride = {row_step},
                                .expert_stride = {expert_step}};
    NEED(gqmm_weights_create(ctx, &j.s.d, &j.s.w, &err) == GQMM_OK, "%s", err.text);
    j.w = make(9 * 64, sizeof *j.w);
    j.mag = make(9 * 64, sizeof *j.mag);
    for (int64_t r = 0; r < 9; r++) {
        uint8_t *p[3] = {w + r / 3 * expert_step + r % 3 * row_step, NULL, NULL};
        fill_row(j.s.f, p, 64, BLOCKS_SANE);
        stack_decode(&j.s, r / 3, r % 3, j.w + r * 64, j.mag + r * 64, NULL);
    }
    bool ok = true;
    for (int precision = 0; ok && precision < 2; precision++) {
        int32_t rhs[3] = {2, 0, 2};
        j.g.precision = precision;
        j.g.transpose = 1;
        j.g.w = j.s.w;
        j.g.n_pairs = j.g.n_x = 3;
        j.g.rhs = rhs;
        j.g.x_mat_stride = j.g.y_pair_stride = j.x_mat = j.y_pair = far;
        j.g.x = j.x = x;
        j.g.y = j.y = y;
        j.rhs = rhs;
        for (int64_t i = 0; i < 3 * 64; i++)
            set_element(x, GQMM_F32, i / 64 * far + i % 64, rnd_gauss());
        j.y_elems = 0;
        ok = gqmm_gather_qmm(ctx, &j.g, &err) == GQMM_OK;
        for (int64_t p = 0; ok && p < 3; p++) {
            double xd[64];
            const float *xp = (const float *)(const void *)x + p * far;
            for (int k = 0; k < 64; k++)
                xd[k] = (double)xp[k];
            if (precision == GQMM_INT8)
                round_int8(xd, xp, 64);
            ok = check_output_row(&j, p, 0, xd);
        }
    }
    munmap(w, w_bytes);
    munmap(x, xy_bytes);
    munmap(y, xy_bytes);
    j.x = j.y = NULL;
    j.rhs = NULL;
    job_free(&j);
    return ok;
}

int main(int argc, char **argv)
{
    static const check_row rows[] = {{"gather_qmm", gather_random},
                                     {"qmm", qmm_random},
                                     {"row_counts", row_counts},
                                     {"order_of_pairs", order_of_pairs},
                                     {"embed_dequantize", embed_and_dequantize},
                                     {"quantize", quantize},
                                     {"far_rows", far_rows},
                                     {"far_strides", far_strides}};
    gqmm_context_desc d;
    GQMM_INIT(d);
    start("check_op", argc, argv);
    d.n_threads = 2;
    if (gqmm_context_create(&d, &ctx, &err) != GQMM_OK) {
        printf("FAIL context: %s\n", err.text);
        return 1;
    }
    run_rows(rows, COUNT(rows));
    gqmm_context_destroy(ctx);
    return finish();
}
