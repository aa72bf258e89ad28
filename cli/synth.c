/* SPDX-License-Identifier: MIT */
/* gqmm synth: the tensors of a qwen3moe file by name, size and type, and the random bytes in them.
 */
#include "synth.h"

#include "bench_random.h"
#include "bench_shape.h"
#include "bench_tile.h"
#include "interrupt.h"
#include "mix.h"
#include "output.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GGUF_U32 = 4, GGUF_F32 = 6, MOST_TILES = 32, STEP_BYTES = 16 << 20, CONTEXT = 40960 };

typedef struct synth_settings {
    const char *shape, *type;
    int64_t layers, vocab, seed, threads;
    bool force;
} synth_settings;

static const synth_settings synth_defaults = {.type = "q4_k_m", .seed = 1};

static const option synth_options[] = {
    {"shape", 0, OPT_TEXT, offsetof(synth_settings, shape), 0, 0, "NAME|E,N,K,top",
     "a model's shape, or experts, hidden units, row length, experts used (needed)"},
    {"layers", 'l', OPT_INT, offsetof(synth_settings, layers), 1, 1024, "L",
     "layers (default: as many as the model of that name has)"},
    {"type", 0, OPT_TEXT, offsetof(synth_settings, type), 0, 0, "TYPE",
     "q4_k_m, q4_k_s, q5_k_m, q5_k_s, mxfp4_moe or a GGUF format (default: q4_k_m)"},
    {"vocab", 0, OPT_INT, offsetof(synth_settings, vocab), SYNTH_LEAST_VOCAB, 1 << 24, "N",
     "tokens of the vocabulary (default: as many as the model of that name has)"},
    {"seed", 0, OPT_INT, offsetof(synth_settings, seed), 0, 4294967295.0, "S",
     "same seed, same file"},
    {"threads", 't', OPT_INT, offsetof(synth_settings, threads), 1, 1024, "N",
     "threads (default: the CPUs this process may use)"},
    {"force", 'f', OPT_FLAG, offsetof(synth_settings, force), 0, 0, NULL,
     "replace OUT.gguf if it exists"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

typedef struct synth_tensor {
    char name[56];
    gqmm_tensor t; /* name, n_dims and dims */
    const gqmm_format *format;
} synth_tensor;

typedef struct synth_job {
    const synth_settings *set;
    bench_shape shape; /* with the wanted layers and vocabulary */
    const mix *mix;
    gqmm_context *ctx;
    synth_tensor *tensors;
    int64_t n_tensors, n_bytes, n_weights, n_done;
    bench_tile tiles[MOST_TILES]; /* one for each format and row length */
    int64_t tile_cols[MOST_TILES];
    int n_tiles;
    uint8_t *step; /* rows on their way to the file */
} synth_job;

/* ------------------------------------------------------------------ the tensors */

/* layer -1: a tensor of the whole model. n_rows 0: a vector; n_experts 0: a matrix. */
static void add_tensor(synth_job *job, int64_t layer, const char *name, int64_t n_cols,
                       int64_t n_rows, int64_t n_experts)
{
    synth_tensor *s = &job->tensors[job->n_tensors++];

    memset(s, 0, sizeof *s);
    if (layer >= 0)
        snprintf(s->name, sizeof s->name, "blk.%" PRId64 ".%s.weight", layer, name);
    else
        snprintf(s->name, sizeof s->name, "%s.weight", name);
    s->t.name = s->name;
    s->t.n_dims = n_experts ? 3 : n_rows ? 2 : 1;
    s->t.dims[0] = n_cols;
    s->t.dims[1] = n_rows ? n_rows : 1;
    s->t.dims[2] = n_experts ? n_experts : 1;
}

static void list_tensors(synth_job *job)
{
    const bench_shape *s = &job->shape;
    const int64_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    const int64_t k = s->n_hidden;

    job->tensors = need((size_t)(3 + 12 * s->n_layers), sizeof *job->tensors);
    add_tensor(job, -1, "token_embd", k, s->n_vocab, 0);
    for (int64_t i = 0; i < s->n_layers; i++) {
        add_tensor(job, i, "attn_norm", k, 0, 0);
        add_tensor(job, i, "attn_q", k, q, 0);
        add_tensor(job, i, "attn_k", k, kv, 0);
        add_tensor(job, i, "attn_v", k, kv, 0);
        add_tensor(job, i, "attn_output", q, k, 0);
        add_tensor(job, i, "attn_q_norm", s->head_dim, 0, 0);
        add_tensor(job, i, "attn_k_norm", s->head_dim, 0, 0);
        add_tensor(job, i, "ffn_norm", k, 0, 0);
        add_tensor(job, i, "ffn_gate_inp", k, s->n_experts, 0);
        add_tensor(job, i, "ffn_gate_exps", k, s->n_ff, s->n_experts);
        add_tensor(job, i, "ffn_up_exps", k, s->n_ff, s->n_experts);
        add_tensor(job, i, "ffn_down_exps", s->n_ff, k, s->n_experts);
    }
    add_tensor(job, -1, "output_norm", k, 0, 0);
    add_tensor(job, -1, "output", k, s->n_vocab, 0);
}

static int64_t tensor_rows(const synth_tensor *s)
{
    return s->t.dims[1] * s->t.dims[2];
}

static gqmm_status declare_tensors(synth_job *job, gqmm_writer *w, gqmm_error *err)
{
    const mix_facts facts = {.n_layers = job->shape.n_layers,
                             .n_experts = job->shape.n_experts,
                             .n_values = job->shape.n_layers};
    int64_t value_index = 0;
    gqmm_status st = GQMM_OK;

    for (int64_t i = 0; i < job->n_tensors && st == GQMM_OK; i++) {
        synth_tensor *s = &job->tensors[i];

        s->format = gqmm_format_find(mix_format(job->mix, &facts, &s->t, &value_index));
        job->n_bytes += tensor_rows(s) * gqmm_format_row_bytes(s->format, 0, s->t.dims[0]);
        job->n_weights += tensor_rows(s) * s->t.dims[0];
        st = gqmm_writer_tensor(w, s->name, s->format->name, s->t.n_dims, s->t.dims, err);
    }
    return st;
}

/* ------------------------------------------------------------------ metadata */

static gqmm_status write_meta(const synth_job *job, gqmm_writer *w, gqmm_error *err)
{
    const bench_shape *s = &job->shape;
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {
        {"general.file_type", job->mix->file_type},
        {"general.quantization_version", 2},
        {"qwen3moe.block_count", s->n_layers},
        {"qwen3moe.context_length", CONTEXT},
        {"qwen3moe.embedding_length", s->n_hidden},
        {"qwen3moe.feed_forward_length", s->n_ff * s->n_used},
        {"qwen3moe.attention.head_count", s->n_heads},
        {"qwen3moe.attention.head_count_kv", s->n_kv_heads},
        {"qwen3moe.attention.key_length", s->head_dim},
        {"qwen3moe.attention.value_length", s->head_dim},
        {"qwen3moe.expert_count", s->n_experts},
        {"qwen3moe.expert_used_count", s->n_used},
        {"qwen3moe.expert_feed_forward_length", s->n_ff},
    };
    char name[120];
    gqmm_status st = gqmm_writer_meta_string(w, "general.architecture", "qwen3moe", 8, err);

    snprintf(name, sizeof name, "random weights, shape %s, %" PRId64 " layers", job->set->shape,
             s->n_layers);
    if (st == GQMM_OK)
        st = gqmm_writer_meta_string(w, "general.name", name, strlen(name), err);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && st == GQMM_OK; i++)
        st = gqmm_writer_meta_int(w, numbers[i].key, GGUF_U32, numbers[i].value, err);
    if (st == GQMM_OK)
        st = gqmm_writer_meta_float(w, "qwen3moe.attention.layer_norm_rms_epsilon", GGUF_F32, 1e-6,
                                    err);
    if (st == GQMM_OK)
        st = gqmm_writer_meta_float(w, "qwen3moe.rope.freq_base", GGUF_F32, 1e6, err);
    return st == GQMM_OK ? synth_tokenizer(w, s->n_vocab, err) : st;
}

/* ------------------------------------------------------------------ data */

/* The tile for rows of k weights; NULL with *st set when it cannot be made. */
static const bench_tile *find_tile(synth_job *job, const gqmm_format *format, int64_t k,
                                   gqmm_status *st, gqmm_error *err)
{
    int i = 0;

    while (i < job->n_tiles && (job->tiles[i].format != format || job->tile_cols[i] != k))
        i++;
    if (i < job->n_tiles)
        return &job->tiles[i];
    /* A model has some four row lengths and three formats. */
    if (i == MOST_TILES)
        bench_tile_free(&job->tiles[--i]);
    job->n_tiles = i + 1;
    job->tile_cols[i] = k;
    *st = bench_tile_make(&job->tiles[i], job->ctx, format, k, 1 / sqrtf((float)k),
                          (uint64_t)job->set->seed << 20 | (uint64_t)i, err);
    return *st == GQMM_OK ? &job->tiles[i] : NULL;
}

/* Norms are 1. The router is small, and like rows in it would tie, so it is drawn in full. */
static gqmm_status write_floats(synth_job *job, gqmm_writer *w, const synth_tensor *s,
                                uint64_t seed, gqmm_error *err)
{
    const int64_t k = s->t.dims[0], n = tensor_rows(s) * k;
    float *x = need((size_t)n, sizeof *x);

    if (s->t.n_dims == 1)
        for (int64_t i = 0; i < n; i++)
            x[i] = 1;
    else
        random_normal(x, n, 1 / sqrtf((float)k), seed);
    const gqmm_status st = gqmm_writer_data(w, x, (size_t)n * sizeof *x, err);
    job->n_done += n;
    free(x);
    return st;
}

static gqmm_status write_rows(synth_job *job, gqmm_writer *w, const synth_tensor *s, uint64_t seed,
                              gqmm_error *err)
{
    const int64_t k = s->t.dims[0], rows = tensor_rows(s);
    const int64_t row_bytes = gqmm_format_row_bytes(s->format, 0, k);
    const int64_t step = row_bytes < STEP_BYTES ? STEP_BYTES / row_bytes : 1;
    gqmm_status st = GQMM_OK;
    const bench_tile *tile = find_tile(job, s->format, k, &st, err);

    for (int64_t i = 0; i < rows && st == GQMM_OK && !interrupted(); i += step) {
        const int64_t n = rows - i < step ? rows - i : step;
        uint8_t *const planes[3] = {job->step};

        bench_tile_fill(tile, job->ctx, k, n, seed + (uint64_t)i, planes);
        st = gqmm_writer_data(w, job->step, (size_t)(n * row_bytes), err);
        job->n_done += n * k;
        progress("%3.0f%%  %s", 100 * (double)job->n_done / (double)job->n_weights, s->name);
    }
    return st;
}

static gqmm_status write_all(synth_job *job, gqmm_writer *w, gqmm_error *err)
{
    gqmm_status st = write_meta(job, w, err);

    if (st == GQMM_OK)
        st = declare_tensors(job, w, err);
    for (int64_t i = 0; i < job->n_tensors && st == GQMM_OK && !interrupted(); i++) {
        const synth_tensor *s = &job->tensors[i];
        const uint64_t seed = ((uint64_t)job->set->seed << 32) + ((uint64_t)i << 24) + 1;
        const bool router = strstr(s->name, "ffn_gate_inp") != NULL;

        st = s->t.n_dims == 1 || router ? write_floats(job, w, s, seed, err)
                                        : write_rows(job, w, s, seed, err);
    }
    if (st == GQMM_OK && !interrupted())
        st = gqmm_writer_finish(w, err);
    progress_clear();
    return st;
}

/* ------------------------------------------------------------------ the command */

static int synth_file(synth_job *job, const char *path)
{
    gqmm_context_desc d;
    gqmm_error err = {0};
    gqmm_writer *w = NULL;
    const double start = seconds_now();

    GQMM_INIT(d);
    d.n_threads = (int32_t)job->set->threads;
    gqmm_status st = gqmm_context_create(&d, &job->ctx, &err);
    if (st == GQMM_OK)
        st = gqmm_writer_create(path, job->set->force, NULL, &w, &err);
    if (st == GQMM_OK) {
        interrupt_watch(true);
        job->step = need(STEP_BYTES + (size_t)job->shape.n_hidden * 4, 1);
        list_tensors(job);
        st = write_all(job, w, &err);
    }
    gqmm_writer_destroy(w);
    for (int i = 0; i < job->n_tiles; i++)
        bench_tile_free(&job->tiles[i]);
    gqmm_context_destroy(job->ctx);
    free(job->tensors);
    free(job->step);
    if (st != GQMM_OK) {
        say_error(path, &err);
        return CLI_FAILURE;
    }
    if (interrupted()) {
        say("interrupted; %s was not written", path);
        return CLI_INTERRUPTED;
    }
    fprintf(stderr, "%s: %s weights in %s, %.2f bits each, %.1f s\n", path,
            count_text((double)job->n_weights).s, size_text((double)job->n_bytes).s,
            8 * (double)job->n_bytes / (double)job->n_weights, seconds_now() - start);
    return CLI_OK;
}

static int synth_main(const void *settings, const char *const *operands, int n_operands)
{
    const synth_settings *set = settings;
    synth_job job = {.set = set};
    mix storage;
    char names[400];

    (void)n_operands;
    if (!set->shape) {
        say("synth needs --shape; 'gqmm help synth' shows examples");
        return CLI_USAGE;
    }
    if (!bench_shape_find(set->shape, &job.shape))
        return CLI_USAGE;
    if (!(job.mix = mix_find(set->type, &storage))) {
        mix_names(names, sizeof names);
        say("--type '%s' is none of %s", set->type, names);
        return CLI_USAGE;
    }
    if (set->layers)
        job.shape.n_layers = set->layers;
    if (set->vocab)
        job.shape.n_vocab = set->vocab;
    return synth_file(&job, operands[0]);
}

const command synth_command = {
    .name = "synth",
    .summary = "write a model file of true shape and random weights, to measure speed with",
    .operands = "OUT.gguf",
    .min_operands = 1,
    .max_operands = 1,
    .options = synth_options,
    .defaults = &synth_defaults,
    .settings_size = sizeof synth_defaults,
    .details =
        "The file has the tensor names of qwen3moe, the sizes of the shape, and for each tensor "
        "the\n"
        "format that stock files of this type give it, so its speed is that of the true model.\n"
        "Shapes of other architectures keep their experts; around them is the attention of "
        "qwen3moe.\n"
        "Weights are Gaussian with deviation 1 / sqrt(row length), norms are 1. A tile of 2^18\n"
        "weights is quantised for each format, and rows are put together from its pieces at "
        "random.\n"
        "The vocabulary has the bytes, control tokens and fillers; the text that comes out is "
        "noise.\n",
    .examples = "  gqmm synth --shape qwen3-30b-a3b --layers 12 --type q4_k_m part.gguf\n"
                "  gqmm synth --shape 8,256,256,2 --layers 2 --vocab 512 --type q8_0 tiny.gguf\n"
                "  gqmm synth --shape demo demo.gguf && gqmm bench model demo.gguf\n",
    .run = synth_main,
};
