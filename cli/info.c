/* SPDX-License-Identifier: MIT */
/* gqmm info: what this build and this machine can do, read from the tables of the library. */
#include "cli.h"
#include "output.h"

#include <gqmm-model.h>
#include <stdlib.h>
#include <string.h>

typedef struct info_settings {
    bool json, matrix, formats;
} info_settings;

static const info_settings info_defaults = {0};

static const option info_options[] = {
    {"matrix", 0, OPT_FLAG, offsetof(info_settings, matrix), 0, 0, NULL,
     "only the matrix of formats and ISAs, as a Markdown table"},
    {"formats", 0, OPT_FLAG, offsetof(info_settings, formats), 0, 0, NULL,
     "every format with its layout"},
    {"json", 0, OPT_FLAG, offsetof(info_settings, json), 0, 0, NULL, "one JSON object"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

static double format_bits(const gqmm_format *f)
{
    double bytes = 0;

    for (int32_t i = 0; i < f->n_planes; i++)
        bytes += f->plane_bytes[i];
    return 8 * bytes / f->block_elems;
}

static const char *format_origin(const gqmm_format *f)
{
    if (strncmp(f->name, "affine", 6) == 0 || strncmp(f->name, "mlx_", 4) == 0)
        return "MLX";
    return f->gguf_type >= 0 ? "GGUF" : "int4";
}

/* ------------------------------------------------------------------ the matrix */

/* Formats that differ only in group and scale type share a row: "affine4", "int4". */
typedef struct family {
    char name[24];
    const char *origin;
    char groups[32], scales[32]; /* "32, 64, 128" and "f32, f16, bf16"; empty: one of each */
    double low, high;            /* bits per weight */
    int32_t first, last;         /* formats */
} family;

static void add_word(char *list, size_t size, const char *word, size_t n)
{
    char one[16];

    snprintf(one, sizeof one, "%.*s", (int)n, word);
    if (!strstr(list, one))
        snprintf(list + strlen(list), size - strlen(list), "%s%s", *list ? ", " : "", one);
}

static void add_to_family(family *f, const gqmm_format *format, const char *group, int32_t i)
{
    const double bits = format_bits(format);

    f->low = bits < f->low ? bits : f->low;
    f->high = bits > f->high ? bits : f->high;
    f->last = i;
    if (!group)
        return;
    const size_t digits = strcspn(group + 2, "_");
    add_word(f->groups, sizeof f->groups, group + 2, digits);
    if (group[2 + digits])
        add_word(f->scales, sizeof f->scales, group + 3 + digits, strlen(group + 3 + digits));
}

/* At most one family for each format; the caller gives that many. */
static int32_t collect_families(family *all)
{
    int32_t n = 0;

    for (int32_t i = 0; i < gqmm_format_count(); i++) {
        const gqmm_format *format = gqmm_format_at(i);
        const char *group = strstr(format->name, "_g");
        const size_t length = group ? (size_t)(group - format->name) : strlen(format->name);
        char name[sizeof all->name];

        snprintf(name, sizeof name, "%.*s", (int)length, format->name);
        if (n == 0 || strcmp(all[n - 1].name, name) != 0) {
            all[n] = (family){.origin = format_origin(format), .low = 1e9, .first = i};
            memcpy(all[n++].name, name, sizeof name);
        }
        add_to_family(&all[n - 1], format, group, i);
    }
    return n;
}

/* "yes", "" or "some" of the family's formats have a kernel of this ISA. */
static const char *family_cell(const family *f, const char *isa)
{
    int32_t n = 0;

    for (int32_t i = f->first; i <= f->last; i++)
        n += gqmm_kernel_exists(gqmm_format_at(i)->name, isa) != 0;
    return n == 0 ? "" : n == f->last - f->first + 1 ? "yes" : "some";
}

static void family_label(const family *f, char *text, size_t size)
{
    snprintf(text, size, "%s", f->name);
    if (*f->groups)
        snprintf(text + strlen(text), size - strlen(text), " (groups of %s%s%s)", f->groups,
                 *f->scales ? "; " : "", f->scales);
}

static void print_matrix(void)
{
    family *all = need((size_t)gqmm_format_count(), sizeof *all);
    const int32_t n = collect_families(all);
    const char *isa;

    printf("| %-47s | origin | bits per weight |", "format");
    for (int32_t k = 0; (isa = gqmm_isa_at(k)); k++)
        printf(" %-6s |", isa);
    printf("\n|:%.47s-|:-------|----------------:|",
           "--------------------------------------------------");
    for (int32_t k = 0; (isa = gqmm_isa_at(k)); k++)
        printf(":%.*s:|", (int)(strlen(isa) < 6 ? 6 : strlen(isa)), "------------------------");
    putchar('\n');
    for (int32_t i = 0; i < n; i++) {
        char label[96], bits[32];

        family_label(&all[i], label, sizeof label);
        snprintf(bits, sizeof bits, "%.4g", all[i].low);
        if (all[i].high > all[i].low)
            snprintf(bits, sizeof bits, "%.4g to %.4g", all[i].low, all[i].high);
        printf("| %-47s | %-6s | %15s |", label, all[i].origin, bits);
        for (int32_t k = 0; (isa = gqmm_isa_at(k)); k++)
            printf(" %-*s |", (int)(strlen(isa) < 6 ? 6 : strlen(isa)), family_cell(&all[i], isa));
        putchar('\n');
    }
    free(all);
}

/* ------------------------------------------------------------------ lists and JSON */

static void print_formats(void)
{
    printf("%s%-18s %5s %6s %6s %12s %9s  %s%s\n", bold(stdout), "format", "GGUF", "block", "group",
           "bits/weight", "quantise", "meaning", plain(stdout));
    for (int32_t i = 0; i < gqmm_format_count(); i++) {
        const gqmm_format *f = gqmm_format_at(i);
        char type[12] = "-";

        if (f->gguf_type >= 0)
            snprintf(type, sizeof type, "%d", f->gguf_type);
        printf("%-18s %5s %6d %6d %12.4f %9s  %s\n", f->name, type, f->block_elems, f->group_elems,
               format_bits(f), f->can_quantize ? "yes" : "no", f->summary);
    }
}

static json_t *format_json(const gqmm_format *f)
{
    json_t *object = json_object(), *kernels = json_array();
    const char *isa;

    for (int32_t k = 0; (isa = gqmm_isa_at(k)); k++)
        if (gqmm_kernel_exists(f->name, isa))
            json_array_append_new(kernels, json_string(isa));
    json_object_set_new(object, "name", json_string(f->name));
    json_object_set_new(object, "origin", json_string(format_origin(f)));
    json_object_set_new(object, "gguf_type",
                        f->gguf_type >= 0 ? json_integer(f->gguf_type) : json_null());
    json_object_set_new(object, "block", json_integer(f->block_elems));
    json_object_set_new(object, "group", json_integer(f->group_elems));
    json_object_set_new(object, "bits_per_weight", json_real(format_bits(f)));
    json_object_set_new(object, "can_quantize", json_boolean(f->can_quantize));
    json_object_set_new(object, "kernels", kernels);
    return object;
}

static json_t *devices_json(void)
{
    json_t *devices = json_array();
    char text[200];
    const char *name;

    for (int32_t i = 0; (name = gqmm_device_at(i)); i++) {
        json_t *device = json_pack("{s:s,s:[s]}", "name", name, "precisions", "exact");
        gqmm_device_text(name, text, sizeof text);
        json_object_set_new(device, "text", json_text(text, strlen(text)));
        if (i == 0)
            json_array_append_new(json_object_get(device, "precisions"), json_string("int8"));
        json_array_append_new(devices, device);
    }
    return devices;
}

static int print_json(void)
{
    json_t *object = json_object(), *isas = json_array(), *formats = json_array();
    json_t *architectures = json_array();
    const char *name;

    for (int32_t i = 0; (name = gqmm_isa_at(i)); i++) {
        json_t *isa = json_object();

        json_object_set_new(isa, "name", json_string(name));
        json_object_set_new(isa, "available", json_boolean(gqmm_isa_available(name)));
        json_array_append_new(isas, isa);
    }
    for (int32_t i = 0; i < gqmm_format_count(); i++)
        json_array_append_new(formats, format_json(gqmm_format_at(i)));
    for (int32_t i = 0; (name = gqmm_architecture_at(i)); i++)
        json_array_append_new(architectures, json_string(name));
    json_object_set_new(object, "version", json_string(gqmm_version()));
    json_object_set_new(object, "cpu_features", json_string(gqmm_cpu_features()));
    json_object_set_new(object, "threads", json_integer(gqmm_default_threads()));
    json_object_set_new(object, "isas", isas);
    json_object_set_new(object, "devices", devices_json());
    json_object_set_new(object, "architectures", architectures);
    json_object_set_new(object, "formats", formats);
    return json_finish(object);
}

static void print_devices(void)
{
    char text[200];
    const char *name;

    printf("\ndevices        cpu");
    for (int32_t i = 1; (name = gqmm_device_at(i)); i++) {
        gqmm_device_text(name, text, sizeof text);
        printf("\n               %s: %s", name, text);
    }
    if (gqmm_device_at(1))
        printf("\n               (cuda: int8 for 6 to 32 columns per expert of int4_g128, else as "
               "exact)");
    if (!gqmm_device_at(1)) {
        gqmm_device_text("cuda", text, sizeof text);
        printf(" (cuda: %s)", text);
    }
}

static void print_machine(void)
{
    const char *name;

    printf("gqmm           %s\n", gqmm_version());
    printf("CPU features   %s\n", gqmm_cpu_features());
    printf("threads        %d\n", gqmm_default_threads());
    printf("kernels        ");
    for (int32_t i = 0; (name = gqmm_isa_at(i)); i++)
        printf("%s%s%s", i ? ", " : "", name,
               gqmm_isa_available(name) ? "" : " (not on this machine)");
    print_devices();
    printf("\narchitectures  ");
    for (int32_t i = 0; (name = gqmm_architecture_at(i)); i++)
        printf("%s%s", i ? ", " : "", name);
    printf("\n\n");
}

static int info_main(const void *settings, const char *const *operands, int n_operands)
{
    const info_settings *set = settings;

    (void)operands;
    (void)n_operands;
    if (set->json + set->matrix + set->formats > 1) {
        say("--json, --matrix and --formats exclude each other");
        return CLI_USAGE;
    }
    if (set->json)
        return print_json();
    if (!set->matrix && !set->formats)
        print_machine();
    if (set->formats)
        print_formats();
    else
        print_matrix();
    return output_finish();
}

const command info_command = {
    .name = "info",
    .summary = "version, CPU, and which kernels exist for which formats",
    .operands = "",
    .min_operands = 0,
    .max_operands = 0,
    .options = info_options,
    .defaults = &info_defaults,
    .settings_size = sizeof info_defaults,
    .details =
        "A cell of the matrix says whether the format has a kernel of its own for this ISA; an\n"
        "empty cell is served by the nearest column to its left that has one.\n",
    .examples = "  gqmm info\n"
                "  gqmm info --formats\n"
                "  gqmm info --json | jq '.isas'\n",
    .run = info_main,
};
