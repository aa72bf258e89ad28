/* SPDX-License-Identifier: MIT */
/* What wrong calls get: the status, a sentence with the numbers, untouched outputs. And memory: the
 * workspace a call asks for is the workspace it uses, no call allocates with one, and every
 * allocation may fail. gqmm_moe's own errors are in check_moe.c. */
#include "harness.h"
#include "reference.h"

static gqmm_context *ctx;
static stack q4, f32; /* [3, 5, 64] */
static float x[16 * 64], y[2048], poison[2048];
static uint8_t planes[3][4096];
static int32_t lhs[8] = {0, 1, -1, 1, 0, 1, 1, 0}, rhs[8] = {2, 1, 0, -1, 0, 1, 2, 2};
static const int32_t bad_ids[8] = {0, 1, 5, -1, 0, -2, 1, 0}, ids_2[8] = {1, 2}, ids_3[8] = {2, 3};

/* One wrong call: `status`, its sentence, nothing written; the same through gqmm_enter and with no
 * place for an error. */
static bool refused(int32_t op, const void *desc, gqmm_status status, const char *words)
{
    gqmm_error e[2];
    memset(e, 0, sizeof e);
    memset(planes, 0xcd, sizeof planes);
    memcpy(y, poison, sizeof y);
    const gqmm_status got[2] = {op == GQMM_OP_GATHER_QMM   ? gqmm_gather_qmm(ctx, desc, &e[0])
                                : op == GQMM_OP_QMM        ? gqmm_qmm(ctx, desc, &e[0])
                                : op == GQMM_OP_EMBED      ? gqmm_embed(ctx, desc, &e[0])
                                : op == GQMM_OP_DEQUANTIZE ? gqmm_dequantize(ctx, desc, &e[0])
                                : op == GQMM_OP_QUANTIZE   ? gqmm_quantize(ctx, desc, &e[0])
                                                           : gqmm_repack(ctx, desc, &e[0]),
                                gqmm_enter(ctx, op, desc, 0, 1, &e[1])};
    gqmm_enter(ctx, op, desc, 0, 1, NULL);
    for (int i = 0; i < 2; i++) {
        NEED(got[i] == status && e[i].status == status, "expected %s with \"%s\", got %s: %s",
             gqmm_status_name(status), words, gqmm_status_name(got[i]), e[i].text);
        NEED(strstr(e[i].text, words) && !strchr(e[i].text, '\n'),
             "the sentence \"%s\" lacks \"%s\"", e[i].text, words);
    }
    NEED(memcmp(y, poison, sizeof y) == 0, "\"%s\": y was written", words);
    for (size_t i = 0; i < sizeof planes; i++)
        NEED(((uint8_t *)planes)[i] == 0xcd, "\"%s\": a plane was written", words);
    return true;
}

/* BAD(change to the descriptor, status, words of the sentence) */
#define BAD(change, status, words) \
    do { \
        change; \
        if (!refused(op, &d, status, words)) \
            return false; \
        d = good; \
    } while (0)

static const void *odd_address(const void *p)
{
    return (const char *)p + 2;
}

static gqmm_gather good_gather(void)
{
    gqmm_gather d;
    GQMM_INIT(d);
    d.w = q4.w;
    d.transpose = 1;
    d.n_pairs = 8;
    d.n_x = 2;
    d.m = 2;
    d.x = x;
    d.y = y;
    d.lhs = lhs;
    d.rhs = rhs;
    return d;
}

