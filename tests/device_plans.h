/* SPDX-License-Identifier: MIT */
/* Which calls each format makes on the device under test. */
#ifndef TESTS_DEVICE_PLANS_H
#define TESTS_DEVICE_PLANS_H

#include "device_moe.h"
#include "device_rows.h"

/* ------------------------------------------------------------------ products, format by format */

static int64_t some_cols(const gqmm_format_info *f)
{
    const int64_t block = f->pub.block_elems;
    return PICK(block, 2 * block, 3 * block, block * (1 + 200 / block), 256, 512, 1024);
}

/* The first plans are few columns, tiles and awkward operands in every type; then random ones. */
static call_plan product_plan(const gqmm_format_info *f, int i, bool transpose, bool dense)
{
    static const call_plan first[] = {
        {.pairs = 2, .x_type = GQMM_F32, .y_type = GQMM_F32},
        {.pairs = 8, .x_type = GQMM_BF16, .y_type = GQMM_BF16},
        {.pairs = 5, .x_type = GQMM_F16, .y_type = GQMM_F16, .crooked = true},
        {.pairs = 40, .x_type = GQMM_BF16, .y_type = GQMM_BF16},
        {.pairs = 100, .x_type = GQMM_F32, .y_type = GQMM_F32, .odd = true},
        {.pairs = 3, .m = 20, .x_type = GQMM_F16, .y_type = GQMM_F32},
        {.pairs = 520, .x_type = GQMM_BF16, .y_type = GQMM_F32, .rhs = IDS_ONE},
        {.pairs = 200, .x_type = GQMM_BF16, .y_type = GQMM_BF16, .odd = true, .crooked = true},
        {.pairs = 33, .x_type = GQMM_BF16, .y_type = GQMM_F32, .precision = GQMM_INT8},
        {.pairs = 1, .rows = 64, .cols = 512, .x_type = GQMM_BF16, .y_type = GQMM_F32},
        {.pairs = 6, .rows = 128, .cols = 2304, .x_type = GQMM_BF16, .y_type = GQMM_BF16},
    };
    call_plan p = {.pairs = PICK(0, 1, 2, 5, 17, 70, 129),
                   .m = PICK(0, 1, 1, 2, 3, 20),
                   .x_type = (int32_t)rnd_below(3),
                   .y_type = (int32_t)rnd_below(3),
                   .odd = rnd() & 1,
                   .crooked = rnd() & 1,
                   .lhs = (int)rnd_below(4)};
    if (i < COUNT(first))
        p = first[i];
    p.rhs = p.rhs ? p.rhs : i % 2 ? IDS_RANDOM : IDS_SKIP;
    p.e = PICK(1, 3, 5);
    p.rows = p.rows ? p.rows : PICK(1, 2, 7, 63, 64, 65, 128, 130, 257);
    p.cols = p.cols ? p.cols : some_cols(f);
    p.n_x = p.lhs ? PICK(1, 3, 60) : p.pairs > 1 ? p.pairs : 1;
    if (i >= COUNT(first) && p.pairs <= p.e && rnd() & 1)
        p.rhs = IDS_NONE;
    p.transpose = transpose;
    p.dense = dense;
    if (p.pairs == 520 && dense) /* dequantised first; stored in tiles */
        p.y_type = GQMM_BF16;
    if (dense)
        p.m = i < COUNT(first) ? p.pairs * (p.m ? p.m : 1) : PICK(1, 2, 16, 17, 33, 64, 129);
    return p;
}

static bool products(const gqmm_format_info *f, bool transpose, bool dense)
{
    const int n = h.quick ? 11 : 18;
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        const call_plan p = product_plan(f, i, transpose, dense);
        ok = try_call(f, &p);
    }
    return ok;
}

static bool gather_format(const gqmm_format_info *f)
{
    return products(f, true, false);
}

static bool gather_n_format(const gqmm_format_info *f)
{
    return products(f, false, false);
}

static bool qmm_format(const gqmm_format_info *f)
{
    return products(f, true, true) && (h.quick || products(f, false, true));
}

