/* SPDX-License-Identifier: MIT */
#include "interrupt.h"
#include "output.h"
#include "quantize.h"

#include <stdlib.h>
#include <string.h>

/* Values of one step: 8 MiB as floats, enough rows for all threads and small beside any model. */
enum { STEP_VALUES = 1 << 21 };

/* Buffers of one step, for the longest row of the file. */
typedef struct step_buffers {
    float *x, *back;
    uint8_t *out;
} step_buffers;

static int64_t step_rows(const gqmm_tensor *t)
{
    return t->dims[0] < STEP_VALUES ? STEP_VALUES / t->dims[0] : 1;
}

static int64_t tensor_rows(const gqmm_tensor *t)
{
    return t->dims[0] > 0 ? tensor_weights(t) / t->dims[0] : 0;
}

static gqmm_status open_rows(gqmm_context *ctx, const char *format, const void *data,
                             int64_t n_rows, int64_t n_cols, gqmm_weights **out, gqmm_error *err)
{
    gqmm_weights_desc d;

    GQMM_INIT(d);
    d.format = format;
    d.n_experts = 1;
    d.n_rows = n_rows;
    d.n_cols = n_cols;
    d.plane[0] = data;
    return gqmm_weights_create(ctx, &d, out, err);
}

static gqmm_status read_rows(gqmm_context *ctx, const gqmm_weights *w, int64_t first, int64_t n,
                             int32_t type, void *to, gqmm_error *err)
{
    gqmm_dequantize_desc d;

    GQMM_INIT(d);
    d.w = w;
    d.y_type = type;
    d.first_row = first;
    d.n_rows = n;
    d.y = to;
    return gqmm_dequantize(ctx, &d, err);
}

/* The element type of the plain formats, -1 for others. */
static int32_t float_type(const char *format)
{
    return strcmp(format, "f32") == 0    ? GQMM_F32
           : strcmp(format, "f16") == 0  ? GQMM_F16
           : strcmp(format, "bf16") == 0 ? GQMM_BF16
                                         : -1;
}

/* Rows [first, first + n) of w into b->out in `format`. */
static gqmm_status convert_rows(quantize_job *job, const gqmm_weights *w, int64_t first, int64_t n,
                                int64_t n_cols, const char *format, const step_buffers *b,
                                gqmm_error *err)
{
    const int32_t type = float_type(format);
    gqmm_quantize_desc d;
    gqmm_status st;

    if (type >= 0)
        return read_rows(job->ctx, w, first, n, type, b->out, err);
    if ((st = read_rows(job->ctx, w, first, n, GQMM_F32, b->x, err)) != GQMM_OK)
        return st;
    GQMM_INIT(d);
    d.x_type = GQMM_F32;
    d.format = format;
    d.x = b->x;
    d.n_rows = n;
    d.n_cols = n_cols;
    d.plane[0] = b->out;
    return gqmm_quantize(job->ctx, &d, err);
}

/* Adds the squares of b->out against the source rows. */
static gqmm_status measure(quantize_job *job, int group, const gqmm_weights *w, int64_t first,
                           int64_t n, int64_t n_cols, const char *format, const step_buffers *b,
                           gqmm_error *err)
{
    gqmm_weights *written = NULL;
    gqmm_status st = read_rows(job->ctx, w, first, n, GQMM_F32, b->x, err);

    if (st == GQMM_OK)
        st = open_rows(job->ctx, format, b->out, n, n_cols, &written, err);
    if (st == GQMM_OK)
        st = read_rows(job->ctx, written, 0, n, GQMM_F32, b->back, err);
    gqmm_weights_destroy(written);
    for (int64_t i = 0; i < n * n_cols && st == GQMM_OK; i++) {
        const double x = b->x[i], e = x - b->back[i];

        job->energy[group] += x * x;
        job->error[group] += e * e;
    }
    return st;
}

static gqmm_status convert_tensor(quantize_job *job, gqmm_writer *writer, const gqmm_tensor *t,
                                  const char *format, const step_buffers *b, gqmm_error *err)
{
    const int64_t rows = tensor_rows(t), step = step_rows(t);
    const int64_t row_bytes = gqmm_format_row_bytes(gqmm_format_find(format), 0, t->dims[0]);
    const int64_t total = group_total(job->after).n_weights;
    const int group = group_of(t->name);
    gqmm_weights *w = NULL;
    gqmm_status st = open_rows(job->ctx, t->format, t->data, rows, t->dims[0], &w, err);

    for (int64_t i = 0; i < rows && st == GQMM_OK && !interrupted(); i += step) {
        const int64_t n = rows - i < step ? rows - i : step;

        /* The same format again: its bytes, not a second rounding. */
        if (strcmp(t->format, format) == 0) {
            st = gqmm_writer_data(writer, (const char *)t->data + i * row_bytes,
                                  (size_t)(n * row_bytes), err);
            if (st == GQMM_OK && job->set.stats)
                memcpy(b->out, (const char *)t->data + i * row_bytes, (size_t)(n * row_bytes));
        } else if ((st = convert_rows(job, w, i, n, t->dims[0], format, b, err)) == GQMM_OK) {
            st = gqmm_writer_data(writer, b->out, (size_t)(n * row_bytes), err);
        }
        if (st == GQMM_OK && job->set.stats)
            st = measure(job, group, w, i, n, t->dims[0], format, b, err);
        job->n_done += n * t->dims[0];
        progress("%3.0f%%  %s -> %s", 100 * (double)job->n_done / (double)total, t->format, format);
    }
    gqmm_weights_destroy(w);
    return st;
}

