/* SPDX-License-Identifier: MIT */
/* Formats against golden bytes of other programs, against their own formulas, and the searching
 * quantisers against the error of ggml's.
 *
 *     check_formats [golden folder] */
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/format.h"
#include "format/fp8.h"

enum { MAX_BYTES = 256, N_ROWS = 256, N_COLS = 512 };

static int n_passed, n_failed, n_skipped;

/* One line for a test; a NULL reason is success. */
static void report(const char *test, const char *name, const char *why)
{
    if (why)
        printf("FAIL %s%s: %s\n", test, name, why);
    else
        printf("ok %s%s\n", test, name);
    n_passed += !why;
    n_failed += why != NULL;
}

/* The reason of a failure, in static storage. */
static const char *because(const char *format, ...)
{
    static char text[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return text;
}

/* Equal bits; zeros of both signs are one value, and so are all NaN. */
static bool same(float a, float b)
{
    return memcmp(&a, &b, 4) == 0 || a == b || (a != a && b != b);
}

static uint64_t random_state = 88172645463325252u;

static uint64_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static double uniform(void)
{
    return ((double)(random_bits() >> 11) + 0.5) * 0x1p-53;
}

static double gaussian(void)
{
    return sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* The planes of one block, in memory of their exact sizes. */
typedef struct block {
    uint8_t *p[3];
    const uint8_t *in[3];
} block;

static block block_new(const gqmm_format_info *f)
{
    block b = {{NULL}, {NULL}};
    for (int i = 0; i < f->pub.n_planes; i++)
        b.in[i] = b.p[i] = calloc(1, (size_t)f->pub.plane_bytes[i]);
    return b;
}

static void block_free(block b)
{
    for (int i = 0; i < 3; i++)
        free(b.p[i]);
}

/* ---- golden files */

typedef struct golden {
    char magic[8], name[24];
    uint32_t n_decode, n_quantize, x_type;
    float amax;
} golden;

static const char *golden_decode(FILE *file, const golden *h, const gqmm_format_info *f, block b,
                                 uint8_t *planes[3])
{
    const size_t n = (size_t)f->pub.block_elems;
    const float global = gqmm_format_global(f, h->amax != 0.0f ? &h->amax : NULL);
    for (int i = 0; i < f->pub.n_planes; i++)
        if (fread(planes[i], (size_t)f->pub.plane_bytes[i], h->n_decode, file) != h->n_decode)
            return "short file";
    for (uint32_t k = 0; k < h->n_decode; k++) {
        float want[GQMM_MAX_BLOCK], got[GQMM_MAX_BLOCK];
        if (fread(want, 4, n, file) != n)
            return "short file";
        for (int i = 0; i < f->pub.n_planes; i++) {
            const size_t size = (size_t)f->pub.plane_bytes[i];
            memcpy(b.p[i], planes[i] + k * size, size);
        }
        gqmm_format_dequantize_block(f, got, b.in, global);
        for (size_t i = 0; i < n; i++)
            if (!same(got[i], want[i]))
                return because("block %u element %zu: got %.9g, want %.9g", k, i, (double)got[i],
                               (double)want[i]);
    }
    return NULL;
}

static const char *golden_quantize(FILE *file, const golden *h, const gqmm_format_info *f, block b)
{
    const size_t n = (size_t)f->pub.block_elems * h->n_quantize;
    float *x = malloc(n * sizeof(*x));
    const char *why = x && fread(x, 4, n, file) == n ? NULL : "short file";
    for (int i = 0; i < f->pub.n_planes && !why; i++)
        for (uint32_t k = 0; k < h->n_quantize && !why; k++) {
            uint8_t want[MAX_BYTES];
            const size_t size = (size_t)f->pub.plane_bytes[i];
            if (fread(want, 1, size, file) != size)
                why = "short file";
            f->quantize(f, b.p, x + k * (size_t)f->pub.block_elems, NULL, h->amax,
                        (int32_t)h->x_type);
            if (!why && memcmp(want, b.p[i], size) != 0)
                why = because("block %u plane %d differs", k, i);
        }
    free(x);
    return why;
}

/* File `name``suffix`.bin; only the one without a suffix must exist. */
static void check_golden(const char *folder, const gqmm_format_info *f, const char *suffix)
{
    char path[512], label[64];
    golden h;
    snprintf(label, sizeof(label), "%s%s", f->pub.name, suffix);
    snprintf(path, sizeof(path), "%s/%s.bin", folder, label);
    FILE *file = fopen(path, "rb");
    if (!file) {
        if (!*suffix)
            report("golden_decode_", label, "no file");
        return;
    }
    block b = block_new(f);
    uint8_t *planes[3] = {NULL, NULL, NULL};
    const bool good = fread(&h, sizeof(h), 1, file) == 1 && !memcmp(h.magic, "gqmmgold", 8) &&
                      !strcmp(h.name, f->pub.name) && h.n_decode < 4096 && h.n_quantize < 4096;
    for (int i = 0; i < f->pub.n_planes && good; i++)
        planes[i] = malloc((size_t)f->pub.plane_bytes[i] * h.n_decode);
    report("golden_decode_", label, good ? golden_decode(file, &h, f, b, planes) : "bad header");
    if (good && h.n_quantize)
        report("golden_quantize_", label, golden_quantize(file, &h, f, b));
    for (int i = 0; i < 3; i++)
        free(planes[i]);
    block_free(b);
    fclose(file);
}

/* ---- the table and the numbers */

static const char *check_table(void)
{
    for (int32_t i = 0; i < gqmm_format_count(); i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        const gqmm_format *p = gqmm_format_at(i);
        if (p != &f->pub || gqmm_format_find(p->name) != p || gqmm_format_by_name(p->name) != f)
            return because("%s is not found by its name", p->name);
        if (p->gguf_type >= 0 && gqmm_format_find_gguf(p->gguf_type) != p)
            return because("%s is not found by its GGUF type", p->name);
        if (p->block_elems > GQMM_MAX_BLOCK || p->block_elems % p->group_elems != 0 ||
            p->block_elems / p->group_elems > GQMM_MAX_GROUPS || !f->family || !p->summary)
            return because("%s has wrong sizes", p->name);
        if ((f->unpack == NULL) == (f->values == NULL) || p->can_quantize != (f->quantize != NULL))
            return because("%s has wrong functions", p->name);
        for (int plane = 0; plane < 3; plane++)
            if ((plane < p->n_planes) != (p->plane_bytes[plane] > 0) || p->plane_bytes[plane] > 256)
                return because("%s plane %d has wrong bytes", p->name, plane);
    }
    if (gqmm_format_at(-1) || gqmm_format_at(gqmm_format_count()) || gqmm_format_find("q9_z") ||
        gqmm_format_find(NULL) || gqmm_format_find_gguf(-1) || gqmm_format_find_gguf(9999))
        return "something is found that is none";
    return NULL;
}

static const char *check_row_bytes(void)
{
    const gqmm_format *q4_k = gqmm_format_find("q4_k"), *f32 = gqmm_format_find("f32");
    const gqmm_format *affine = gqmm_format_find("affine3_g64_f16");
    if (gqmm_format_row_bytes(q4_k, 0, 0) != 0 || gqmm_format_row_bytes(q4_k, 0, 512) != 288 ||
        gqmm_format_row_bytes(affine, 0, 128) != 48 || gqmm_format_row_bytes(affine, 2, 128) != 4)
        return "a size is wrong";
    if (gqmm_format_row_bytes(q4_k, 0, 128) != -1 || gqmm_format_row_bytes(q4_k, 0, -256) != -1 ||
        gqmm_format_row_bytes(q4_k, 1, 256) != -1 || gqmm_format_row_bytes(q4_k, -1, 256) != -1 ||
        gqmm_format_row_bytes(NULL, 0, 256) != -1)
        return "a wrong argument is accepted";
    if (gqmm_format_row_bytes(f32, 0, INT64_MAX) != -1 ||
        gqmm_format_row_bytes(f32, 0, INT64_MAX / 4) != INT64_MAX / 4 * 4 ||
        gqmm_format_row_bytes(f32, 0, INT64_MAX / 4 + 1) != -1)
        return "overflow is not seen";
    return NULL;
}

static const char *check_small_floats(void)
{
    for (unsigned u = 0; u < 256; u++) {
        const float v = gqmm_e4m3_to_f32((uint8_t)u);
        if ((u & 0x7f) != 0x7f && gqmm_f32_to_e4m3(v) != u)
            return because("e4m3 %u does not come back", u);
        const float next = gqmm_e4m3_to_f32((uint8_t)(u + 1)), middle = (v + next) / 2;
        if (u < 0x7e && gqmm_f32_to_e4m3(middle) != (u & 1 ? u + 1 : u))
            return because("the middle above e4m3 %u is not rounded to even", u);
    }
    const float large[] = {448.0f, 456.0f, 464.0f, 470.0f, 480.0f, 1e30f, INFINITY};
    for (size_t i = 0; i < sizeof(large) / sizeof(*large); i++)
        if (gqmm_f32_to_e4m3(large[i]) != 0x7e || gqmm_f32_to_e4m3(-large[i]) != 0xfe)
            return because("e4m3 of %g is not its largest", (double)large[i]);
    for (int k = -1300; k <= 1300; k++) {
        const float v = (float)k * 0.01f;
        int best = 0;
        for (int c = 1; c < 16; c++)
            if (fabsf(v - (float)gqmm_e2m1_doubled(c)) < fabsf(v - (float)gqmm_e2m1_doubled(best)))
                best = c;
        if (gqmm_e2m1_nearest(v) != best)
            return because("e2m1 of %g is %d, not %d", (double)v, gqmm_e2m1_nearest(v), best);
    }
    return NULL;
}

/* ---- every format */

/* All bytes the same, then random ones: values must be scale * q + offset of the unpacked block,
 * whatever the scales are (infinite, subnormal, NaN). */
static const char *check_formula(const gqmm_format_info *f, block b)
{
    for (int round = 0; round < 512; round++) {
        int16_t q[GQMM_MAX_BLOCK];
        float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS] = {0}, got[GQMM_MAX_BLOCK];
        for (int i = 0; i < f->pub.n_planes; i++)
            for (int k = 0; k < f->pub.plane_bytes[i]; k++)
                b.p[i][k] = (uint8_t)(round < 256 ? (uint64_t)round : random_bits() >> 20);
        gqmm_format_dequantize_block(f, got, b.in, 1.0f);
        if (f->values) {
            float w[GQMM_MAX_BLOCK];
            f->values(f, w, b.in);
            if (memcmp(w, got, sizeof(*w) * (size_t)f->pub.block_elems) != 0)
                return "values and dequantisation differ";
            continue;
        }
        f->unpack(f, q, scale, offset, b.in);
        for (int i = 0; i < f->pub.block_elems; i++) {
            const int g = i / f->pub.group_elems;
            const float product = scale[g] * (float)q[i];
            if (q[i] < -128 || q[i] > 255)
                return because("code %d", q[i]);
            if (!same(got[i], f->has_offset ? product + offset[g] : product))
                return because("round %d element %d", round, i);
        }
    }
    return NULL;
}

/* Inputs nobody should send. Zeros must stay zeros; the rest must not trip a sanitizer. */
static const char *check_hostile(const gqmm_format_info *f, block b)
{
    static const float values[] = {0.0f,     -0.0f,     NAN,     INFINITY, -INFINITY, FLT_MAX,
                                   -FLT_MAX, 1e-45f,    -1e-45f, FLT_MIN,  1.0f,      -1e-8f,
                                   65504.0f, -65536.0f, 3e-8f,   1e30f,    -1e-30f,   7.0f};
    const int n_values = (int)(sizeof(values) / sizeof(*values)), n = f->pub.block_elems;
    float x[GQMM_MAX_BLOCK], w[GQMM_MAX_BLOCK], y[GQMM_MAX_BLOCK];
    for (int round = 0; round < 400; round++) {
        for (int i = 0; i < n; i++) {
            const uint64_t r = random_bits() >> 20;
            x[i] = values[round < n_values ? round : (int)(r % (uint64_t)n_values)];
            w[i] = values[(int)(r / 64 % (uint64_t)n_values)];
        }
        const bool weighted = f->pub.takes_importance && round % 2;
        f->quantize(f, b.p, x, weighted ? w : NULL, round % 3 ? 0.0f : x[0], round % 3);
        gqmm_format_dequantize_block(f, y, b.in, 1.0f);
        for (int i = 0; i < n && round < 2; i++)
            if (y[i] != 0.0f)
                return because("a zero became %g", (double)y[i]);
    }
    return NULL;
}

/* Rows of Gaussian values with row scales e^N(0, 1), and the weights of their columns. */
static float data[N_ROWS * N_COLS], weights[N_COLS];

/* sum w (x - y)^2 / sum w x^2 over the data; `fit` quantises with the weights, `score` counts
 * with them. */
static double error_of(const gqmm_format_info *f, block b, bool fit, bool score)
{
    const int n = f->pub.block_elems;
    double top = 0.0, bottom = 0.0;
    for (int i = 0; i < N_ROWS * N_COLS; i += n) {
        float y[GQMM_MAX_BLOCK];
        const float *w = weights + i % N_COLS;
        f->quantize(f, b.p, data + i, fit ? w : NULL, 0.0f, GQMM_F32);
        gqmm_format_dequantize_block(f, y, b.in, 1.0f);
        for (int k = 0; k < n; k++) {
            const double x = data[i + k], d = x - y[k], weight = score ? w[k] : 1.0;
            top += weight * d * d;
            bottom += weight * x * x;
        }
    }
    return top / bottom;
}

/* Searching formats: ggml's error on such rows. Others: 8 * 4^-bits for integer codes (all bytes
 * of plane 0 counted), and what the mantissa allows for float codes. */
static double error_limit(const gqmm_format_info *f)
{
    static const struct {
        const char *name;
        double limit;
    } limits[] = {{"q2_k", .08927},  {"q3_k", .02325},     {"q4_k", .005255},   {"q5_k", .001323},
                  {"q6_k", .000327}, {"iq4_nl", .005838},  {"iq4_xs", .005938}, {"nvfp4", .008933},
                  {"mxfp4", .025},   {"mlx_mxfp8", .0015}, {"f32", 0.0},        {"f16", 1e-7},
                  {"bf16", 1e-5}};
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++)
        if (!strcmp(limits[i].name, f->pub.name))
            return limits[i].limit;
    return 8.0 * pow(4.0, -8.0 * f->pub.plane_bytes[0] / f->pub.block_elems);
}