/* Numbers of pairs, and of rows of one pair, around every limit. */
static bool pair_counts(const gqmm_format_info *f)
{
    static const int64_t counts[] = {0,   1,    7,    8,    9,    15,   16,   17,    31,   32,  33,
                                     63,  64,   65,   127,  128,  129,  255,  256,   257,  511, 513,
                                     900, 1023, 1025, 2049, 4095, 4096, 4097, 16385, 65537};
    bool ok = true;
    for (int i = 0; ok && i < COUNT(counts); i += h.quick && i > 12 ? 5 : 1)
        for (int kind = 0; ok && kind < 3; kind++) {
            const bool dense = kind == 1;
            const call_plan p = {.e = 5,
                                 .rows = dense && i / 2 % 2 ? 264 : 33,
                                 .cols = f->pub.block_elems > 64   ? 256
                                         : f->pub.block_elems > 32 ? 320
                                                                   : 352,
                                 .pairs = counts[i],
                                 .m = dense ? counts[i] : 1,
                                 .n_x = counts[i] ? counts[i] : 1,
                                 .transpose = 1,
                                 .x_type = i % 3   ? GQMM_BF16
                                           : i % 2 ? GQMM_F16
                                                   : GQMM_F32,
                                 .y_type = i % 2 ? GQMM_F32 : GQMM_BF16,
                                 .rhs = kind == 2 ? IDS_ONE : IDS_SKIP,
                                 .crooked = dense && i % 8 == 7,
                                 .slipped = dense && i % 10 == 0,
                                 .dense = dense};
            if (!dense || counts[i] > 0) /* m = 0 means 1 */
                ok = try_call(f, &p);
        }
    return ok;
}

/* Number i of plans for bf16 activations, which say what is not as usual. */
static bool try_bf16(const gqmm_format_info *f, call_plan p, int i)
{
    p.transpose = 1;
    p.x_type = GQMM_BF16;
    p.y_type = i % 2 || p.scaled ? GQMM_F32 : GQMM_BF16;
    p.n_x = p.dense ? 1 : p.pairs;
    p.rhs = p.rhs ? p.rhs : IDS_RANDOM;
    return try_call(f, &p);
}

/* Few bf16 columns of whole row tiles: from one tile to more than the device has blocks, K from one
 * step to more than the warps of a block. The last ones are as large as direct.cuh asks for
 * (pays_from), without a list and with one, two of them with more columns of an expert than wide
 * tiles need, and three with so few that they are taken as digits. */
static bool few_columns(const gqmm_format_info *f)
{
    static const call_plan plans[] = {
        {.e = 1, .rows = 16, .cols = 256, .pairs = 1},
        {.e = 3, .rows = 48, .cols = 512, .pairs = 9, .rhs = IDS_SKIP},
        {.e = 5, .rows = 64, .cols = 2048, .pairs = 20, .scaled = true},
        {.e = 5, .rows = 240, .cols = 512, .pairs = 29, .rhs = IDS_ONE},
        {.e = 60, .rows = 128, .cols = 512, .pairs = 200, .rhs = IDS_SKIP},
        {.e = 40, .rows = 528, .cols = 256, .pairs = 150, .nan = true},
        {.e = 2, .rows = 512, .cols = 4096, .pairs = 5, .scaled = true},
        {.e = 7, .rows = 272, .cols = 768, .pairs = 33, .nan = true},
        {.e = 3, .rows = 1040, .cols = 1280, .pairs = 3, .m = 11},
        {.e = 1, .rows = 4112, .cols = 2048, .m = 8, .dense = true, .scaled = true},
        {.e = 2, .rows = 16, .cols = 6144, .m = 3, .dense = true},
        {.e = 60, .rows = 1024, .cols = 1024, .pairs = 120, .rhs = IDS_SKIP, .scaled = true},
        {.e = 40, .rows = 1024, .cols = 1280, .pairs = 300, .rhs = IDS_SKIP},
        {.e = 1, .rows = 48, .cols = 2560, .m = 5, .dense = true, .nan = true},
        {.e = 1, .rows = 8448, .cols = 1024, .m = 2, .dense = true},
        {.e = 4, .rows = 2064, .cols = 2048, .pairs = 2, .rhs = IDS_SKIP, .scaled = true},
        {.e = 3, .rows = 32, .cols = 4096, .pairs = 2, .lhs = IDS_RANDOM},
        {.e = 6, .rows = 272, .cols = 768, .pairs = 7, .m = 3, .rhs = IDS_SKIP, .nan = true},
        {.e = 28, .rows = 1024, .cols = 4096, .pairs = 128, .rhs = IDS_SKIP, .scaled = true},
        {.e = 40, .rows = 528, .cols = 2048, .pairs = 20, .rhs = IDS_SKIP, .scaled = true},
        {.e = 60, .rows = 1040, .cols = 1280, .pairs = 30, .lhs = IDS_SKIP, .nan = true},
        {.e = 128, .rows = 2048, .cols = 256, .pairs = 61, .rhs = IDS_ONE},
        {.e = 34, .rows = 2048, .cols = 2048, .pairs = 130, .nan = true},
        {.e = 34, .rows = 8192, .cols = 512, .pairs = 260, .scaled = true},
    };
    bool ok = true;
    for (int i = 0; ok && i < COUNT(plans) - (h.quick ? 2 : 0); i++)
        ok = try_bf16(f, plans[i], i);
    return ok;
}

