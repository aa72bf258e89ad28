/* SPDX-License-Identifier: MIT */
/* What the model is and which kernels serve it, for the end of run, chat and eval. */
#include "engine.h"
#include "output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A format of the file's matrices, in the order of first appearance. */
typedef struct used_formats {
    const char *name[64];
    int n;
} used_formats;

static void collect(const gqmm_file *file, used_formats *used)
{
    used->n = 0;
    for (int64_t i = 0; i < gqmm_file_tensor_count(file); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(file, i);
        int k = 0;

        /* Norms enter no product. */
        if (!t->format || t->n_dims < 2)
            continue;
        while (k < used->n && strcmp(used->name[k], t->format) != 0)
            k++;
        if (k == used->n && k < 64)
            used->name[used->n++] = t->format;
    }
}

static const char *room_of(const engine *e, const char *format)
{
    const char *isa = gqmm_kernel_isa(format, gqmm_context_isa(e->ctx));

    return isa ? isa : "none";
}

char *engine_kernels(const engine *e)
{
    used_formats used;
    char *out = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&out, &size);

    if (!f) {
        say("out of memory");
        exit(CLI_FAILURE);
    }
    collect(e->file, &used);
    for (int i = 0; i < used.n; i++) {
        const char *isa = room_of(e, used.name[i]);

        bool earlier = false;
        for (int k = 0; k < i; k++)
            earlier |= strcmp(room_of(e, used.name[k]), isa) == 0;
        if (earlier)
            continue;
        fprintf(f, "%s%s (", ftell(f) ? ", " : "", isa);
        for (int k = i; k < used.n; k++)
            if (strcmp(room_of(e, used.name[k]), isa) == 0)
                fprintf(f, "%s%s", k == i ? "" : " ", used.name[k]);
        fputc(')', f);
    }
    fclose(f);
    return out;
}

const char *engine_device(const engine *e)
{
    const char *device = gqmm_context_device(e->ctx);

    return strcmp(device, "cpu") == 0 ? NULL : device;
}

engine_words engine_place(const engine *e)
{
    const int32_t threads = gqmm_context_threads(e->ctx);
    const char *device = engine_device(e);
    engine_words words;
    char text[100];

    if (!device) {
        snprintf(words.text, sizeof words.text, "%d thread%s", threads, threads == 1 ? "" : "s");
        return words;
    }
    gqmm_device_text(device, text, sizeof text);
    text[strcspn(text, ",")] = '\0';
    snprintf(words.text, sizeof words.text, "%s (%s)", device, text);
    return words;
}

/* A device keeps activations as floats for the formats of model files, whatever was asked for. */
const char *engine_precision(const engine *e)
{
    return e->machine.precision == GQMM_EXACT || engine_device(e) ? "exact" : "int8";
}

static int64_t device_bytes(const engine *e)
{
    return e->info.device_bytes + (e->session ? gqmm_session_device_bytes(e->session) : 0);
}

void engine_print_stats(const engine *e)
{
    char *kernels = engine_kernels(e);
    char *name = escaped(e->info.name, strlen(e->info.name));
    const gqmm_model_info *m = &e->info;

    if (engine_device(e))
        fprintf(stderr, "memory     %s on %s, %s of it weights; %s of the host at the peak",
                size_text((double)device_bytes(e)).s, engine_device(e),
                size_text((double)m->device_bytes).s, size_text((double)peak_memory()).s);
    else
        fprintf(stderr, "memory     %s at the peak", size_text((double)peak_memory()).s);
    if (e->session && !engine_device(e))
        fprintf(stderr, ", %s of it cache and scratch",
                size_text((double)gqmm_session_bytes(e->session)).s);
    if (e->machine.repacked)
        fprintf(stderr, ", %s of it repacked weights", size_text((double)m->repacked_bytes).s);
    fprintf(stderr, "\nmodel      %s%s%s, %s weights in %s, %d of %d experts per token\n", name,
            *name ? ", " : "", m->architecture, count_text((double)m->n_parameters).s,
            size_text((double)m->weight_bytes).s, m->n_experts_used, m->n_experts);
    fprintf(stderr, "kernels    %s, %s activations, %s\n", kernels, engine_precision(e),
            engine_place(e).text);
    free(name);
    free(kernels);
}

static json_t *kernels_json(const engine *e)
{
    used_formats used;
    json_t *object = json_object();

    collect(e->file, &used);
    for (int i = 0; i < used.n; i++)
        json_object_set_new(object, used.name[i], json_string(room_of(e, used.name[i])));
    return object;
}

void engine_json(const engine *e, json_t *object)
{
    const gqmm_model_info *m = &e->info;

    json_object_set_new(object, "model", json_text(e->path, strlen(e->path)));
    json_object_set_new(object, "name", json_text(m->name, strlen(m->name)));
    json_object_set_new(object, "architecture", json_string(m->architecture));
    json_object_set_new(object, "parameters", json_integer(m->n_parameters));
    json_object_set_new(object, "weight_bytes", json_integer(m->weight_bytes));
    json_object_set_new(object, "weights",
                        json_string(e->machine.repacked ? "repacked" : "direct"));
    json_object_set_new(object, "repacked_bytes", json_integer(m->repacked_bytes));
    json_object_set_new(object, "precision", json_string(engine_precision(e)));
    json_object_set_new(object, "device", json_string(gqmm_context_device(e->ctx)));
    json_object_set_new(object, "threads", json_integer(gqmm_context_threads(e->ctx)));
    json_object_set_new(object, "isa", json_string(gqmm_context_isa(e->ctx)));
    json_object_set_new(object, "kernels", kernels_json(e));
    json_object_set_new(object, "load_seconds", json_seconds(e->load_seconds));
    json_object_set_new(object, "peak_memory_bytes", json_integer(peak_memory()));
    json_object_set_new(object, "device_bytes", json_integer(device_bytes(e)));
    if (e->session)
        json_object_set_new(object, "session_bytes", json_integer(gqmm_session_bytes(e->session)));
}
