/* SPDX-License-Identifier: MIT */
/* gqmm_repack: every pair of formats, what of the weights survives and how much is rounded. The
 * rounding of each pair (mean square error over mean square) is printed with its line. */
#include "harness.h"
#include "reference.h"

static gqmm_context *ctx;
static gqmm_error err;

typedef struct pair {
    const char *from;
    int bits;
    bool exact_in_f16; /* scale and bias of f16 blocks are f16 numbers again */
} pair;

static const pair pairs[] = {{"q4_0", 4, true},  {"q4_1", 4, true}, {"q5_0", 5, true},
                             {"q5_1", 5, true},  {"q8_0", 8, true}, {"q4_k", 4, false},
                             {"q5_k", 5, false}, {"q6_k", 8, false}};

enum { E = 3, ROWS = 7, COLS = 512 };

/* The planes of the target, dense as gqmm_repack() writes them. */
typedef struct target {
    stack s;
    gqmm_repack_desc d;
} target;

static target target_make(const stack *from, const char *format)
{
    target t = {.s = stack_make(NULL, format, from->e, from->rows, from->cols, (stack_how){0})};
    GQMM_INIT(t.d);
    t.d.w = from->w;
    t.d.format = t.s.f->pub.name;
    for (int i = 0; i < 3; i++)
        t.d.plane[i] = t.s.memory[i];
    return t;
}

static void fill_kind(const stack *s, blocks kind)
{
    for (int64_t r = 0; r < s->e * s->rows; r++) {
        uint8_t *p[3];
        stack_row(s, r / s->rows, r % s->rows, p);
        fill_row(s->f, p, s->cols, kind);
    }
}

/* Largest |code|, scale and offset of the source around weight k decide how far rounding may move
 * it: u of the plane's type on scale * q' and on the bias, q' and bias as the target has them. */
static double allowed(const target *t, const uint8_t *const p[3], int i, int32_t type)
{
    int16_t q[GQMM_MAX_BLOCK];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS];
    t->s.f->unpack(t->s.f, q, scale, offset, p);
    const double u = type_rounding(type) * 1.01, step = type_step(type) / 2;
    return (fabs((double)scale[0]) * u + step) * q[i] + fabs((double)offset[0]) * u + step +
           4 * UNIT * (fabs((double)scale[0]) * q[i] + fabs((double)offset[0]));
}

/* Adds to *noise and *power; a kept code must stay within what rounding allows, or be exact. */
static bool compare(const stack *from, const target *t, bool exact, bool kept, double *noise,
                    double *power)
{
    float *a = make(from->cols, sizeof *a), *b = make(from->cols, sizeof *b);
    const int32_t type = t->s.f->scale_type;
    bool ok = true;
    for (int64_t r = 0; ok && r < from->e * from->rows; r++) {
        uint8_t *p[3];
        stack_decode(from, r / from->rows, r % from->rows, NULL, NULL, a);
        stack_decode(&t->s, r / from->rows, r % from->rows, NULL, NULL, b);
        stack_row(&t->s, r / from->rows, r % from->rows, p);
        for (int64_t k = 0; ok && k < from->cols; k++) {
            const double delta = (double)b[k] - (double)a[k];
            const uint8_t *at[3] = {NULL, NULL, NULL};
            for (int i = 0; i < 3; i++)
                at[i] = p[i] + k / 32 * t->s.f->pub.plane_bytes[i];
            *noise += delta * delta;
            *power += (double)a[k] * (double)a[k];
            if (exact ? b[k] != a[k]
                      : kept && !(fabs(delta) <= allowed(t, at, (int)(k % 32), type)))
                ok = fail("row %lld weight %lld was %.9g, became %.9g", (long long)r, (long long)k,
                          (double)a[k], (double)b[k]);
        }
    }
    free(a);
    free(b);
    return ok;
}

/* q6_k: its weights quantised anew, by the target's own quantiser. */
static bool requantised(const stack *from, const target *t)
{
    const int64_t n = from->e * from->rows;
    float *w = make(n * from->cols, sizeof *w);
    target again = target_make(from, t->s.f->pub.name);
    gqmm_quantize_desc d;
    bool ok = true;
    GQMM_INIT(d);
    for (int64_t r = 0; r < n; r++)
        stack_decode(from, r / from->rows, r % from->rows, NULL, NULL, w + r * from->cols);
    d.format = t->s.f->pub.name;
    d.x = w;
    d.n_rows = n;
    d.n_cols = from->cols;
    memcpy(d.plane, again.d.plane, sizeof d.plane);
    ok = gqmm_quantize(ctx, &d, &err) == GQMM_OK;
    for (int i = 0; ok && i < 3; i++)
        ok = memcmp(again.s.memory[i], t->s.memory[i],
                    (size_t)(n * gqmm_format_row_bytes(&t->s.f->pub, i, from->cols))) == 0;
    stack_free(&again.s);
    free(w);
    return ok ? true : fail("the bytes are not those of gqmm_quantize on the dequantised weights");
}