/* K in whole blocks but in no whole steps, and outputs in whole row tiles: few columns, tiles of
 * them, rows beyond one block's. */
static bool ragged_products(const gqmm_format_info *f)
{
    static const call_plan plans[] = {
        {.e = 2, .rows = 16, .cols = 96, .pairs = 3},
        {.e = 3, .rows = 64, .cols = 2880, .pairs = 9, .rhs = IDS_SKIP},
        {.e = 5, .rows = 240, .cols = 320, .pairs = 29, .nan = true},
        {.e = 40, .rows = 528, .cols = 288, .pairs = 150, .rhs = IDS_SKIP},
        {.e = 1, .rows = 2096, .cols = 608, .m = 5, .dense = true, .scaled = true},
        {.e = 1, .rows = 64, .cols = 352, .m = 1, .dense = true},
        {.e = 6, .rows = 272, .cols = 736, .pairs = 7, .m = 3, .odd = true},
        {.e = 1, .rows = 2192, .cols = 3872, .m = 7, .dense = true, .nan = true},
        {.e = 3, .rows = 272, .cols = 2880, .pairs = 1, .m = 8, .lhs = IDS_RANDOM, .scaled = true},
    };
    bool ok = true;
    for (int i = 0; ok && i < COUNT(plans); i++) {
        if (plans[i].cols % f->pub.block_elems == 0)
            ok = try_bf16(f, plans[i], i);
    }
    return ok;
}

/* Activations in int8; the last five are left to the float kernels. */
static bool int8_products(const gqmm_format_info *f)
{
    static const call_plan plans[] = {
        {.e = 3, .rows = 300, .cols = 256, .pairs = 40, .rhs = IDS_SKIP},
        {.e = 5, .rows = 64, .cols = 1024, .pairs = 50, .lhs = IDS_SKIP},
        {.e = 2, .rows = 257, .cols = 512, .pairs = 30, .nan = true},
        {.e = 7, .rows = 513, .cols = 768, .pairs = 210, .scaled = true},
        {.e = 2, .rows = 7, .cols = 256, .pairs = 12, .m = 5, .lhs = IDS_RANDOM},
        {.e = 3, .rows = 250, .cols = 512, .pairs = 90, .nan = true, .scaled = true},
        {.e = 4, .rows = 1030, .cols = 256, .pairs = 128, .rhs = IDS_ONE},
        {.e = 5, .rows = 128, .cols = 2048, .pairs = 150, .lhs = IDS_BAD},
        {.e = 3, .rows = 96, .cols = 512, .pairs = 30, .m = 3, .rhs = IDS_BAD},
        {.e = 60, .rows = 264, .cols = 512, .pairs = 700, .rhs = IDS_SKIP},
        {.e = 3, .rows = 64, .cols = 384, .pairs = 60},
        {.e = 3, .rows = 64, .cols = 512, .pairs = 60, .odd = true, .crooked = true},
        {.e = 3, .rows = 64, .cols = 512, .pairs = 60, .y_type = GQMM_F16},
        {.e = 30, .rows = 64, .cols = 512, .pairs = 60},
        {.e = 3, .rows = 64, .cols = 512, .pairs = 200},
    };
    bool ok = true;
    for (int i = 0; ok && i < COUNT(plans); i++) {
        call_plan p = plans[i];
        p.transpose = 1;
        p.precision = GQMM_INT8;
        p.x_type = GQMM_BF16;
        if (!on.cuda && (p.lhs == IDS_BAD || p.rhs == IDS_BAD))
            continue;
        p.rounds = i < COUNT(plans) - 5;
        p.y_type = p.y_type == GQMM_F16 ? GQMM_F16 : GQMM_BF16;
        p.n_x = p.pairs;
        p.rhs = p.rhs ? p.rhs : IDS_RANDOM;
        ok = try_call(f, &p);
    }
    return ok;
}

