/* SPDX-License-Identifier: MIT */
/* Walks the kernel table: every format times every kernel that serves it, each of its functions
 * against the definition in double, between guard pages, at ragged shapes and on extreme blocks.
 * Before that it plants wrong kernels and refuses to report unless each of them is caught. */
#include "planted.h"
#include "problem.h"

#include <fnmatch.h>

/* Outputs of the block of rows and columns are written, everything else still is poison. */
static bool written_inside(const problem *p, int64_t i0, int64_t m, int64_t n0, int64_t n1)
{
    for (int64_t i = 0; i < p->s->m; i++)
        for (int64_t n = 0; n < (i + 1 < p->s->m ? p->y_step : p->s->n); n++) {
            const bool inside = i >= i0 && i < i0 + m && n >= n0 && n < n1;
            if ((gqmm_f32_to_bits(p->y[i][n]) == POISON) == inside)
                return fail("y[%lld][%lld] was %s, asked for rows %lld + %lld, outputs [%lld, "
                            "%lld)",
                            (long long)i, (long long)n, inside ? "not written" : "written",
                            (long long)i0, (long long)m, (long long)n0, (long long)n1);
        }
    return true;
}

static bool matches_definition(const problem *p)
{
    const int64_t k = p->s->k, n = p->s->n;
    const int piece = p->f->pub.group_elems < 32 ? p->f->pub.group_elems : 32;
    /* int8: integer sums are exact, so terms are pieces of a group. */
    const bool pieces = p->function == QMM_INT8 && p->f->unpack;
    const double terms = pieces ? (double)(k / piece) : (double)k;
    const int64_t row = p->function == QMM_N ? 1 : k, col = p->function == QMM_N ? n : 1;

    for (int64_t i = 0; i < p->s->m; i++) {
        const double *x = mem.xq + i * k;
        double abs_x = 0;
        for (int64_t j = 0; j < k; j++)
            abs_x += fabs(x[j]);
        for (int64_t o = 0; o < n; o++) {
            double want = 0, mag = 0, top_w = 0;
            for (int64_t j = 0; j < k; j++) {
                const double w = mem.mag[o * row + j * col];
                want += mem.w[o * row + j * col] * x[j];
                mag += w * fabs(x[j]);
                top_w = w > top_w ? w : top_w;
            }
            /* Largest numbers on the way: a weight, codes times x, scale times an integer sum. */
            const double reach = fmax(abs_x * 255, p->function == QMM_INT8 ? top_w * 4064 : top_w);
            const double got = (double)p->y[i][o], slack = underflow_slack((double)k, abs_x);
            if (!close_enough(got, want, mag, reach, terms, slack, GQMM_F32) ||
                (p->s->x == X_NAN && !isnan(got)))
                return fail("y[%lld][%lld] is %.9g, the definition says %.9g, terms add to %.3g",
                            (long long)i, (long long)o, got, want, mag);
        }
    }
    return true;
}

/* Bits are compared, but a NaN equals a NaN: IEEE leaves its payload open. */
static bool same_row(const float *a, const float *b, int64_t n)
{
    bool same = true;
    for (int64_t i = 0; i < n; i++)
        same = same && (memcmp(a + i, b + i, sizeof *a) == 0 ||
                        (isnan(a[i]) && isnan(b[i]) && gqmm_f32_to_bits(a[i]) != POISON));
    return same;
}

