/* SPDX-License-Identifier: MIT */
/* Every format, operation and path of a cuda context through the public interface, against the
 * definition in double. Without a device the cases are skipped, and what a library without one must
 * say is checked; --device cpu walks the same rows on a CPU context, which tests the walk.
 *
 *   check_cuda [--quick] [--tight[=N]] [--seed N] [--device cuda[:I]|cpu] [--path sm_80|sm_90]
 *              [--format GLOB,...] [--op GLOB,...] [--shard I/N] [--list] */
#include "device_errors.h"
#include "device_far.h"
#include "device_plans.h"
#include "device_refusals.h"

#include <fnmatch.h>

/* ------------------------------------------------------------------ the walk */

typedef struct walk_row {
    const char *op;
    bool (*run)(const gqmm_format_info *f);
    const char *formats; /* NULL: all; "": without a format; else words */
} walk_row;

#define RAGGED_FORMATS \
    "mxfp4 mlx_mxfp4 mlx_mxfp8 mlx_nvfp4 nvfp4 q8_0 q4_1 affine3_g32_f16 int4_g32"
#define SOME_FORMATS "q4_k q6_k q8_0 q4_0 mxfp4 affine4_g64_bf16 int4_g128 f16 f32"
static const walk_row walk[] = {
    {"gather", gather_format, NULL},
    {"gather_n", gather_n_format, NULL},
    {"qmm", qmm_format, NULL},
    {"moe", moe_format, NULL},
    {"embed", embed_format, NULL},
    {"dequantize", dequantize_format, NULL},
    {"quantize", quantize_format, NULL},
    {"bad_ids", bad_ids, SOME_FORMATS},
    {"not_numbers", not_numbers, SOME_FORMATS},
    {"pairs", pair_counts, "q4_k q4_0 mxfp4 affine4_g64_bf16 bf16"},
    {"few", few_columns,
     "q4_k int4_g128 int4_g64 affine4_g64_bf16 affine4_g128_bf16 q8_0 mxfp4 q3_k affine6_g32_f16"},
    {"ragged", ragged_products, RAGGED_FORMATS},
    {"moe_ragged", moe_ragged, RAGGED_FORMATS},
    {"int8", int8_products, "int4_g128"},
    {"moe_int8", moe_int8, "int4_g128"},
    {"tokens", moe_tokens, "q4_k q8_0 mxfp4 affine4_g64_bf16 int4_g64 q2_k iq4_xs"},
    {"mixed", moe_mixed, ""},
    {"eights", moe_eights,
     "int4_g128 affine4_g64_bf16 q4_0 nvfp4 mxfp4 mlx_mxfp4 mlx_nvfp4 q2_k affine3_g128_bf16 "
     "q5_1"},
    {"prompts", moe_prompts, ""},
    {"experts", moe_experts, ""},
    {"far_weights", far_weights, "q4_0 affine4_g64_bf16"},
    {"far_slices", far_slices, "q4_0"},
    {"far_rows", far_rows, "q4_0 affine4_g64_bf16"},
    {"far_activations", far_activations, "q8_0"},
    {"planted", planted, ""},
    {"errors", errors, ""},
    {"host_memory", host_memory, ""},
    {"refusals", refusals, ""},
};

static struct {
    const char *device, *path, *format, *op;
    int shard, shards, seen;
} ask = {.device = "cuda", .shards = 1};

static bool has_word(const char *words, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = words; (at = strstr(at, word)); at += n)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || at[n] == '\0'))
            return true;
    return false;
}

/* Whether one of the patterns, with commas between them, is the name's. */
static bool asked(const char *globs, const char *name)
{
    char glob[80];
    for (const char *at = globs; at && *at; at += *at == ',') {
        const size_t n = strcspn(at, ",");
        snprintf(glob, sizeof glob, "%.*s", (int)(n < 79 ? n : 79), at);
        if (fnmatch(glob, name, 0) == 0)
            return true;
        at += n;
    }
    return !globs;
}

/* The data of a case depend on its name alone, not on those that ran before it. */
static void run_case(const walk_row *row, const gqmm_format_info *f)
{
    char name[80];
    snprintf(name, sizeof name, "%s %s%s%s", on.path ? on.path : "cpu", row->op, f ? " " : "",
             f ? f->pub.name : "");
    if (ask.seen++ % ask.shards != ask.shard)
        return;
    if (h.list) {
        puts(name);
        return;
    }
    rng_state = h.seed;
    for (const char *at = strchr(name, ' '); *at; at++)
        rng_state = rng_state * 31 + (uint64_t)*at;
    on.worst = on.calls = 0;
    const bool ok = row->run(f);
    if (ok && !h.note[0])
        note("%d calls, worst error %.2f of its bound", on.calls, on.worst);
    report(name, ok);
}