/* -1 is a zero row, any other bad id a zero row and an error that is told once. */
static bool bad_ids(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && on.cuda && i < 8; i++) {
        call_plan p = product_plan(f, i, i % 4 != 3, false);
        p.pairs = i % 2 ? 12 : 150;
        p.n_x = 9;
        p.odd = false;
        p.lhs = i & 4 ? IDS_BAD : IDS_RANDOM;
        p.rhs = i & 4 ? IDS_RANDOM : IDS_BAD;
        ok = try_call(f, &p);
    }
    return ok;
}

/* A NaN or an infinity makes its own rows no numbers and stays out of the others. */
static bool not_numbers(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && i < 9; i++) {
        call_plan p = product_plan(f, i, true, false);
        p.nan = true;
        ok = try_call(f, &p);
    }
    return ok;
}

/* ------------------------------------------------------------------ moe */

/* A layer of one format, kept for the next path; what is drawn after it is the same for both. */
static const layer *layer_of(const gqmm_format_info *f, plan *p)
{
    static layer kept;
    static const gqmm_format_info *of;
    static plan made;
    const int64_t side = 256;
    const uint64_t drawn = rng_state;
    *p = (plan){.gate = f->pub.name,
                .down = f->pub.name,
                .router = "f32",
                .e = 5,
                .d = side,
                .f = side,
                .t = 1,
                .s = 2,
                .dense = true};
    if (of != f) {
        if (of)
            layer_free(&kept);
        of = f;
        made = *p;
        made.fused = true; /* gate holds both; up is made here */
        kept = layer_make(&made);
        kept.up = soft(f->pub.name, p->e, p->f, p->d, true);
    }
    rng_state = drawn * 31 + 1;
    return &kept;
}

/* One token, few, many; both ways of routing; every type. */
static bool moe_format(const gqmm_format_info *f)
{
    static const int64_t tokens[] = {1, 3, 8, 17, 64, 130};
    plan p;
    const layer *l = layer_of(f, &p);
    bool ok = true;
    for (int i = 0; ok && i < (h.quick ? 6 : 18); i++) {
        layer now = *l;
        p.t = tokens[i % COUNT(tokens)];
        p.x_type = i % 6 == 5 ? GQMM_BF16 : i % 3;
        p.y_type = i % 2 ? GQMM_F32 : p.x_type;
        p.given = i % 3 == 2;
        p.fused = i % 2;
        p.renormalize = i % 2;
        p.precision = i % 6 == 4 ? GQMM_INT8 : GQMM_EXACT;
        p.scoring = i % 4 == 3 ? GQMM_SIGMOID : GQMM_SOFTMAX;
        if (p.given)
            now.router = (stack){0};
        if (p.fused)
            now.up = (stack){0};
        else /* gate alone: its first half's rows, as a stack of [E, F, D] */
            now.gate = l->up;
        ok = try_moe(&p, &now, i % 4 == 2, IDS_RANDOM);
    }
    return ok;
}

/* Widths in whole blocks but in no whole steps: one token, few, and more than are summed at once.
 */
static bool moe_ragged(const gqmm_format_info *f)
{
    static const int64_t tokens[] = {1, 2, 5, 8, 40},
                         widths[][2] = {{320, 576}, {2880, 192}, {352, 288}};
    bool ok = true;
    for (int i = 0; ok && i < COUNT(widths); i++) {
        plan p = {.gate = f->pub.name,
                  .up = f->pub.name,
                  .down = f->pub.name,
                  .router = "bf16",
                  .e = 5,
                  .s = 3,
                  .d = widths[i][0],
                  .f = widths[i][1],
                  .renormalize = 1,
                  .dense = true,
                  .fused = i == 1,
                  .x_type = GQMM_BF16,
                  .y_type = i % 2 ? GQMM_F32 : GQMM_BF16};
        if (p.d % f->pub.block_elems != 0 || p.f % f->pub.block_elems != 0)
            continue;
        layer l = layer_make(&p);
        for (int j = 0; ok && j < COUNT(tokens); j++) {
            p.t = tokens[j];
            ok = try_moe(&p, &l, j % 3 == 2, IDS_RANDOM);
        }
        layer_free(&l);
    }
    return ok;
}