/* Every row alone, every split of the outputs, at both ends of the pages: the same bits. */
static bool same_bits(const gqmm_kernel_fns *fns, problem *p)
{
    const int64_t m = p->s->m, n = p->s->n, step = p->function == QMM_N ? p->f->pub.block_elems : 1;
    const int64_t rows = n * p->s->k * m <= 40000 ? m : 2;

    place(p, false);
    call(fns, p, 0, m, 0, n);
    for (int64_t i = 0; i < m; i++)
        NEED(same_row(p->y[i], mem.first + i * n, n),
             "row %lld differs when the operands lie elsewhere", (long long)i);
    place(p, true);
    for (int64_t t = 0; t < rows; t++) {
        const int64_t i = rows == m ? t : rnd_below(m);
        const int64_t cut = rnd_below(n / step + 1) * step;
        for (int64_t o = 0; o < n; o++)
            p->y[i][o] = gqmm_bits_to_f32(POISON);
        if (cut > 0)
            call(fns, p, i, 1, 0, cut);
        if (cut < n)
            call(fns, p, i, 1, cut, n);
        NEED(same_row(p->y[i], mem.first + i * n, n),
             "row %lld of %lld alone, cut at %lld of %lld: other bits than all together",
             (long long)i, (long long)m, (long long)cut, (long long)n);
    }
    return true;
}

/* A part of the outputs: nothing else is touched. */
static bool part(const gqmm_kernel_fns *fns, problem *p)
{
    const int64_t step = p->function == QMM_N ? p->f->pub.block_elems : 1, n = p->s->n / step;
    const int64_t n0 = rnd_below(n) * step, n1 = n0 + (1 + rnd_below(n - n0 / step)) * step;
    const int64_t i0 = rnd_below(p->s->m), m = 1 + rnd_below(p->s->m - i0);
    place(p, rnd() & 1);
    call(fns, p, i0, m, n0, n1);
    return written_inside(p, i0, m, n0, n1);
}

/* dequantize: the definition bit for bit, any range of blocks, nothing else written. */
static bool check_dequantize(const gqmm_kernel_fns *fns, problem *p)
{
    const int64_t block = p->f->pub.block_elems, n_blocks = p->cols / block;
    for (int64_t t = 0; t < 2 * p->rows; t++) {
        place(p, t & 1);
        const int64_t row = t / 2, b0 = t & 2 ? rnd_below(n_blocks) : 0;
        const int64_t b1 = t & 2 ? b0 + 1 + rnd_below(n_blocks - b0) : n_blocks;
        const int64_t n = (b1 - b0) * block;
        float *w = arena_at(&mem.y, (size_t)n * sizeof *w, t & 1);
        fns->dequantize(w, &p->w, row, b0 * block, n);
        for (int64_t b = b0; b < b1; b++) {
            const uint8_t *from[3] = {NULL, NULL, NULL};
            float want[GQMM_MAX_BLOCK];
            for (int i = 0; i < p->f->pub.n_planes; i++)
                from[i] = p->w.plane[i] + row * p->w.stride[i] + b * p->f->pub.plane_bytes[i];
            gqmm_format_dequantize_block(p->f, want, from, p->s->global);
            for (int64_t i = 0; i < block; i++) {
                const float got = w[(b - b0) * block + i];
                NEED(gqmm_f32_to_bits(got) == gqmm_f32_to_bits(want[i]) ||
                         (isnan(got) && isnan(want[i])),
                     "weight %lld of row %lld is %.9g, the definition says %.9g",
                     (long long)(b * block + i), (long long)row, (double)got, (double)want[i]);
            }
        }
    }
    return true;
}

static bool check_problem(const gqmm_kernel_fns *fns, problem *p)
{
    fill_weights(p);
    if (p->function == DEQUANTIZE)
        return check_dequantize(fns, p);
    fill_activations(p);
    place(p, true);
    call(fns, p, 0, p->s->m, 0, p->s->n);
    if (!written_inside(p, 0, p->s->m, 0, p->s->n) || !matches_definition(p))
        return false;
    for (int64_t i = 0; i < p->s->m; i++)
        memcpy(mem.first + i * p->s->n, p->y[i], (size_t)p->s->n * sizeof(float));
    return same_bits(fns, p) && part(fns, p);
}