typedef struct room {
    const char *path;
    gqmm_context *ctx;
} room;

static void walk_all(const room *rooms, int n)
{
    for (int r = 0; r < COUNT(walk); r++)
        for (int32_t i = 0; i < (walk[r].formats && !*walk[r].formats ? 1 : gqmm_n_formats); i++) {
            const gqmm_format_info *f = &gqmm_formats[i];
            const bool none = walk[r].formats && !*walk[r].formats;
            if (!asked(ask.op, walk[r].op) || (!none && !asked(ask.format, f->pub.name)) ||
                (walk[r].formats && !none && !has_word(walk[r].formats, f->pub.name)))
                continue;
            for (int k = 0; k < n && !on.lost; k++) {
                on.path = rooms[k].path;
                on.ctx = rooms[k].ctx;
                run_case(&walk[r], none ? NULL : f);
            }
        }
}

static int open_rooms(room rooms[2])
{
    static const char *const paths[] = {"sm_80", "sm_90"};
    int n = 0;
    if (!on.cuda) {
        rooms[n++] = (room){NULL, ctx};
        return n;
    }
    for (int i = 0; i < 2; i++) {
        gqmm_context_desc d;
        GQMM_INIT(d);
        d.device = ask.device;
        d.isa = paths[i];
        if (!asked(ask.path, paths[i]))
            continue;
        if (gqmm_context_create(&d, &rooms[n].ctx, &fault) == GQMM_OK)
            rooms[n++].path = paths[i];
        else if (i == 0)
            report("context sm_80", fail("%s", fault.text));
        else
            skip("context sm_90", fault.text);
    }
    return n;
}

static void options(int argc, char **argv)
{
    h.name = "check_cuda";
    h.seed = 20260301;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        const char **text = strcmp(argv[i], "--device") == 0   ? &ask.device
                            : strcmp(argv[i], "--path") == 0   ? &ask.path
                            : strcmp(argv[i], "--format") == 0 ? &ask.format
                            : strcmp(argv[i], "--op") == 0     ? &ask.op
                                                               : NULL;
        if (strcmp(argv[i], "--quick") == 0)
            h.quick = true;
        else if (strcmp(argv[i], "--tight") == 0)
            on.tight = 1;
        else if (sscanf(argv[i], "--tight=%d", &on.tight) == 1 && on.tight > 0)
            continue;
        else if (strcmp(argv[i], "--list") == 0)
            h.list = true;
        else if (text && value)
            *text = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && value)
            h.seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--shard") == 0 && value &&
                 sscanf(argv[++i], "%d/%d", &ask.shard, &ask.shards) == 2 && ask.shards > 0)
            continue;
        else {
            fprintf(stderr, "usage: check_cuda [--quick] [--tight[=N]] [--seed N] [--device NAME] "
                            "[--path P] [--format GLOB] [--op GLOB] [--shard I/N] [--list]\n");
            exit(2);
        }
    }
}

/* What is left without a device: every case by its operation, and the walk's own test. */
static void without_device(void)
{
    static const char *const paths[] = {"sm_80", "sm_90"};
    on.cuda = false;
    on.ctx = ctx;
    report("no device", no_device());
    report("planted on the CPU", planted(NULL));
    for (int k = 0; k < 2; k++)
        for (int r = 0; r < COUNT(walk); r++) {
            char name[60];
            snprintf(name, sizeof name, "%s %s", paths[k], walk[r].op);
            skip(name, "no CUDA device");
        }
}

int main(int argc, char **argv)
{
    room rooms[2] = {{NULL, NULL}, {NULL, NULL}};
    options(argc, argv);
    on.device = ask.device;
    on.cuda = strcmp(ask.device, "cpu") != 0;
    if (gqmm_context_create(NULL, &ctx, &err) != GQMM_OK) {
        printf("FAIL context: %s\n", err.text);
        return 1;
    }
    report("device functions on the CPU", cpu_device());
    if (on.cuda && !cuda_is_here()) {
        without_device();
    } else {
        const int n = open_rooms(rooms);
        walk_all(rooms, n);
        if (on.lost)
            report("device", fail("the device failed; the cases after that did not run"));
        for (int k = 0; on.cuda && k < n; k++)
            gqmm_context_destroy(rooms[k].ctx);
    }
    gqmm_context_destroy(ctx);
    return finish();
}