static bool gather_errors(void)
{
    const int32_t op = GQMM_OP_GATHER_QMM;
    const gqmm_gather good = good_gather();
    gqmm_gather d = good;
    BAD(d.struct_size = 8, GQMM_E_ARG, "struct_size is 8");
    BAD(d.struct_size = (uint32_t)sizeof d + 8, GQMM_E_ARG, "use GQMM_INIT");
    BAD(d.w = NULL, GQMM_E_ARG, "w is NULL");
    BAD(d.y = NULL, GQMM_E_ARG, "y is NULL");
    BAD(d.x = NULL, GQMM_E_ARG, "x is NULL");
    BAD(d.precision = 7, GQMM_E_ARG, "precision is 7");
    BAD(d.x_type = 3, GQMM_E_ARG, "x_type is 3");
    BAD(d.y_type = -1, GQMM_E_ARG, "y_type is -1");
    BAD(d.transpose = 2, GQMM_E_ARG, "transpose is 2");
    BAD(d.n_pairs = -1, GQMM_E_SHAPE, "n_pairs -1");
    BAD(d.m = -3, GQMM_E_SHAPE, "m -3");
    BAD(d.n_x = -4, GQMM_E_SHAPE, "n_x -4");
    BAD(d.n_pairs = d.m = 1ll << 40, GQMM_E_SHAPE, "1099511627776");
    BAD(d.y_row_stride = 4, GQMM_E_SHAPE, "y_row_stride is 4");
    BAD(d.y_row_stride = -1, GQMM_E_SHAPE, "y_row_stride is -1");
    BAD(d.x_row_stride = -2, GQMM_E_SHAPE, "x_row_stride is -2");
    BAD(d.x_mat_stride = -2, GQMM_E_SHAPE, "x_mat_stride -2");
    BAD(d.y_pair_stride = -7, GQMM_E_SHAPE, "y_pair_stride -7");
    BAD(d.y_pair_stride = 9, GQMM_E_SHAPE, "y_pair_stride 9");
    BAD((d.y_pair_stride = 1, d.y_row_stride = 40), GQMM_E_SHAPE, "y_pair_stride");
    BAD((d.y_pair_stride = 4, d.m = 1), GQMM_E_SHAPE, "y_pair_stride is 4");
    BAD(d.x_mat_stride = INT64_MAX / 2, GQMM_E_SHAPE, "2^63");
    BAD(d.y_pair_stride = INT64_MAX / 4, GQMM_E_SHAPE, "2^63");
    BAD(d.lhs = bad_ids, GQMM_E_INDEX, "lhs[2] is 5");
    BAD(d.rhs = bad_ids, GQMM_E_INDEX, "rhs[2] is 5");
    BAD(d.lhs = ids_2, GQMM_E_INDEX, "lhs[1] is 2, expected -1 (skip) or 0 to 1");
    BAD(d.rhs = ids_3, GQMM_E_INDEX, "rhs[1] is 3, expected -1 (skip) or 0 to 2");
    BAD((d.rhs = bad_ids + 4, d.n_pairs = 4), GQMM_E_INDEX, "rhs[1] is -2");
    BAD((d.rhs = bad_ids, d.rhs_stride = 2), GQMM_E_INDEX, "rhs[1] is 5");
    BAD(d.lhs = NULL, GQMM_E_INDEX, "8 pairs but there are only 2");
    BAD(d.rhs = NULL, GQMM_E_INDEX, "8 pairs but there are only 3");
    BAD(d.x = y, GQMM_E_ARG, "y and x share memory");
    BAD(d.x = y + 8 * 2 * 5 - 1, GQMM_E_ARG, "y and x share memory");
    BAD((d.lhs = (const int32_t *)(const void *)y, d.lhs_stride = -1), GQMM_E_ARG,
        "y and lhs share memory");
    BAD((d.rhs = (const int32_t *)(const void *)y, d.rhs_stride = -1), GQMM_E_ARG,
        "y and rhs share memory");
    BAD(d.lhs_stride = -2, GQMM_E_SHAPE, "lhs_stride -2");
    BAD(d.rhs_stride = -3, GQMM_E_SHAPE, "rhs_stride -3");
    BAD(d.x = (const char *)x + 1, GQMM_E_ARG, "x is not aligned to its 4-byte");
    BAD((d.x = (const char *)x + 1, d.x_type = GQMM_BF16), GQMM_E_ARG, "2-byte");
    BAD(d.lhs = (const int32_t *)(const void *)((const char *)lhs + 2), GQMM_E_ARG,
        "lhs is not aligned");
    BAD((d.workspace = planes, d.workspace_bytes = 64), GQMM_E_NOMEM, "64 bytes");
    gqmm_error e;
    NEED(gqmm_gather_qmm(NULL, &d, &e) == GQMM_E_ARG && strstr(e.text, "ctx is NULL"), "ctx NULL");
    NEED(gqmm_gather_qmm(ctx, NULL, &e) == GQMM_E_ARG && strstr(e.text, "desc is NULL"), "NULL");
    NEED(gqmm_gather_qmm(ctx, &d, &e) == GQMM_OK, "the right call is refused: %s", e.text);
    return true;
}