/* The same with faults caught; adds the shape to the reason. */
static bool check_shape(const gqmm_kernel_fns *fns, const gqmm_format_info *f, int function,
                        const shape *s)
{
    problem p = {.f = f, .s = s, .function = function};
    char text[sizeof h.why];
    volatile bool ok = false;
    if (!bank_of(f, s->w))
        return true;
    if (sigsetjmp(fault_return, 1) == 0) {
        fault_armed = 1;
        ok = check_problem(fns, &p);
    } else {
        fail("touched memory outside its operands");
    }
    fault_armed = 0;
    if (ok)
        return true;
    snprintf(text, sizeof text, "%s", h.why);
    snprintf(h.why, sizeof h.why, "%s N %lld K %lld M %lld, weights %s, x %s: %.500s",
             function_names[function], (long long)s->n, (long long)s->k, (long long)s->m,
             block_names[s->w], x_names[s->x], text);
    return false;
}

/* ------------------------------------------------------------------ the set of shapes */

/* Cuts a shape to a cost: rows of activations first, outputs next. */
static void cut(shape *s, int64_t n_step, int64_t cost)
{
    while (s->m > 1 && s->n * s->k * s->m > cost)
        s->m = s->m / 2;
    while (s->n > n_step && s->n * s->k * s->m > cost)
        s->n = (s->n / n_step + 1) / 2 * n_step;
}

static bool check_ragged(const gqmm_kernel_fns *fns, const gqmm_format_info *f, int function)
{
    static const int64_t ns[] = {1, 2, 3, 5, 16, 17, 64, 65}, blocks_of_k[] = {1, 2, 3, 7, 8, 33};
    static const int64_t ks[] = {1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 257};
    static const int64_t ms[] = {1, 2, 3, 15, 16, 17, MAX_M};
    const int block = f->pub.block_elems;
    const int n_k = block == 1 ? COUNT(ks) : COUNT(blocks_of_k);
    int turn = (int)rnd_below(COUNT(ms));

    for (int i = 0; i < COUNT(ns); i++)
        for (int j = 0; j < n_k; j++, turn++) {
            const int64_t along = block == 1 ? ks[j] : blocks_of_k[j] * block;
            const bool n_side = function == QMM_N; /* blocks lie along N */
            shape s = {.n = n_side ? along : ns[i],
                       .k = n_side ? ns[i] : along,
                       .m = ms[turn % COUNT(ms)],
                       .w_gap = turn % 3 == 1 ? 1 + turn % 7 : 0,
                       .x_gap = turn % 4,
                       .y_gap = turn % 5,
                       .reversed = turn % 4 == 3,
                       .global = f->pub.has_global_scale && turn % 2 ? 0.37f : 1.0f};
            if (h.quick && turn % 5 != 0) /* other K each time */
                continue;
            cut(&s, n_side ? block : 1, h.quick ? 1 << 14 : 1 << 17);
            if (!check_shape(fns, f, function, &s))
                return false;
        }
    return true;
}

static bool check_extremes(const gqmm_kernel_fns *fns, const gqmm_format_info *f, int function)
{
    const int block = f->pub.block_elems;
    for (int w = 0; w < BLOCKS_KINDS; w++)
        for (int x = 0; x < X_KINDS; x++) {
            const int64_t along = block == 1 ? 65 : block == 256 ? 512 : 3 * block;
            shape s = {.n = function == QMM_N ? along : 5,
                       .k = function == QMM_N ? 5 : along,
                       .m = 3,
                       .global = f->pub.has_global_scale && (w + x) % 2 ? 0.37f : 1.0f,
                       .w = (blocks)w,
                       .x = (activations)x};
            if (h.quick && w > 0 && x > 1 && (w + x) % 4 != 0)
                continue;
            if ((function != DEQUANTIZE || x == 0) && !check_shape(fns, f, function, &s))
                return false;
        }
    return true;
}