static void check_errors(const gqmm_format_info *f, block b)
{
    const double error = error_of(f, b, false, false), limit = error_limit(f);
    char label[100];
    snprintf(label, sizeof(label), "%s (nmse %.6g)", f->pub.name, error);
    report("error_", label, error <= limit ? NULL : because("limit %.6g", limit));
    if (!f->pub.takes_importance)
        return;
    const double with = error_of(f, b, true, true), without = error_of(f, b, false, true);
    report("importance_", f->pub.name,
           with < without ? NULL : because("%.6g with, %.6g without", with, without));
}

int main(int argc, char **argv)
{
    static const char *const suffixes[] = {"", "_f16", "_bf16", "_global"};
    const char *folder = argc > 1 ? argv[1] : "tests/golden";

    for (int k = 0; k < N_COLS; k++)
        weights[k] = (float)exp(gaussian());
    for (int r = 0; r < N_ROWS; r++) {
        const double scale = exp(gaussian());
        for (int k = 0; k < N_COLS; k++)
            data[r * N_COLS + k] = (float)(scale * gaussian());
    }
    report("table", "", check_table());
    report("row_bytes", "", check_row_bytes());
    report("small_floats", "", check_small_floats());
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        for (int s = 0; s < (strncmp(f->pub.name, "mlx_", 4) ? 1 : 4); s++)
            check_golden(folder, f, suffixes[s]);
        block b = block_new(f);
        report("formula_", f->pub.name, check_formula(f, b));
        if (f->quantize) {
            report("hostile_", f->pub.name, check_hostile(f, b));
            check_errors(f, b);
        } else {
            printf("skip quantise_%s: no quantiser\n", f->pub.name);
            n_skipped++;
        }
        block_free(b);
    }
    printf("check_formats: %d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed ? 1 : 0;
}