static bool repack_pair(const pair *p, int32_t type, blocks kind)
{
    char format[40];
    const bool kept = strcmp(p->from, "q6_k") != 0;
    const bool exact = kept && (type == GQMM_F32 || (type == GQMM_F16 && p->exact_in_f16));
    const stack_how how = {.row_gap = 3, .expert_gap = 17, .reversed = type == GQMM_F16};
    double noise = 0, power = 0;
    snprintf(format, sizeof format, "affine%d_g32_%s", p->bits, type_names[type]);
    stack from = stack_make(ctx, p->from, E, ROWS, COLS, how);
    fill_kind(&from, kind);
    target t = target_make(&from, format);
    bool ok = gqmm_repack(ctx, &t.d, &err) == GQMM_OK || fail("%s", err.text);
    ok = ok && compare(&from, &t, exact, kept, &noise, &power) && (kept || requantised(&from, &t));
    /* u^2 of the type for rounded scales; 8 bits over the range of 32 weights for q6_k. */
    const double u = type_rounding(type), limit = exact ? 0 : 4 * u * u + (kept ? 0 : 4e-5);
    if (ok && kind == BLOCKS_SANE && !(noise <= limit * power))
        ok = fail("NMSE %.3g, expected at most %.3g", noise / power, limit);
    if (kind == BLOCKS_SANE)
        note(exact ? "exact" : "NMSE %.2g", noise / power);
    if (!ok && h.why[0]) {
        char text[200];
        snprintf(text, sizeof text, "%.199s", h.why);
        snprintf(h.why, sizeof h.why, "blocks %s: %s", block_names[kind], text);
    }
    stack_free(&t.s);
    stack_free(&from);
    return ok;
}

static void all_pairs(void)
{
    static const blocks kinds[] = {BLOCKS_CODES_00, BLOCKS_CODES_FF, BLOCKS_SMALL, BLOCKS_00,
                                   BLOCKS_HUGE};
    for (int i = 0; i < COUNT(pairs); i++)
        for (int32_t type = 0; type < 3; type++) {
            char name[80];
            snprintf(name, sizeof name, "%s to affine%d_g32_%s", pairs[i].from, pairs[i].bits,
                     type_names[type]);
            bool ok = true;
            for (int k = 0; ok && k < COUNT(kinds); k++) /* a huge bias does not fit into f16 */
                if (bank_of(gqmm_format_by_name(pairs[i].from), kinds[k]) &&
                    (kinds[k] != BLOCKS_HUGE || type != GQMM_F16))
                    ok = repack_pair(&pairs[i], type, kinds[k]);
            ok = ok && repack_pair(&pairs[i], type, BLOCKS_SANE);
            report(name, ok);
        }
}

/* Every other pair of formats is refused, by name. */
static bool unsupported(void)
{
    int n = 0;
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        stack s =
            stack_make(ctx, f->pub.name, 1, 1, f->pub.block_elems == 1 ? 256 : 512, (stack_how){0});
        for (int32_t j = 0; j < gqmm_n_formats; j++) {
            const gqmm_format *to = &gqmm_formats[j].pub;
            gqmm_repack_desc d;
            size_t bytes = 1;
            bool known = false;
            char words[100];
            GQMM_INIT(d);
            d.w = s.w;
            d.format = to->name;
            for (int k = 0; k < COUNT(pairs); k++)
                known = known || (strcmp(pairs[k].from, f->pub.name) == 0 && to->n_planes == 3 &&
                                  to->group_elems == 32 && gqmm_formats[j].bits == pairs[k].bits);
            const gqmm_status st = gqmm_workspace_size(ctx, GQMM_OP_REPACK, &d, &bytes, &err);
            snprintf(words, sizeof words, "from %s to %s", f->pub.name, to->name);
            NEED(known ? st == GQMM_OK && bytes == 0
                       : st == GQMM_E_UNSUPPORTED && strstr(err.text, words),
                 "%s: status %d, %s", words, st, st ? err.text : "accepted");
            n += !known;
        }
        stack_free(&s);
    }
    note("%d pairs refused", n);
    return true;
}

static bool refused(const gqmm_repack_desc *d, gqmm_status status, const char *words,
                    const target *t)
{
    gqmm_error e = {0};
    for (int i = 0; i < 3; i++)
        memset(t->s.memory[i], 0xcd, 64);
    const gqmm_status got = gqmm_repack(ctx, d, &e);
    NEED(got == status && strstr(e.text, words), "expected %s with \"%s\", got %s: %s",
         gqmm_status_name(status), words, gqmm_status_name(got), e.text);
    for (int i = 0; i < 3; i++)
        for (int b = 0; b < 64; b++)
            NEED(t->s.memory[i][b] == 0xcd, "\"%s\": plane %d was written", words, i);
    return true;
}

static bool errors(void)
{
    stack s = stack_make(ctx, "q4_0", 1, 16, 512, (stack_how){0});
    target t = target_make(&s, "affine4_g32_f16");
    gqmm_repack_desc d = t.d;
    bool ok = (d.struct_size = 8, refused(&d, GQMM_E_ARG, "struct_size is 8", &t));
    d = t.d;
    ok = ok && (d.w = NULL, refused(&d, GQMM_E_ARG, "w is NULL", &t));
    d = t.d;
    ok = ok && (d.format = "affine4", refused(&d, GQMM_E_ARG, "\"affine4\" is unknown", &t));
    ok = ok && (d.format = NULL, refused(&d, GQMM_E_ARG, "(null)", &t));
    for (int i = 0; ok && i < 3; i++) {
        d = t.d;
        d.plane[i] = NULL;
        char words[40];
        snprintf(words, sizeof words, "plane %d is NULL", i);
        ok = refused(&d, GQMM_E_ARG, words, &t);
    }
    d = t.d;
    d.format = "affine8_g32_f16";
    ok = ok && refused(&d, GQMM_E_UNSUPPORTED, "from q4_0 to affine8_g32_f16", &t);
    stack_free(&t.s);
    stack_free(&s);
    return ok;
}

int main(int argc, char **argv)
{
    static const check_row rows[] = {{"unsupported", unsupported}, {"errors", errors}};
    gqmm_context_desc d;
    GQMM_INIT(d);
    start("check_repack", argc, argv);
    d.n_threads = 2;
    if (gqmm_context_create(&d, &ctx, &err) != GQMM_OK)
        return 1;
    all_pairs();
    run_rows(rows, COUNT(rows));
    gqmm_context_destroy(ctx);
    return finish();
}