static bool dense_errors(void)
{
    const int32_t op = GQMM_OP_QMM;
    gqmm_dense d, good;
    GQMM_INIT(d);
    d.w = q4.w;
    d.transpose = 1;
    d.m = 4;
    d.x = x;
    d.y = y;
    good = d;
    BAD(d.struct_size = 0, GQMM_E_ARG, "struct_size is 0");
    BAD(d.w = NULL, GQMM_E_ARG, "w is NULL");
    BAD(d.y = NULL, GQMM_E_ARG, "y is NULL");
    BAD(d.x = NULL, GQMM_E_ARG, "x is NULL");
    BAD(d.expert = 3, GQMM_E_INDEX, "expert is 3, expected 0 to 2");
    BAD(d.expert = -1, GQMM_E_INDEX, "expert is -1");
    BAD(d.m = -5, GQMM_E_SHAPE, "m is -5");
    BAD(d.m = INT64_MAX / 2, GQMM_E_SHAPE, "2^63");
    BAD(d.transpose = -1, GQMM_E_ARG, "transpose is -1");
    BAD(d.precision = 2, GQMM_E_ARG, "precision is 2");
    BAD(d.x_type = 9, GQMM_E_ARG, "x_type is 9");
    BAD(d.y_row_stride = 1, GQMM_E_SHAPE, "y_row_stride is 1");
    BAD(d.x = y, GQMM_E_ARG, "share memory");
    d.m = 0;
    d.x = d.y = NULL;
    NEED(gqmm_qmm(ctx, &d, NULL) == GQMM_OK, "m = 0 is refused");
    return true;
}

static bool rows_errors(void)
{
    int32_t op = GQMM_OP_EMBED;
    {
        gqmm_embed_desc d, good;
        GQMM_INIT(d);
        d.w = q4.w;
        d.n_ids = 2;
        d.ids = lhs;
        d.y = y;
        good = d;
        BAD(d.struct_size = 1, GQMM_E_ARG, "struct_size is 1");
        BAD(d.w = NULL, GQMM_E_ARG, "w is NULL");
        BAD(d.ids = NULL, GQMM_E_ARG, "ids is NULL");
        BAD(d.y = NULL, GQMM_E_ARG, "y is NULL");
        BAD(d.y_type = 5, GQMM_E_ARG, "y_type is 5");
        BAD(d.n_ids = -1, GQMM_E_SHAPE, "n_ids is -1");
        BAD(d.y_row_stride = 63, GQMM_E_SHAPE, "y_row_stride is 63");
        BAD(d.ids = odd_address(lhs), GQMM_E_ARG, "ids is not aligned to 4 bytes");
        BAD((d.ids = bad_ids, d.n_ids = 4), GQMM_E_INDEX, "ids[2] is 5, expected -1");
        BAD((d.ids = bad_ids + 5), GQMM_E_INDEX, "ids[0] is -2");
        d.n_ids = 0;
        d.ids = NULL;
        d.y = NULL;
        NEED(gqmm_embed(ctx, &d, NULL) == GQMM_OK, "embed of no ids is refused");
    }
    op = GQMM_OP_DEQUANTIZE;
    gqmm_dequantize_desc d, good;
    GQMM_INIT(d);
    d.w = q4.w;
    d.n_rows = 2;
    d.y = y;
    good = d;
    BAD(d.struct_size = 400, GQMM_E_ARG, "struct_size is 400");
    BAD(d.w = NULL, GQMM_E_ARG, "w is NULL");
    BAD(d.y = NULL, GQMM_E_ARG, "y is NULL");
    BAD(d.y_type = 5, GQMM_E_ARG, "y_type is 5");
    BAD(d.first_row = 14, GQMM_E_INDEX, "14 + 2 are not inside the 15 rows");
    BAD(d.first_row = -1, GQMM_E_INDEX, "-1 + 2");
    BAD(d.n_rows = -1, GQMM_E_INDEX, "0 + -1");
    BAD((d.n_rows = INT64_MAX, d.first_row = 2), GQMM_E_INDEX, "2 + 9223372036854775807");
    BAD(d.y_row_stride = 3, GQMM_E_SHAPE, "y_row_stride is 3");
    return true;
}

