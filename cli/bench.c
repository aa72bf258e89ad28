/* SPDX-License-Identifier: MIT */
/* gqmm bench: its options, and the order in which things are measured. */
#include "bench.h"
#include "cli.h"
#include "interrupt.h"
#include "output.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_FORMATS = 32, MOST_TOKENS = 32, LARGEST_TOKENS = 65536 };

static const bench_settings bench_defaults = {
    .machine = MACHINE_DEFAULTS,
    .shape = "qwen3-30b-a3b",
    .tokens = "1,8,64,512",
    .seconds = 1,
    .prompt = 512,
    .gen = 128,
    .repeat = 3,
    .activations = GQMM_BF16,
};

static const option bench_options[] = {
    {"shape", 0, OPT_TEXT, offsetof(bench_settings, shape), 0, 0, "NAME|E,N,K,top",
     "a model's shape, or experts, hidden units, row length, experts used (default: "
     "qwen3-30b-a3b)"},
    {"format", 0, OPT_TEXT, offsetof(bench_settings, formats), 0, 0, "F[,F...]",
     "weight formats (default: q4_k, or mxfp4 where rows are no multiple of 256)"},
    {"tokens", 0, OPT_TEXT, offsetof(bench_settings, tokens), 0, 0, "LIST",
     "tokens of a call, or rows, one row of the table each (default: 1,8,64,512)"},
    {"routing", 0, OPT_CHOICE, offsetof(bench_settings, routing), 0, 0, "uniform|skewed",
     "how tokens choose experts: all alike, or by Zipf's law"},
    {"device", 0, OPT_TEXT, offsetof(bench_settings, device), 0, 0, "NAME",
     "cpu, or a device that 'gqmm info' lists, such as cuda (default: cpu)"},
    {"activations", 0, OPT_CHOICE, offsetof(bench_settings, activations), 0, 0, "f32|f16|bf16",
     "device: type of the activations and the output; the CPU is measured with f32"},
    {"threads", 't', OPT_INT, offsetof(bench_settings, machine.threads), 1, 1024, "N",
     "threads (default: the CPUs this process may use)"},
    {"isa", 0, OPT_TEXT, offsetof(bench_settings, machine.isa), 0, 0, "ISA",
     "use no kernels above this one; 'gqmm info' lists them (default: the best)"},
    {"precision", 0, OPT_CHOICE, offsetof(bench_settings, machine.precision), 0, 0, "exact|int8",
     "float activations, or activations rounded to int8, where a device has kernels for that"},
    {"seconds", 0, OPT_REAL, offsetof(bench_settings, seconds), 0.001, 3600, "S",
     "measure a row for this long and at least ten times; below 0.1 only to try it out"},
    {"pages", 0, OPT_CHOICE, offsetof(bench_settings, pages), 0, 0, "small|huge",
     "memory pages of the weights"},
    {"prompt", 0, OPT_INT, offsetof(bench_settings, prompt), 0, 1048576, "N",
     "model: tokens of the prompt; 0 leaves that test out"},
    {"gen", 0, OPT_INT, offsetof(bench_settings, gen), 0, 1048576, "N",
     "model: tokens to generate; 0 leaves that test out"},
    {"repeat", 0, OPT_INT, offsetof(bench_settings, repeat), 1, 1000, "N",
     "model: how often each test is run"},
    {"batch", 0, OPT_INT, offsetof(bench_settings, machine.batch), 1, 65536, "N",
     "model: prompt tokens computed together"},
    {"weights", 0, OPT_CHOICE, offsetof(bench_settings, machine.repacked), 0, 0, "direct|repacked",
     "model: read the file's blocks where they lie, or rewrite them at load"},
    {"json", 0, OPT_FLAG, offsetof(bench_settings, json), 0, 0, NULL,
     "one JSON object a line in place of the table"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

static const char *const op_names[N_BENCH_OPS] = {"moe",   "qmm",        "gather",
                                                  "embed", "dequantize", "quantize"};

const char *bench_op_name(bench_op op)
{
    return op_names[op];
}

/* ------------------------------------------------------------------ lists */

static int parse_tokens(const char *text, int64_t *list)
{
    char *end;
    int n = 0;

    for (const char *at = text;; at = end + 1) {
        const long long v = strtoll(at, &end, 10);

        if (end == at || v < 1 || v > LARGEST_TOKENS || n == MOST_TOKENS ||
            (*end != ',' && *end != '\0')) {
            say("--tokens takes at most %d numbers from 1 to %d with commas between them, not "
                "'%s'",
                MOST_TOKENS, LARGEST_TOKENS, text);
            return 0;
        }
        list[n++] = v;
        if (!*end)
            return n;
    }
}

static int parse_formats(const char *text, const gqmm_format **list)
{
    int n = 0;

    for (const char *at = text;; at++) {
        const size_t length = strcspn(at, ",");
        char name[64];

        snprintf(name, sizeof name, "%.*s", (int)(length < 63 ? length : 63), at);
        const gqmm_format *f = gqmm_format_find(name);
        if (!f || n == MOST_FORMATS) {
            say(f ? "--format takes at most 32 formats, and '%s' is one more"
                  : "there is no format '%s'; 'gqmm info --formats' lists them",
                name);
            return 0;
        }
        list[n++] = f;
        at += length;
        if (!*at)
            return n;
    }
}

static bool find_op(const char *text, bench_op *op)
{
    for (int i = 0; i < N_BENCH_OPS; i++)
        if (strcmp(text, op_names[i]) == 0) {
            *op = (bench_op)i;
            return true;
        }
    say("bench measures moe, qmm, gather, embed, dequantize, quantize or model, not '%s'", text);
    return false;
}

/* ------------------------------------------------------------------ measuring */

static bool on_device(const bench_settings *set)
{
    return set->device && strcmp(set->device, "cpu") != 0;
}

static int open_context(const bench_settings *set, int32_t threads, gqmm_context **ctx)
{
    gqmm_context_desc d;
    gqmm_error err = {0};

    if (!on_device(set) && set->machine.isa && !gqmm_isa_available(set->machine.isa)) {
        say("--isa '%s' is none that this CPU can run; 'gqmm info' lists them", set->machine.isa);
        return CLI_USAGE;
    }
    GQMM_INIT(d);
    d.n_threads = threads;
    d.isa = on_device(set) ? NULL : set->machine.isa;
    if (gqmm_context_create(&d, ctx, &err) == GQMM_OK)
        return CLI_OK;
    say_error(NULL, &err);
    return CLI_FAILURE;
}

static int measure_format(bench *b, const gqmm_format *format, const int64_t *tokens, int n)
{
    bench_layers layers;
    bench_row row;
    int64_t least = tokens[0];
    int code = CLI_FAILURE;

    for (int i = 1; i < n; i++)
        least = tokens[i] < least ? tokens[i] : least;
    if (bench_layers_create(&layers, b, format, least)) {
        code = CLI_OK;
        bench_print_layers(b, &layers);
        for (int i = 0; i < n && code == CLI_OK; i++) {
            code = bench_measure_row(b, &layers, tokens[i], &row);
            if (code == CLI_OK)
                bench_print_row(b, &row);
        }
    }
    bench_layers_destroy(&layers);
    return code;
}

static int measure_all(bench *b, const gqmm_format *const *formats, int n_formats,
                       const int64_t *tokens, int n_tokens)
{
    int code = CLI_OK;

    const bool hurry = b->set->seconds < 0.1;

    bench_machine_read(&b->machine, hurry);
    if (!bench_reader_create(&b->reader, &b->machine, b->set->pages == 1)) {
        say("no memory to measure with");
        return CLI_FAILURE;
    }
    int64_t bytes = 0;
    for (int p = 0; p < formats[0]->n_planes; p++)
        bytes += b->shape.n_ff * gqmm_format_row_bytes(formats[0], p, b->shape.n_hidden);
    if (bytes > 0)
        bench_reader_cut(&b->reader, (size_t)bytes);
    bench_measure(&b->ceilings, &b->reader, b->one, b->all, hurry);
    bench_print_head(b);
    for (int i = 0; i < n_formats && code == CLI_OK; i++)
        code = measure_format(b, formats[i], tokens, n_tokens);
    bench_reader_destroy(&b->reader);
    return code;
}

static int bench_ops(const bench_settings *set, const char *op)
{
    bench b = {.set = set};
    const gqmm_format *formats[MOST_FORMATS];
    int64_t tokens[MOST_TOKENS];
    int code;

    if (!find_op(op, &b.op) || !bench_shape_find(set->shape, &b.shape))
        return CLI_USAGE;
    const int n_tokens = parse_tokens(set->tokens, tokens);
    const char *names = set->formats ? set->formats : b.shape.n_hidden % 256 ? "mxfp4" : "q4_k";
    const int n_formats = n_tokens ? parse_formats(names, formats) : 0;
    if (!n_formats)
        return CLI_USAGE;
    interrupt_watch(false);
    if ((code = open_context(set, 1, &b.one)) == CLI_OK &&
        (code = open_context(set, (int32_t)set->machine.threads, &b.all)) == CLI_OK)
        code =
            (on_device(set) ? bench_cuda : measure_all)(&b, formats, n_formats, tokens, n_tokens);
    gqmm_context_destroy(b.all);
    gqmm_context_destroy(b.one);
    const int written = output_finish();
    return code != CLI_OK ? code : written;
}

static int bench_main(const void *settings, const char *const *operands, int n_operands)
{
    const bench_settings *set = settings;

    if (strcmp(operands[0], "model") == 0) {
        if (n_operands == 2)
            return bench_model(set, operands[1]);
        say("bench model needs a FILE");
        return CLI_USAGE;
    }
    if (n_operands == 1)
        return bench_ops(set, operands[0]);
    say("only 'bench model' takes a file; %s makes its own weights", operands[0]);
    return CLI_USAGE;
}

const command bench_command = {
    .name = "bench",
    .summary = "speed of operations or of a model, as shares of what this machine can do",
    .operands = "WHAT [FILE]",
    .min_operands = 1,
    .max_operands = 2,
    .options = bench_options,
    .defaults = &bench_defaults,
    .settings_size = sizeof bench_defaults,
    .details =
        "WHAT is moe (gate, up, SwiGLU, down of a layer), gather (one product of it), qmm (a "
        "dense\n"
        "product N x K), embed, dequantize, quantize, or model with a FILE: tokens per second of "
        "a\n"
        "prompt and of generation, each from an empty context, with random tokens.\n\n"
        "Weights are Gaussian and really quantised: a tile of 2^18 is quantised once, and rows "
        "are\n"
        "put together from its pieces at random. Layers of them take turns, so that none is in a\n"
        "cache. Each call has other experts. us is the median, spread (p90 - p10) / median. The\n"
        "floor is the longer of the call's bytes at the DRAM rate (random pieces as large as an\n"
        "expert's matrix, read between the calls) and its multiply-adds at the measured rate of "
        "the\ncores; share is floor / us.\n\n"
        "On a device moe includes its router, and calls over all layers are captured in a CUDA\n"
        "graph. The floor there is the longer of the bytes at the rate of a large copy or read "
        "and\nthe multiply-adds at the rate of the tensor cores; launches add nothing to it.\n",
    .examples = "  gqmm bench moe\n"
                "  gqmm bench moe --shape mixtral-8x7b --format q4_k,q8_0 --tokens 1,64 -t 2\n"
                "  gqmm bench qmm --shape 1,4096,4096,1 --tokens 512 --precision exact\n"
                "  gqmm bench gather --shape olmoe-1b-7b --routing skewed --json > rows.jsonl\n"
                "  gqmm bench moe --device cuda --format q4_k --tokens 1,8,64,512,4096\n"
                "  gqmm bench model model.gguf --prompt 512 --gen 128\n",
    .run = bench_main,
};