/* GQMM_INT8 against the exact product: mean square error below 1e-4 of the mean square. */
static bool check_int8_noise(const gqmm_kernel_fns *fns, const gqmm_format_info *f, double *nmse)
{
    const shape s = {.n = 16, .k = 512, .m = 16, .global = 1.0f, .w = BLOCKS_GAUSS};
    problem p = {.f = f, .s = &s, .function = QMM_INT8};
    double noise = 0, power = 0;
    fill_weights(&p);
    fill_activations(&p);
    place(&p, true);
    call(fns, &p, 0, s.m, 0, s.n);
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t n = 0; n < s.n; n++) {
            double want = 0;
            for (int64_t k = 0; k < s.k; k++)
                want += mem.w[n * s.k + k] * (double)mem.x_values[i * p.x_step + k];
            const double d = (double)p.y[i][n] - want;
            noise += d * d;
            power += want * want;
        }
    *nmse = noise / power;
    NEED(noise < 1e-4 * power, "int8 against exact: NMSE %.3g, expected below 1e-4", *nmse);
    return true;
}

static bool check_function(const gqmm_kernel_fns *fns, const gqmm_format_info *f, int function)
{
    return check_extremes(fns, f, function) && check_ragged(fns, f, function);
}

/* ------------------------------------------------------------------ planted wrong kernels */

/* Each wrong kernel must fail, in each function, for one format of each family. */
static bool planted_are_caught(void)
{
    int n = 0;
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        if (i > 0 && strcmp(f->family, gqmm_formats[i - 1].family) == 0)
            continue;
        real = gqmm_kernel_find(f->family, GQMM_ISA_SCALAR)->fns;
        for (int function = 0; function < FUNCTIONS; function++)
            for (int j = 0; j < PLANTS; j++, n++) {
                planted = (plant)j;
                if (check_function(&wrong_kernel, f, function))
                    return fail("planted in %s of %s: %s was not caught", function_names[function],
                                f->pub.name, plant_names[j]);
                h.why[0] = 0;
            }
    }
    note("%d wrong kernels caught", n);
    return true;
}

/* ------------------------------------------------------------------ the walk */

static bool check_kernel(const gqmm_kernel *kernel, const gqmm_format_info *f)
{
    double nmse;
    for (int function = 0; function < FUNCTIONS; function++)
        if (!check_function(kernel->fns, f, function))
            return false;
    if (!check_int8_noise(kernel->fns, f, &nmse))
        return false;
    note("int8 NMSE %.2g", nmse);
    return true;
}

static void walk_kernel(const gqmm_kernel *kernel)
{
    const char *isa = gqmm_isa_name(kernel->isa);
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        char name[80];
        snprintf(name, sizeof name, "%s/%s", f->pub.name, isa);
        if ((strcmp(kernel->family, "any") != 0 && strcmp(kernel->family, f->family) != 0) ||
            (h.kernel && fnmatch(h.kernel, name, 0) != 0) || (h.isa && strcmp(h.isa, isa) != 0))
            continue;
        if (h.list)
            printf("%s%s\n", name,
                   !gqmm_isa_runs(kernel->isa)                              ? " (not on this CPU)"
                   : kernel == gqmm_kernel_find(f->family, gqmm_isa_best()) ? " (chosen)"
                                                                            : "");
        else if (!kernel->fns)
            continue; /* tests/check_emulated.sh sees to the rows of other machines */
        else if (!gqmm_isa_runs(kernel->isa))
            skip(name, "this CPU cannot run it");
        else
            report(name, check_kernel(kernel, f));
    }
}

int main(int argc, char **argv)
{
    start("check_kernels", argc, argv);
    if (!h.list) {
        make_memory();
        catch_faults();
        const bool caught = planted_are_caught();
        report("planted", caught);
        if (!caught)
            return finish();
    }
    for (int32_t i = 0; i < gqmm_n_kernels; i++)
        walk_kernel(&gqmm_kernels[i]);
    return h.list ? 0 : finish();
}