static bool quantize_errors(void)
{
    const int32_t op = GQMM_OP_QUANTIZE;
    float importance[64] = {0}, amax = 1.0f;
    gqmm_quantize_desc d, good;
    GQMM_INIT(d);
    d.format = "affine4_g32_f16";
    d.x = x;
    d.n_rows = 4;
    d.n_cols = 64;
    for (int i = 0; i < 3; i++)
        d.plane[i] = planes[i];
    good = d;
    BAD(d.struct_size = 2, GQMM_E_ARG, "struct_size is 2");
    BAD(d.format = "q9_z", GQMM_E_ARG, "\"q9_z\" is unknown");
    BAD(d.format = NULL, GQMM_E_ARG, "(null)");
    BAD(d.x = NULL, GQMM_E_ARG, "x is NULL");
    BAD(d.x_type = 4, GQMM_E_ARG, "x_type is 4");
    BAD(d.plane[2] = NULL, GQMM_E_ARG, "plane 2 is NULL");
    BAD(d.n_cols = 33, GQMM_E_SHAPE, "[4, 33], expected columns in multiples of 32");
    BAD(d.n_rows = -1, GQMM_E_SHAPE, "[-1, 64]");
    BAD(d.row_stride[0] = 31, GQMM_E_SHAPE, "row stride 31, expected at least 32");
    BAD(d.x_row_stride = -3, GQMM_E_SHAPE, "x_row_stride is -3");
    BAD(d.importance = importance, GQMM_E_ARG, "takes no importance");
    BAD(d.global_scale = &amax, GQMM_E_ARG, "has no global scale");
    BAD((d.format = "mlx_nvfp4", d.global_scale = odd_address(&amax)), GQMM_E_ARG,
        "global_scale is not aligned");
    d.format = "iq4_nl";
    const gqmm_quantize_desc searched = d;
    importance[9] = -1.0f;
    if (gqmm_format_find("iq4_nl")->takes_importance) {
        BAD((d = searched, d.importance = importance), GQMM_E_ARG, "importance[9] is -1");
        importance[9] = NAN;
        BAD((d = searched, d.importance = importance), GQMM_E_ARG, "importance[9] is");
    }
    return true;
}

static bool weights_refused(const gqmm_weights_desc *d, gqmm_status status, const char *words)
{
    gqmm_error e = {0};
    gqmm_weights *w = q4.w;
    const gqmm_status got = gqmm_weights_create(ctx, d, &w, &e);
    NEED(got == status && !w && strstr(e.text, words), "expected %s with \"%s\", got %s: %s",
         gqmm_status_name(status), words, gqmm_status_name(got), e.text);
    return true;
}

#define BAD_WEIGHTS(change, status, words) \
    do { \
        gqmm_weights_desc d = good; \
        change; \
        if (!weights_refused(&d, status, words)) \
            return false; \
    } while (0)