/* Formats, sizes, routing, shared experts, scales and biases at random. */
static bool moe_mixed(const gqmm_format_info *f)
{
    static const char *const gates[] = {"q8_0", "q4_0", "f32", "affine8_g64_f16", "q5_1", "bf16"};
    static const char *const downs[] = {"affine6_g64_bf16", "q8_0", "mlx_mxfp8", "f16", "q4_1"};
    static const char *const routers[] = {"f32", "f16", "bf16", "q8_0", "mlx_mxfp8"};
    static const int64_t experts[] = {1, 2, 5, 8, 16, 40};
    bool ok = true;
    (void)f;
    for (int i = 0; ok && i < (h.quick ? 20 : 90); i++) {
        plan p = {.gate = gates[i % COUNT(gates)],
                  .down = downs[i % COUNT(downs)],
                  .router = routers[i % COUNT(routers)],
                  .e = experts[rnd_below(COUNT(experts))],
                  .d = 64 * (1 + rnd_below(5)),
                  .f = 64 * (1 + rnd_below(3)),
                  .t = PICK(0, 1, 2, 3, 8, 17, 64)};
        p.s = 1 + (int)rnd_below(p.e < 6 ? p.e : 6);
        p.fused = rnd() & 1;
        p.shared = rnd() & 1;
        p.s_fused = rnd() & 1;
        p.s_scale = rnd() & 1;
        p.scoring = (int)rnd_below(2);
        p.renormalize = (int)rnd_below(2);
        p.precision = rnd_below(4) == 0;
        p.x_type = (int)rnd_below(3);
        p.y_type = (int)rnd_below(3);
        p.scale = rnd_below(3) ? 0.0f : 2.5f;
        p.bias = p.scoring == GQMM_SIGMOID && rnd_below(2);
        p.given = rnd_below(3) == 0;
        p.dense = rnd() & 1;
        layer l = layer_make(&p);
        ok = try_moe(&p, &l, rnd() & 1, IDS_RANDOM);
        layer_free(&l);
    }
    return ok;
}

/* Prompts in bf16, whose weights may be rounded to bf16 in tiles of many columns: sizes that fill
 * no tile, one expert and many, all pairs on one, and a shared expert. */
static bool moe_prompts(const gqmm_format_info *f)
{
    static const char *const formats[] = {"q4_0", "mxfp4", "affine4_g64_bf16",
                                          "q8_0", "q4_k",  "int4_g128"};
    bool ok = true;
    (void)f;
    for (int i = 0; ok && i < (h.quick ? 6 : 30); i++) {
        const gqmm_format_info *w = gqmm_format_by_name(formats[i % COUNT(formats)]);
        const int64_t step = w->pub.block_elems > 64 ? w->pub.block_elems : 64;
        const int64_t most = 576 / step;
        plan p = {.gate = w->pub.name,
                  .down = w->pub.name,
                  .router = "bf16",
                  .e = PICK(1, 2, 5, 16, 40),
                  .d = step * (1 + rnd_below(most)),
                  .f = step * (1 + rnd_below(most)),
                  .t = PICK(8, 64, 100, 257, 600, 1100),
                  .fused = rnd() & 1,
                  .renormalize = 1,
                  .dense = true,
                  .x_type = GQMM_BF16,
                  .y_type = (int)rnd_below(3)};
        p.up = rnd() & 1 ? p.gate : NULL;
        p.s = 1 + (int)rnd_below(p.e < 4 ? p.e : 4);
        p.given = rnd() & 1;
        p.shared = p.s_scale = rnd() & 1;
        layer l = layer_make(&p);
        ok = try_moe(&p, &l, false, rnd() & 1 ? IDS_ONE : IDS_RANDOM);
        layer_free(&l);
    }
    return ok;
}