/* ------------------------------------------------------------------ the file */

static gqmm_status write_meta(quantize_job *job, gqmm_writer *writer, gqmm_error *err)
{
    enum { GGUF_U32 = 4 };
    const struct {
        const char *key;
        int64_t value;
    } own[] = {{"general.file_type", job->mix->file_type}, {"general.quantization_version", 2}};
    gqmm_status st = GQMM_OK;

    for (int64_t i = 0; i < gqmm_file_meta_count(job->file) && st == GQMM_OK; i++) {
        const gqmm_meta *m = gqmm_file_meta_at(job->file, i);

        /* Our own two come at the end. */
        if (strcmp(m->key, own[0].key) != 0 && strcmp(m->key, own[1].key) != 0)
            st = gqmm_writer_meta_copy(writer, job->file, m, err);
    }
    for (int i = 0; i < 2 && st == GQMM_OK; i++)
        st = gqmm_writer_meta_int(writer, own[i].key, GGUF_U32, own[i].value, err);
    return st;
}

/* Declares the tensors; formats[i] is what tensor i becomes. */
static gqmm_status declare(quantize_job *job, gqmm_writer *writer, const char **formats,
                           gqmm_error *err)
{
    const mix_facts facts = mix_look(job->file);
    int64_t value_index = 0;
    gqmm_status st = GQMM_OK;

    for (int64_t i = 0; i < gqmm_file_tensor_count(job->file) && st == GQMM_OK; i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(job->file, i);
        gqmm_tensor changed = *t;
        const int group = group_of(t->name);

        formats[i] = mix_format(job->mix, &facts, t, &value_index);
        st = gqmm_writer_tensor(writer, t->name, formats[i], t->n_dims, t->dims, err);
        changed.type_name = changed.format = formats[i];
        changed.n_bytes =
            tensor_rows(t) * gqmm_format_row_bytes(gqmm_format_find(formats[i]), 0, t->dims[0]);
        group_add(&job->before[group], t);
        group_add(&job->after[group], &changed);
    }
    return st;
}

static step_buffers make_buffers(const quantize_job *job)
{
    int64_t longest = STEP_VALUES;

    for (int64_t i = 0; i < gqmm_file_tensor_count(job->file); i++) {
        const int64_t n = gqmm_file_tensor_at(job->file, i)->dims[0];

        longest = n > longest ? n : longest;
    }
    return (step_buffers){
        .x = need((size_t)longest, sizeof(float)),
        .back = need(job->set.stats ? (size_t)longest : 0, sizeof(float)),
        .out = need((size_t)longest, sizeof(float)),
    };
}

static gqmm_status write_all(quantize_job *job, gqmm_writer *writer, const char **formats,
                             const step_buffers *b, gqmm_error *err)
{
    const int64_t count = gqmm_file_tensor_count(job->file);
    gqmm_status st;

    if ((st = write_meta(job, writer, err)) != GQMM_OK ||
        (st = declare(job, writer, formats, err)) != GQMM_OK)
        return st;
    for (int64_t i = 0; i < count && st == GQMM_OK && !interrupted(); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(job->file, i);

        if (tensor_weights(t) > 0)
            st = convert_tensor(job, writer, t, formats[i], b, err);
    }
    if (st == GQMM_OK && !interrupted())
        st = gqmm_writer_finish(writer, err);
    progress_clear();
    return st;
}

bool quantize_file(quantize_job *job, const char *out, gqmm_error *err)
{
    const size_t count = (size_t)gqmm_file_tensor_count(job->file);
    const char **formats = need(count, sizeof *formats);
    step_buffers b = make_buffers(job);
    gqmm_writer *writer = NULL;
    bool finished = false;

    gqmm_status st = gqmm_writer_create(out, job->set.force, NULL, &writer, err);
    if (st == GQMM_OK)
        st = write_all(job, writer, formats, &b, err);
    finished = st == GQMM_OK && !interrupted();
    gqmm_writer_destroy(writer);
    free(b.x);
    free(b.back);
    free(b.out);
    free(formats);
    return finished;
}