static bool weights_errors(void)
{
    const gqmm_weights_desc good = q4.d;
    const float amax = 1.0f;
    gqmm_error e;
    gqmm_weights *w;
    BAD_WEIGHTS(d.struct_size = 8, GQMM_E_ARG, "struct_size 8");
    BAD_WEIGHTS(d.flags = 1, GQMM_E_ARG, "flags 1");
    BAD_WEIGHTS(d.format = "q4_K", GQMM_E_ARG, "\"q4_K\" is unknown");
    BAD_WEIGHTS(d.format = NULL, GQMM_E_ARG, "(null)");
    BAD_WEIGHTS(d.plane[0] = NULL, GQMM_E_ARG, "plane 0 is NULL; q4_0 has 1");
    BAD_WEIGHTS(d.n_cols = 65, GQMM_E_SHAPE, "n_cols is 65, expected a multiple of 32");
    BAD_WEIGHTS(d.n_cols = 0, GQMM_E_SHAPE, "[3, 5, 0]");
    BAD_WEIGHTS(d.n_rows = -2, GQMM_E_SHAPE, "[3, -2, 64]");
    BAD_WEIGHTS(d.n_experts = 0, GQMM_E_SHAPE, "[0, 5, 64]");
    BAD_WEIGHTS(d.row_stride[0] = 35, GQMM_E_SHAPE, "row stride 35 is smaller than a row of 36");
    BAD_WEIGHTS(d.row_stride[0] = -35, GQMM_E_SHAPE, "row stride -35");
    BAD_WEIGHTS(d.row_stride[0] = INT64_MIN, GQMM_E_SHAPE, "2^63");
    BAD_WEIGHTS(d.row_stride[0] = INT64_MAX / 2, GQMM_E_SHAPE, "2^63");
    BAD_WEIGHTS(d.expert_stride[0] = INT64_MAX / 2, GQMM_E_SHAPE, "2^63");
    BAD_WEIGHTS(d.expert_stride[0] = INT64_MIN, GQMM_E_SHAPE, "2^63");
    BAD_WEIGHTS(d.n_cols = INT64_MAX / 32 * 32, GQMM_E_SHAPE, "2^63");
    BAD_WEIGHTS(d.n_rows = INT64_MAX / 2, GQMM_E_SHAPE, "2^63");
    BAD_WEIGHTS(d.global_scale = &amax, GQMM_E_ARG, "q4_0 has no global scale");
    NEED(gqmm_weights_create(NULL, &good, &w, &e) == GQMM_E_ARG && !w, "ctx NULL");
    NEED(gqmm_weights_create(ctx, NULL, &w, &e) == GQMM_E_ARG && !w, "desc NULL");
    NEED(gqmm_weights_create(ctx, &good, NULL, &e) == GQMM_E_ARG, "out NULL");
    gqmm_weights_destroy(NULL);
    return true;
}

static bool context_refused(const gqmm_context_desc *d, const char *words)
{
    gqmm_error e = {0};
    gqmm_context *c = ctx;
    const gqmm_status got = gqmm_context_create(d, &c, &e);
    NEED(got == GQMM_E_ARG && !c && strstr(e.text, words), "expected \"%s\", got %s: %s", words,
         gqmm_status_name(got), e.text);
    return true;
}

static bool context_errors(void)
{
    const gqmm_allocator half = {counted_alloc, NULL, NULL}, other = {NULL, counted_release, NULL};
    gqmm_context_desc d;
    gqmm_context *c;
    gqmm_error e;
    GQMM_INIT(d);
    bool ok = (d.struct_size = 4, context_refused(&d, "struct_size of gqmm_context_desc is 4"));
    ok = ok && (d.struct_size = 4000, context_refused(&d, "is 4000"));
    d.struct_size = sizeof d;
    ok = ok && (d.device = "cuda9", context_refused(&d, "device \"cuda9\" is not there: unknown"));
    d.device = "cpu";
    ok = ok && (d.isa = "mmx", context_refused(&d, "\"mmx\" is unknown"));
    d.isa = "scalar";
    ok = ok && (d.n_threads = -1, context_refused(&d, "n_threads is -1"));
    ok = ok && (d.n_threads = 1 << 20, context_refused(&d, "n_threads is 1048576"));
    d.n_threads = 1;
    ok = ok && (d.allocator = &half, context_refused(&d, "no release function"));
    ok = ok && (d.allocator = &other, context_refused(&d, "no alloc function"));
    NEED(ok && gqmm_context_create(NULL, NULL, &e) == GQMM_E_ARG, "out NULL");
    NEED(gqmm_context_create(NULL, &c, NULL) == GQMM_OK, "all defaults");
    NEED(gqmm_context_threads(c) == gqmm_default_threads(), "default threads");
    char text[8];
    NEED(gqmm_explain(c, text, sizeof text) == 0 && text[0] == 0, "nothing to explain yet");
    gqmm_context_destroy(c);
    gqmm_context_destroy(NULL);
    size_t bytes;
    gqmm_gather g = good_gather();
    NEED(gqmm_workspace_size(ctx, 0, &g, &bytes, &e) == GQMM_E_ARG && strstr(e.text, "0"), "op 0");
    NEED(gqmm_workspace_size(ctx, 8, &g, &bytes, &e) == GQMM_E_ARG && strstr(e.text, "8"), "op 8");
    NEED(gqmm_workspace_size(ctx, 1, &g, NULL, &e) == GQMM_E_ARG, "bytes NULL");
    NEED(gqmm_enter(ctx, 9, &g, 0, 1, &e) == GQMM_E_ARG && strstr(e.text, "9"), "enter op 9");
    NEED(gqmm_enter(NULL, 1, &g, 0, 1, &e) == GQMM_E_ARG, "enter ctx NULL");
    NEED(gqmm_enter(ctx, 1, &g, 2, 2, &e) == GQMM_E_ARG && strstr(e.text, "2 of 2"), "ith = nth");
    NEED(gqmm_enter(ctx, 1, &g, 0, 0, &e) == GQMM_E_ARG, "nth 0");
    return true;
}

