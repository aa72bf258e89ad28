/* SPDX-License-Identifier: MIT */
/* gqmm inspect: what is in a model file. Every text of the file is shown escaped. */
#include "cli.h"
#include "groups.h"
#include "inspect_json.h"
#include "output.h"

#include <gqmm-model.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct inspect_settings {
    bool tensors, json;
} inspect_settings;

static const inspect_settings inspect_defaults = {0};

static const option inspect_options[] = {
    {"tensors", 0, OPT_FLAG, offsetof(inspect_settings, tensors), 0, 0, NULL,
     "list every tensor too"},
    {"json", 0, OPT_FLAG, offsetof(inspect_settings, json), 0, 0, NULL, "one JSON object"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

static char *meta_text(const gqmm_file *file, const char *key)
{
    const gqmm_meta *m = gqmm_file_meta(file, key);
    const char *text = NULL;
    size_t n = 0;

    return m && gqmm_meta_string(file, m, 0, &text, &n) ? escaped(text, n) : NULL;
}

/* A number of the architecture: "qwen3moe.expert_count". */
static bool arch_number(const gqmm_file *file, const char *arch, const char *key, int64_t *value)
{
    char name[160];

    snprintf(name, sizeof name, "%.80s.%s", arch, key);
    const gqmm_meta *m = gqmm_file_meta(file, name);
    return m && gqmm_meta_int(file, m, 0, value);
}

static void print_architecture(const gqmm_file *file)
{
    static const struct {
        const char *key, *word;
    } sizes[] = {
        {"block_count", "layers"},
        {"embedding_length", "wide"},
        {"attention.head_count", "heads"},
        {"attention.head_count_kv", "key-value heads"},
        {"context_length", "tokens of context"},
    };
    char *arch = meta_text(file, "general.architecture");
    char *name = meta_text(file, "general.name");
    int64_t n, used;
    const char *comma = "";

    if (name)
        printf("name          %s\n", name);
    if (arch) {
        printf("architecture  %s\n", arch);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            if (arch_number(file, arch, sizes[i].key, &n)) {
                printf("%s%" PRId64 " %s", *comma ? comma : "sizes         ", n, sizes[i].word);
                comma = ", ";
            }
        if (*comma)
            putchar('\n');
        if (arch_number(file, arch, "expert_count", &n) &&
            arch_number(file, arch, "expert_used_count", &used)) {
            printf("experts       %" PRId64 ", %" PRId64 " used per token", n, used);
            if (arch_number(file, arch, "expert_feed_forward_length", &n))
                printf(", %" PRId64 " wide", n);
            putchar('\n');
        }
    }
    free(name);
    free(arch);
}

static void print_group(const char *name, const group_sum *s, int64_t total)
{
    char types[128], bits[16] = "-";

    group_types(s, types, sizeof types);
    if (isfinite(group_bits(s)))
        snprintf(bits, sizeof bits, "%.2f", group_bits(s));
    printf("%-18s %7" PRId64 " %9s %9s %6.1f%% %11s%s%s\n", name, s->n_tensors,
           count_text((double)s->n_weights).s, size_text((double)s->n_bytes).s,
           total ? 100.0 * (double)s->n_bytes / (double)total : 0.0, bits, *types ? "  " : "",
           types);
}

static void print_groups(const gqmm_file *file)
{
    group_sum sums[N_GROUPS] = {{0}};

    for (int64_t i = 0; i < gqmm_file_tensor_count(file); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(file, i);

        group_add(&sums[group_of(t->name)], t);
    }
    const group_sum all = group_total(sums);
    printf("\n%s%-18s %7s %9s %9s %7s %11s  %s%s\n", bold(stdout), "tensor group", "tensors",
           "weights", "bytes", "share", "bits/weight", "types", plain(stdout));
    for (int g = 0; g < N_GROUPS; g++)
        if (sums[g].n_tensors)
            print_group(group_name(g), &sums[g], all.n_bytes);
    print_group("total", &all, all.n_bytes);
    if (all.n_packed)
        printf("Packed words hold several weights each, so bits per weight are not known here.\n");
}

static void print_item(const gqmm_file *file, const gqmm_meta *m, uint64_t i, size_t most)
{
    const char *text;
    size_t n;
    int64_t whole;
    double real;

    if (m->item_kind == GQMM_META_STRING && gqmm_meta_string(file, m, i, &text, &n)) {
        char *safe = escaped(text, n > most ? most : n);

        printf("\"%s%s\"", safe, n > most ? "..." : "");
        free(safe);
    } else if (m->item_kind == GQMM_META_FLOAT && gqmm_meta_float(file, m, i, &real)) {
        printf("%g", real);
    } else if (gqmm_meta_int(file, m, i, &whole)) {
        if (m->item_kind == GQMM_META_BOOL)
            printf("%s", whole ? "true" : "false");
        else
            printf("%" PRId64, whole);
    } else {
        putchar('?');
    }
}

static void print_metadata(const gqmm_file *file)
{
    int width = 0;

    for (int64_t i = 0; i < gqmm_file_meta_count(file); i++) {
        const int n = (int)strlen(gqmm_file_meta_at(file, i)->key);

        width = n > width && n <= 48 ? n : width;
    }
    if (gqmm_file_meta_count(file))
        printf("\n%smetadata%s\n", bold(stdout), plain(stdout));
    for (int64_t i = 0; i < gqmm_file_meta_count(file); i++) {
        const gqmm_meta *m = gqmm_file_meta_at(file, i);
        char *key = escaped(m->key, strlen(m->key));

        printf("%-*s  ", width, key);
        free(key);
        if (m->kind == GQMM_META_ARRAY) {
            printf("%" PRIu64 " items: ", m->n);
            for (uint64_t k = 0; k < m->n && k < 4; k++) {
                printf("%s", k ? ", " : "");
                print_item(file, m, k, 24);
            }
            printf("%s", m->n > 4 ? ", ..." : "");
        } else {
            print_item(file, m, 0, 72);
        }
        putchar('\n');
    }
}

static void print_tensors(const gqmm_file *file)
{
    printf("\n%s%-40s %-8s %-22s %12s %14s%s\n", bold(stdout), "tensor", "type", "shape", "bytes",
           "offset", plain(stdout));
    for (int64_t i = 0; i < gqmm_file_tensor_count(file); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(file, i);
        char *name = escaped(t->name, strlen(t->name)), shape[180] = "-";

        for (int32_t k = t->n_dims - 1, used = 0; k >= 0; k--)
            used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%" PRId64,
                             used ? " x " : "", t->dims[k]);
        printf("%-40s %-8s %-22s %12" PRId64 " %14" PRIu64 "\n", name, t->type_name, shape,
               t->n_bytes, t->offset);
        free(name);
    }
}

static int inspect_main(const void *settings, const char *const *operands, int n_operands)
{
    const inspect_settings *set = settings;
    gqmm_file *file = NULL;
    gqmm_error err = {0};
    int code;

    (void)n_operands;
    if (gqmm_file_open(operands[0], 0, NULL, &file, &err) != GQMM_OK) {
        say_error(operands[0], &err);
        return CLI_FAILURE;
    }
    if (set->json) {
        code = json_finish(inspect_json(file, operands[0], set->tensors));
    } else {
        char *path = escaped(operands[0], strlen(operands[0]));

        printf("file          %s, %s\n", path, size_text((double)gqmm_file_size(file)).s);
        free(path);
        printf("kind          %s", gqmm_file_kind(file));
        if (gqmm_file_version(file))
            printf(" version %d", gqmm_file_version(file));
        printf(", %" PRId64 " tensors, %" PRId64 " metadata entries\n",
               gqmm_file_tensor_count(file), gqmm_file_meta_count(file));
        print_architecture(file);
        print_groups(file);
        print_metadata(file);
        if (set->tensors)
            print_tensors(file);
        code = output_finish();
    }
    gqmm_file_close(file);
    return code;
}

const command inspect_command = {
    .name = "inspect",
    .summary = "what is in a GGUF or safetensors file",
    .operands = "FILE",
    .min_operands = 1,
    .max_operands = 1,
    .options = inspect_options,
    .defaults = &inspect_defaults,
    .settings_size = sizeof inspect_defaults,
    .details =
        "Kind, architecture, experts, bits per weight by tensor group, metadata. Weights are not\n"
        "read, so large files answer at once. Texts of the file are shown with control\n"
        "characters escaped. Shapes are written rows first.\n",
    .examples = "  gqmm inspect model.gguf\n"
                "  gqmm inspect model.safetensors --tensors\n"
                "  gqmm inspect model.gguf --json | jq .groups\n",
    .run = inspect_main,
};
