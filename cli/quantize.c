/* SPDX-License-Identifier: MIT */
/* gqmm quantize: another format for the weights of a GGUF file, a few rows at a time. */
#include "quantize.h"
#include "cli.h"
#include "groups.h"
#include "interrupt.h"
#include "mix.h"
#include "output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const quantize_settings quantize_defaults = {0};

static const option quantize_options[] = {
    {"type", 0, OPT_TEXT, offsetof(quantize_settings, type), 0, 0, "TYPE",
     "a mix (q4_k_m, q4_k_s, q5_k_m, q5_k_s, mxfp4_moe) or one GGUF format for every matrix"},
    {"force", 0, OPT_FLAG, offsetof(quantize_settings, force), 0, 0, NULL,
     "overwrite the output if it exists"},
    {"stats", 0, OPT_FLAG, offsetof(quantize_settings, stats), 0, 0, NULL,
     "measure the error: normalised mean square by tensor group"},
    {"threads", 't', OPT_INT, offsetof(quantize_settings, threads), 1, 1024, "N",
     "threads (default: the CPUs this process may use)"},
    {"json", 0, OPT_FLAG, offsetof(quantize_settings, json), 0, 0, NULL,
     "one JSON object in place of the table"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;

    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* What cannot be done is said before anything is written. */
static bool check_input(const quantize_job *job, const char *in)
{
    int64_t parts = 1;
    const gqmm_meta *m = gqmm_file_meta(job->file, "split.count");

    if (strcmp(gqmm_file_kind(job->file), "gguf") != 0) {
        say("%s: quantize reads GGUF, this is %s", in, gqmm_file_kind(job->file));
        return false;
    }
    if (m && gqmm_meta_int(job->file, m, 0, &parts) && parts > 1) {
        say("%s: this is one of %" PRId64 " parts of a model; join them first", in, parts);
        return false;
    }
    for (int64_t i = 0; i < gqmm_file_tensor_count(job->file); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(job->file, i);

        if (!t->format) {
            char *name = escaped(t->name, strlen(t->name));

            say("%s: the tensor %s has type %s, which gqmm cannot read", in, name, t->type_name);
            free(name);
            return false;
        }
    }
    return true;
}

/* ------------------------------------------------------------------ reports */

static void print_row(const quantize_job *job, const char *name, const group_sum *before,
                      const group_sum *after, double error, double energy)
{
    char types[96], nmse[24] = "";

    group_types(after, types, sizeof types);
    if (job->set.stats)
        snprintf(nmse, sizeof nmse, " %10.3g", energy > 0 ? error / energy : 0.0);
    printf("%-18s %7" PRId64 " %9s %9s %11.2f%s%s%s\n", name, after->n_tensors,
           size_text((double)before->n_bytes).s, size_text((double)after->n_bytes).s,
           group_bits(after), nmse, *types ? "  " : "", types);
}

static void print_report(const quantize_job *job, const char *out, double seconds)
{
    const group_sum before = group_total(job->before), after = group_total(job->after);
    double error = 0, energy = 0;
    char *path = escaped(out, strlen(out));

    printf("%s%-18s %7s %9s %9s %11s%s  %s%s\n", bold(stdout), "tensor group", "tensors", "before",
           "after", "bits/weight", job->set.stats ? "      error" : "", "formats", plain(stdout));
    for (int g = 0; g < N_GROUPS; g++) {
        if (job->after[g].n_tensors)
            print_row(job, group_name(g), &job->before[g], &job->after[g], job->error[g],
                      job->energy[g]);
        error += job->error[g];
        energy += job->energy[g];
    }
    print_row(job, "total", &before, &after, error, energy);
    printf("%s: %s in %.2f s\n", path, size_text((double)after.n_bytes).s, seconds);
    free(path);
}

static int report_json(const quantize_job *job, const char *in, const char *out, double seconds)
{
    json_t *object = json_object(), *groups = json_object();

    for (int g = 0; g < N_GROUPS; g++) {
        json_t *one = json_object(), *types = json_array();
        const group_sum *after = &job->after[g];

        for (int i = 0; i < after->n_types; i++)
            json_array_append_new(types, json_string(after->types[i]));
        json_object_set_new(one, "tensors", json_integer(after->n_tensors));
        json_object_set_new(one, "weights", json_integer(after->n_weights));
        json_object_set_new(one, "bytes_before", json_integer(job->before[g].n_bytes));
        json_object_set_new(one, "bytes_after", json_integer(after->n_bytes));
        json_object_set_new(one, "bits_per_weight", json_ratio(group_bits(after)));
        if (job->set.stats)
            json_object_set_new(
                one, "nmse", json_ratio(job->energy[g] > 0 ? job->error[g] / job->energy[g] : 0));
        json_object_set_new(one, "formats", types);
        if (after->n_tensors)
            json_object_set(groups, group_key(g), one);
        json_decref(one);
    }
    json_object_set_new(object, "input", json_text(in, strlen(in)));
    json_object_set_new(object, "output", json_text(out, strlen(out)));
    json_object_set_new(object, "type", json_string(job->mix->name));
    json_object_set_new(object, "threads", json_integer(gqmm_context_threads(job->ctx)));
    json_object_set_new(object, "seconds", json_seconds(seconds));
    json_object_set_new(object, "bytes_before", json_integer(group_total(job->before).n_bytes));
    json_object_set_new(object, "bytes_after", json_integer(group_total(job->after).n_bytes));
    json_object_set_new(object, "groups", groups);
    return json_finish(object);
}

/* ------------------------------------------------------------------ the command */

static int finish(const quantize_job *job, const char *in, const char *out, double seconds)
{
    if (job->set.json)
        return report_json(job, in, out, seconds);
    print_report(job, out, seconds);
    return output_finish();
}

static int quantize_main(const void *settings, const char *const *operands, int n_operands)
{
    const char *in = operands[0], *out = operands[1];
    const double start = seconds_now();
    quantize_job job = {.set = *(const quantize_settings *)settings};
    gqmm_context_desc context;
    gqmm_error err = {0};
    char known[400];
    mix own;
    int code = CLI_FAILURE;

    (void)n_operands;
    mix_names(known, sizeof known);
    if (!job.set.type || !(job.mix = mix_find(job.set.type, &own))) {
        if (job.set.type)
            say("--type '%s' is none of %s", job.set.type, known);
        else
            say("quantize needs --type, one of %s", known);
        return CLI_USAGE;
    }
    if (same_file(in, out)) {
        say("%s and %s are the same file; write to another name", in, out);
        return CLI_FAILURE;
    }
    GQMM_INIT(context);
    context.n_threads = (int32_t)job.set.threads;
    if (gqmm_file_open(in, 0, NULL, &job.file, &err) != GQMM_OK ||
        gqmm_context_create(&context, &job.ctx, &err) != GQMM_OK) {
        say_error(in, &err);
    } else if (check_input(&job, in)) {
        interrupt_watch(true);
        if (quantize_file(&job, out, &err)) {
            code = finish(&job, in, out, seconds_now() - start);
        } else if (interrupted()) {
            say("interrupted; %s was not written", out);
            code = CLI_INTERRUPTED;
        } else {
            say_error(out, &err);
        }
    }
    gqmm_context_destroy(job.ctx);
    gqmm_file_close(job.file);
    return code;
}

const command quantize_command = {
    .name = "quantize",
    .summary = "write a GGUF file with another weight format",
    .operands = "IN.gguf OUT.gguf",
    .min_operands = 2,
    .max_operands = 2,
    .options = quantize_options,
    .defaults = &quantize_defaults,
    .settings_size = sizeof quantize_defaults,
    .details =
        "Matrices get the format that --type says, or where rows are no multiple of its block a\n"
        "near one of smaller blocks. Vectors, norms and the router stay f32; metadata is copied.\n"
        "The output appears under its name only when it is complete and on disk.\n",
    .examples = "  gqmm quantize model-f32.gguf model-q4_k_m.gguf --type q4_k_m\n"
                "  gqmm quantize model-bf16.gguf model-q8_0.gguf --type q8_0 --stats\n"
                "  gqmm quantize model-q8_0.gguf model-f16.gguf --type f16 --force\n",
    .run = quantize_main,
};