/* ------------------------------------------------------------------ memory */

/* Exactly the bytes asked for, between guard pages, and no allocation; a byte less is refused. */
static bool workspace_of(const gqmm_gather *g, counter *c, gqmm_context *counted)
{
    gqmm_gather d = *g, blind = *g;
    gqmm_error e;
    size_t bytes;
    blind.x = blind.y = NULL;
    blind.lhs = blind.rhs = NULL;
    NEED(gqmm_workspace_size(counted, GQMM_OP_GATHER_QMM, &blind, &bytes, &e) == GQMM_OK, "%s",
         e.text);
    arena a = arena_make(bytes + 4096);
    const int64_t before = c->requests;
    float plain[2048];
    gqmm_gather_qmm(ctx, &d, &e);
    memcpy(plain, y, sizeof y);
    for (int right = 0; right < 2; right++) {
        memset(a.base, 0xff, a.bytes);
        d.workspace = arena_at(&a, bytes, right);
        d.workspace_bytes = bytes;
        memcpy(y, poison, sizeof y);
        NEED(gqmm_gather_qmm(counted, &d, &e) == GQMM_OK, "with %zu bytes: %s", bytes, e.text);
        NEED(memcmp(y, plain, sizeof y) == 0, "other bits with a workspace of the caller");
        memcpy(y, poison, sizeof y);
        d.workspace_bytes = bytes - 1;
        NEED(gqmm_gather_qmm(counted, &d, &e) == GQMM_E_NOMEM, "a byte less is taken");
        NEED(memcmp(y, poison, sizeof y) == 0, "y was written");
        d.workspace = (char *)a.base + 8;
        d.workspace_bytes = bytes;
        NEED(gqmm_gather_qmm(counted, &d, &e) == GQMM_E_NOMEM, "a misaligned one is taken");
    }
    arena_free(&a);
    NEED(c->requests == before, "a call with a workspace allocated");
    return true;
}

static bool workspace(void)
{
    counter c = {.fail_at = -1};
    const gqmm_allocator memory = {counted_alloc, counted_release, &c};
    gqmm_context_desc cd;
    gqmm_context *counted;
    bool ok = true;
    GQMM_INIT(cd);
    cd.n_threads = 2;
    cd.allocator = &memory;
    NEED(gqmm_context_create(&cd, &counted, NULL) == GQMM_OK, "context");
    for (int i = 0; ok && i < 36; i++) {
        gqmm_gather d = good_gather();
        d.precision = i % 2;
        d.transpose = i / 2 % 2;
        d.x_type = i / 4 % 3;
        d.y_type = i / 12;
        d.n_x = i % 5 == 0 ? 8 : 2;
        d.m = d.transpose ? 2 : 1;
        if (!d.transpose) {
            d.x_row_stride = 5;
            d.n_pairs = 4;
        }
        memcpy(y, poison, sizeof y);
        ok = workspace_of(&d, &c, counted);
    }
    gqmm_context_destroy(counted);
    NEED(!ok || (c.live_blocks == 0 && c.live_bytes == 0), "%lld blocks, %lld bytes left",
         (long long)c.live_blocks, (long long)c.live_bytes);
    return ok;
}