/* The same with activations and h in int8. */
static bool moe_int8(const gqmm_format_info *f)
{
    bool ok = true;
    for (int i = 0; ok && i < (h.quick ? 4 : 16); i++) {
        plan p = {.gate = f->pub.name,
                  .up = f->pub.name,
                  .down = f->pub.name,
                  .router = "bf16",
                  .e = PICK(2, 3, 8, 16),
                  .d = 256 * (1 + rnd_below(3)),
                  .f = 256 * (1 + rnd_below(2)),
                  .fused = rnd() & 1,
                  .renormalize = 1,
                  .dense = true,
                  .precision = GQMM_INT8,
                  .x_type = GQMM_BF16,
                  .y_type = (int)rnd_below(3)};
        p.s = 1 + (int)rnd_below(p.e < 4 ? p.e : 4);
        p.t = p.e * PICK(7, 16, 31) / p.s;
        p.given = rnd() & 1;
        layer l = layer_make(&p);
        ok = try_moe(&p, &l, false, rnd() & 1 ? IDS_ONE : IDS_RANDOM);
        if (ok && strcmp(on.path ? on.path : "", "sm_90") == 0 && !moe_is_int8(&p, false))
            ok = fail("int8 was not taken");
        layer_free(&l);
    }
    return ok;
}

/* Layers as large as direct.cuh asks for, whose experts have few columns: SwiGLU in its stores, and
 * down, on pairs in one list and in none, and on so few that they are taken as digits. */
static bool moe_eights(const gqmm_format_info *f)
{
    static const int64_t tokens[] = {96, 30, 7};
    plan p = {.gate = f->pub.name,
              .up = f->pub.name,
              .down = f->pub.name,
              .router = "bf16",
              .e = 60,
              .s = 4,
              .t = 96,
              .d = 1024,
              .f = 768,
              .renormalize = 1,
              .dense = true,
              .x_type = GQMM_BF16,
              .y_type = GQMM_F32};
    bool ok = true;
    layer l = layer_make(&p);
    for (int i = 0; ok && i < COUNT(tokens); i++) {
        p.t = tokens[i];
        ok = try_moe(&p, &l, false, IDS_RANDOM);
    }
    layer_free(&l);
    return ok;
}

/* As many experts as models have, with few tokens and with many. */
static bool moe_experts(const gqmm_format_info *f)
{
    static const int64_t experts[] = {32, 128, 256, 300, 512};
    static const int used[] = {4, 8, 8, 1, 10};
    bool ok = true;
    (void)f;
    for (int i = 0; ok && i < COUNT(experts) * (h.quick ? 1 : 4); i++) {
        plan p = {.gate = "q4_0",
                  .down = "q8_0",
                  .router = i % 2 ? "bf16" : "f32",
                  .e = experts[i % COUNT(experts)],
                  .s = used[i % COUNT(experts)],
                  .d = 64,
                  .f = 32,
                  .t = PICK(1, 2, 8, 64, 513),
                  .fused = i % 2,
                  .renormalize = 1,
                  .dense = i % 4 < 2,
                  .scoring = i % 3 == 2,
                  .x_type = i % 3,
                  .y_type = i % 3};
        layer l = layer_make(&p);
        ok = try_moe(&p, &l, i % 2, IDS_RANDOM);
        layer_free(&l);
    }
    return ok;
}

static const int64_t token_set[] = {
    0,   1,   2,   3,   7,   8,   9,   15,  16,   17,   31,   32,   33,   63,   64,   65,   127,
    128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097};

/* Numbers of tokens around every limit: routed, on given ids, all on one expert, bad ids. */
static bool moe_tokens(const gqmm_format_info *f)
{
    plan p;
    const layer *l = layer_of(f, &p);
    bool ok = true;
    for (int i = 0; ok && i < COUNT(token_set); i += h.quick && i > 8 ? 6 : 1) {
        layer now = *l;
        const int kind = i % 4;
        p.t = token_set[i];
        p.fused = true;
        now.up = (stack){0};
        p.given = kind > 1;
        p.x_type = i % 5 == 4 ? GQMM_F32 : i % 5 == 3 ? GQMM_F16 : GQMM_BF16;
        p.y_type = i % 2 ? GQMM_F32 : p.x_type;
        if (p.given)
            now.router = (stack){0};
        ok = try_moe(&p, &now, false,
                     kind == 2                         ? IDS_ONE
                     : kind == 3 && on.cuda && p.t > 0 ? IDS_BAD
                                                       : IDS_RANDOM);
    }
    return ok;
}

#endif