/* Everything that allocates, with the n-th allocation failing, for n = 0, 1, ... until it works. */
static bool allocation_failures(void)
{
    for (int64_t n = 0;; n++) {
        counter c = {.fail_at = n};
        const gqmm_allocator memory = {counted_alloc, counted_release, &c};
        gqmm_context_desc cd;
        gqmm_context *counted = NULL;
        gqmm_weights *w = NULL;
        gqmm_error e = {0};
        GQMM_INIT(cd);
        cd.n_threads = 3;
        cd.allocator = &memory;
        gqmm_status st = gqmm_context_create(&cd, &counted, &e);
        if (st == GQMM_OK)
            st = gqmm_weights_create(counted, &q4.d, &w, &e);
        if (st == GQMM_OK) {
            gqmm_gather d = good_gather();
            d.w = w;
            d.precision = GQMM_INT8;
            memcpy(y, poison, sizeof y);
            st = gqmm_gather_qmm(counted, &d, &e);
            NEED(st == GQMM_OK || memcmp(y, poison, sizeof y) == 0, "y was written");
        }
        gqmm_weights_destroy(w);
        gqmm_context_destroy(counted);
        NEED(c.live_blocks == 0 && c.live_bytes == 0, "failure of allocation %lld leaks %lld bytes",
             (long long)n, (long long)c.live_bytes);
        NEED(st == (c.requests > n ? GQMM_E_NOMEM : GQMM_OK), "allocation %lld of %lld fails: %s",
             (long long)n, (long long)c.requests, st ? e.text : "no error");
        if (c.requests <= n) {
            note("%lld allocations", (long long)n);
            return true;
        }
    }
}

/* Overlap that is allowed: inputs with each other; y next to x. */
static bool allowed(void)
{
    gqmm_gather d = good_gather();
    gqmm_error e;
    memset(y, 0, sizeof y);
    d.x = y + 8 * 2 * 5; /* the first element behind y */
    NEED(gqmm_gather_qmm(ctx, &d, &e) == GQMM_OK, "y next to x: %s", e.text);
    d = good_gather();
    d.n_pairs = 0;
    d.x = d.y = NULL;
    d.lhs = d.rhs = NULL;
    NEED(gqmm_gather_qmm(ctx, &d, &e) == GQMM_OK, "no pairs: %s", e.text);
    d.n_x = 0;
    NEED(gqmm_gather_qmm(ctx, &d, &e) == GQMM_OK, "no pairs, no x: %s", e.text);
    d = good_gather();
    d.m = 1;
    d.y_row_stride = 5;
    NEED(gqmm_gather_qmm(ctx, &d, &e) == GQMM_OK, "m = 1: %s", e.text);
    char text[16] = "";
    NEED(gqmm_explain(ctx, text, sizeof text) > 15 && strlen(text) == 15, "explain is cut to size");
    NEED(gqmm_explain(ctx, NULL, 0) > 15, "explain without a text");
    return true;
}

int main(int argc, char **argv)
{
    static const check_row rows[] = {{"gather_errors", gather_errors},
                                     {"qmm_errors", dense_errors},
                                     {"rows_errors", rows_errors},
                                     {"quantize_errors", quantize_errors},
                                     {"weights_errors", weights_errors},
                                     {"context_errors", context_errors},
                                     {"workspace", workspace},
                                     {"allocation_failures", allocation_failures},
                                     {"allowed", allowed}};
    gqmm_context_desc d;
    GQMM_INIT(d);
    start("check_errors", argc, argv);
    d.n_threads = 2;
    if (gqmm_context_create(&d, &ctx, NULL) != GQMM_OK)
        return 1;
    q4 = stack_make(ctx, "q4_0", 3, 5, 64, (stack_how){0});
    f32 = stack_make(ctx, "f32", 3, 5, 64, (stack_how){0});
    memset(poison, 0xcd, sizeof poison);
    for (int i = 0; i < COUNT(x); i++)
        x[i] = rnd_gauss();
    run_rows(rows, COUNT(rows));
    stack_free(&q4);
    stack_free(&f32);
    gqmm_context_destroy(ctx);
    return finish();
}
