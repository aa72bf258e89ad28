/* SPDX-License-Identifier: MIT */
/* GGUF v3 files. Entries are laid down in memory as they are declared, with the offsets that their
 * data will have; the first data closes the header and sends it ahead. What the reader would refuse
 * is refused here. */
#include "base/num.h"
#include "base/status.h"
#include "io/file.h"
#include "io/sink.h"
#include "io/types.h"

#include <inttypes.h>
#include <string.h>

enum { F32 = 6, STRING = 8, ARRAY = 9, F64 = 12 }; /* value types */
enum { DEFAULT_ALIGNMENT = 32, DIMS = 4 };

typedef struct bytes {
    uint8_t *at;
    size_t size, room;
} bytes;

/* One key or tensor: to see the same name again, and when a tensor is complete. */
typedef struct entry {
    uint64_t hash;
    size_t name_at, name_length; /* in the bytes of the table */
    uint64_t n_bytes;
} entry;

typedef struct table {
    bytes text;    /* as it will stand in the file */
    bytes entries; /* of struct entry */
    size_t n;
} table;

struct gqmm_writer {
    gqmm_allocator alloc;
    gqmm_sink sink;
    table metas, tensors;
    uint64_t alignment, next_offset; /* of the next tensor's data */
    bool in_data;
    size_t current; /* tensor that the next byte belongs to */
    uint64_t n_got; /* of its bytes */
};

static bool reserve(const gqmm_writer *w, bytes *b, size_t more)
{
    size_t room = b->room ? b->room : 1024;
    uint8_t *at;

    if (more <= b->room - b->size)
        return true;
    if (more > SIZE_MAX / 4 - b->size)
        return false;
    while (room < b->size + more)
        room *= 2;
    at = gqmm_alloc_raw(&w->alloc, room, 1);
    if (!at)
        return false;
    if (b->size)
        memcpy(at, b->at, b->size);
    gqmm_release(&w->alloc, b->at, b->room, 1);
    b->at = at;
    b->room = room;
    return true;
}

/* Room must have been reserved. */
static void put(bytes *b, const void *from, size_t size)
{
    if (size)
        memcpy(b->at + b->size, from, size);
    b->size += size;
}

static void put_u64(bytes *b, uint64_t v)
{
    put(b, &v, sizeof v);
}

static uint64_t align_up(uint64_t n, uint64_t alignment)
{
    return (n + alignment - 1) & ~(alignment - 1);
}

/* FNV-1a: names come from our caller, who gains nothing by making them collide. */
static uint64_t hash_of(const char *name, size_t length)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < length; i++)
        h = (h ^ (uint8_t)name[i]) * 1099511628211u;
    return h;
}

/* Checks a new name and lays it down as a string; `more` bytes behind it are reserved too. */
static gqmm_status add_name(gqmm_writer *w, table *t, const char *name, uint64_t n_bytes,
                            size_t more, size_t limit, gqmm_error *err)
{
    const char *what = t == &w->metas ? "key" : "tensor";
    const size_t length = name ? strlen(name) : 0;
    const entry new = {hash_of(name, length), t->text.size + 8, length, n_bytes};
    const entry *entries = (const entry *)(const void *)t->entries.at;
    char quoted[GQMM_QUOTE_SIZE];

    if (length == 0 || length > GQMM_MAX_NAME)
        return gqmm_fail(err, GQMM_E_ARG, 0, "a %s name has %zu bytes, expected 1 to %u", what,
                         length, GQMM_MAX_NAME);
    gqmm_quote(quoted, name, length);
    if (w->in_data)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s \"%s\" comes after the first data", what, quoted);
    if (t->n >= limit)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s \"%s\" is one too many, the limit is %zu", what,
                         quoted, limit);
    for (size_t i = 0; i < t->n; i++) {
        if (entries[i].hash == new.hash &&
            entries[i].name_length ==
                length &&memcmp(t->text.at + entries[i].name_at, name, length) == 0)
            return gqmm_fail(err, GQMM_E_ARG, 0, "%s \"%s\" is there already", what, quoted);
    }
    if (more > SIZE_MAX / 4 || !reserve(w, &t->text, 8 + length + more) ||
        !reserve(w, &t->entries, sizeof new))
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %s \"%s\"", what, quoted);
    put_u64(&t->text, length);
    put(&t->text, name, length);
    put(&t->entries, &new, sizeof new);
    t->n++;
    return GQMM_OK;
}

/* The alignment is a key like others, but the writer has to live by it. */
static gqmm_status check_alignment(gqmm_writer *w, const char *key, int64_t value, gqmm_error *err)
{
    if (!key || strcmp(key, "general.alignment") != 0)
        return GQMM_OK;
    if (value < 1 || value > GQMM_MAX_ALIGNMENT || (value & (value - 1)) != 0)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "general.alignment is %" PRId64 ", expected a power of two up to %u",
                         value, GQMM_MAX_ALIGNMENT);
    if (w->tensors.n)
        return gqmm_fail(err, GQMM_E_ARG, 0, "general.alignment comes after the first tensor");
    w->alignment = (uint64_t)value;
    return GQMM_OK;
}

static gqmm_status add_meta(gqmm_writer *w, const char *key, int32_t type, const void *head,
                            size_t n_head, const void *value, size_t n_value, gqmm_error *err)
{
    const gqmm_status status =
        add_name(w, &w->metas, key, 0, 4 + n_head + n_value, GQMM_MAX_METAS, err);
    if (status == GQMM_OK) {
        put(&w->metas.text, &type, 4);
        put(&w->metas.text, head, n_head);
        put(&w->metas.text, value, n_value);
    }
    return status;
}

gqmm_status gqmm_writer_create(const char *path, int32_t overwrite, const gqmm_allocator *allocator,
                               gqmm_writer **out, gqmm_error *err)
{
    gqmm_allocator alloc;
    gqmm_status status;
    gqmm_writer *w;

    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!path || !*path)
        return gqmm_fail(err, GQMM_E_ARG, 0, "path is %s", path ? "empty" : "NULL");
    if ((status = gqmm_allocator_init(&alloc, allocator, err)) != GQMM_OK)
        return status;
    if ((w = gqmm_alloc(&alloc, 1, sizeof *w)) == NULL)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a writer");
    w->alloc = alloc;
    w->alignment = DEFAULT_ALIGNMENT;
    status = gqmm_sink_open(&w->sink, path, overwrite != 0, &alloc, err);
    if (status != GQMM_OK) {
        gqmm_writer_destroy(w);
        return status;
    }
    *out = w;
    return GQMM_OK;
}

gqmm_status gqmm_writer_meta_int(gqmm_writer *w, const char *key, int32_t gguf_type, int64_t value,
                                 gqmm_error *err)
{
    static const struct {
        uint8_t size; /* 0: not an integer */
        int64_t min, max;
    } types[] = {
        {1, 0, UINT8_MAX},  {1, INT8_MIN, INT8_MAX},
        {2, 0, UINT16_MAX}, {2, INT16_MIN, INT16_MAX},
        {4, 0, UINT32_MAX}, {4, INT32_MIN, INT32_MAX},
        {0, 0, 0},          {1, 0, 1},
        {0, 0, 0},          {0, 0, 0},
        {8, 0, INT64_MAX},  {8, INT64_MIN, INT64_MAX},
    };
    const int32_t n_types = (int32_t)(sizeof types / sizeof types[0]);
    gqmm_status status;

    if (gguf_type < 0 || gguf_type >= n_types || types[gguf_type].size == 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "value type %" PRId32 " is no integer", gguf_type);
    if (value < types[gguf_type].min || value > types[gguf_type].max)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%" PRId64 " does not fit value type %" PRId32, value,
                         gguf_type);
    if ((status = check_alignment(w, key, value, err)) != GQMM_OK)
        return status;
    /* Little endian: the low bytes of the value are the narrow value. */
    return add_meta(w, key, gguf_type, NULL, 0, &value, types[gguf_type].size, err);
}

gqmm_status gqmm_writer_meta_float(gqmm_writer *w, const char *key, int32_t gguf_type, double value,
                                   gqmm_error *err)
{
    const float narrow = (float)value;

    if (gguf_type != F32 && gguf_type != F64)
        return gqmm_fail(err, GQMM_E_ARG, 0, "value type %" PRId32 " is no float", gguf_type);
    if (key && strcmp(key, "general.alignment") == 0)
        return check_alignment(w, key, 0, err);
    return add_meta(w, key, gguf_type, NULL, 0, gguf_type == F32 ? (const void *)&narrow : &value,
                    gguf_type == F32 ? 4 : 8, err);
}

gqmm_status gqmm_writer_meta_string(gqmm_writer *w, const char *key, const char *text,
                                    size_t length, gqmm_error *err)
{
    const uint64_t n = length;

    if (!text && length)
        return gqmm_fail(err, GQMM_E_ARG, 0, "text is NULL");
    if (length > GQMM_MAX_STRING)
        return gqmm_fail(err, GQMM_E_ARG, 0, "a string has %zu bytes, at most %u are allowed",
                         length, GQMM_MAX_STRING);
    if (key && strcmp(key, "general.alignment") == 0)
        return check_alignment(w, key, 0, err);
    return add_meta(w, key, STRING, &n, sizeof n, text, length, err);
}

gqmm_status gqmm_writer_meta_copy(gqmm_writer *w, const gqmm_file *file, const gqmm_meta *meta,
                                  gqmm_error *err)
{
    uint8_t head[12];
    size_t n_head = 0;
    int64_t value = 0;
    gqmm_status status;

    if (!file || !meta || !gqmm_meta_belongs(file, meta))
        return gqmm_fail(err, GQMM_E_ARG, 0, "meta is not an entry of the file");
    if (meta->kind != GQMM_META_ARRAY)
        gqmm_meta_int(file, meta, 0, &value);
    if ((status = check_alignment(w, meta->key, value, err)) != GQMM_OK)
        return status;
    if (meta->gguf_type == ARRAY) {
        memcpy(head, &meta->item_type, 4);
        memcpy(head + 4, &meta->n, 8);
        n_head = sizeof head;
    }
    return add_meta(w, meta->key, meta->gguf_type, head, n_head, meta->raw,
                    (size_t)((const gqmm_meta_entry *)meta)->n_bytes, err);
}

gqmm_status gqmm_writer_tensor(gqmm_writer *w, const char *name, const char *format, int32_t n_dims,
                               const int64_t *dims, gqmm_error *err)
{
    const gqmm_ggml_type type = format ? gqmm_ggml_type_find(format) : (gqmm_ggml_type){.id = -1};
    char quoted[GQMM_QUOTE_SIZE];
    int64_t n_elems, n_bytes, end;
    bytes *text = &w->tensors.text;
    gqmm_status status;

    if (type.id < 0 || type.block == 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "format \"%s\" has no place in GGUF files",
                         format ? gqmm_quote(quoted, format, strlen(format)) : "NULL");
    if (!name || !dims || n_dims < 1 || n_dims > DIMS)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "a tensor needs a name and 1 to %d dimensions, not %" PRId32, DIMS,
                         n_dims);
    status = gqmm_tensor_bytes(&n_elems, &n_bytes, &type, name, n_dims, dims, 0, err);
    if (status == GQMM_OK && n_elems == 0)
        status = gqmm_fail(err, GQMM_E_SHAPE, 0, "tensor \"%s\" is empty",
                           gqmm_quote(quoted, name, strlen(name)));
    if (status == GQMM_OK && !gqmm_add(&end, (int64_t)w->next_offset, n_bytes))
        status = gqmm_fail(err, GQMM_E_SHAPE, 0, "the size of the file passes 2^63");
    if (status != GQMM_OK) {
        if (err)
            err->status = GQMM_E_SHAPE; /* no file is at fault here */
        return GQMM_E_SHAPE;
    }
    status = add_name(w, &w->tensors, name, (uint64_t)n_bytes, 4 + 8 * DIMS + 4 + 8,
                      GQMM_MAX_TENSORS, err);
    if (status != GQMM_OK)
        return status;
    put(text, &n_dims, 4);
    for (int32_t d = 0; d < n_dims; d++)
        put_u64(text, (uint64_t)dims[d]);
    put(text, &type.id, 4);
    put_u64(text, w->next_offset);
    w->next_offset = align_up((uint64_t)end, w->alignment);
    return GQMM_OK;
}

/* Zeros up to the next multiple of the alignment. */
static gqmm_status pad(gqmm_writer *w, gqmm_error *err)
{
    static const uint8_t zeros[4096];
    uint64_t n = align_up(w->sink.n_written, w->alignment) - w->sink.n_written;
    gqmm_status status = GQMM_OK;

    while (status == GQMM_OK && n > 0) {
        const size_t part = n < sizeof zeros ? (size_t)n : sizeof zeros;
        status = gqmm_sink_write(&w->sink, zeros, part, err);
        n -= part;
    }
    return status;
}

static gqmm_status begin_data(gqmm_writer *w, gqmm_error *err)
{
    const uint32_t magic_version[2] = {0x46554747u, 3}; /* "GGUF" */
    const uint64_t counts[2] = {w->tensors.n, w->metas.n};
    gqmm_status status;

    if (w->in_data)
        return GQMM_OK;
    w->in_data = true;
    status = gqmm_sink_write(&w->sink, magic_version, sizeof magic_version, err);
    if (status == GQMM_OK)
        status = gqmm_sink_write(&w->sink, counts, sizeof counts, err);
    if (status == GQMM_OK)
        status = gqmm_sink_write(&w->sink, w->metas.text.at, w->metas.text.size, err);
    if (status == GQMM_OK)
        status = gqmm_sink_write(&w->sink, w->tensors.text.at, w->tensors.text.size, err);
    return status == GQMM_OK ? pad(w, err) : status;
}

gqmm_status gqmm_writer_data(gqmm_writer *w, const void *data, size_t size, gqmm_error *err)
{
    const entry *entries = (const entry *)(const void *)w->tensors.entries.at;
    const uint8_t *from = data;
    gqmm_status status;

    if (!data && size)
        return gqmm_fail(err, GQMM_E_ARG, 0, "bytes is NULL");
    if ((status = begin_data(w, err)) != GQMM_OK)
        return status;
    while (status == GQMM_OK && size > 0) {
        uint64_t part;
        if (w->current == w->tensors.n)
            return gqmm_fail(err, GQMM_E_ARG, 0, "%zu bytes follow the end of the last tensor",
                             size);
        part = entries[w->current].n_bytes - w->n_got;
        part = part < size ? part : size;
        status = gqmm_sink_write(&w->sink, from, (size_t)part, err);
        from += part;
        size -= (size_t)part;
        w->n_got += part;
        if (status == GQMM_OK && w->n_got == entries[w->current].n_bytes) {
            w->current++;
            w->n_got = 0;
            status = pad(w, err);
        }
    }
    return status;
}

gqmm_status gqmm_writer_finish(gqmm_writer *w, gqmm_error *err)
{
    const entry *entries = (const entry *)(const void *)w->tensors.entries.at;
    char quoted[GQMM_QUOTE_SIZE];
    gqmm_status status;

    if (w->current < w->tensors.n) {
        const entry *e = &entries[w->current];
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "tensor \"%s\" has %" PRIu64 " of its %" PRIu64 " bytes",
                         gqmm_quote(quoted, w->tensors.text.at + e->name_at, e->name_length),
                         w->n_got, e->n_bytes);
    }
    if ((status = begin_data(w, err)) != GQMM_OK)
        return status;
    return gqmm_sink_commit(&w->sink, err);
}

void gqmm_writer_destroy(gqmm_writer *w)
{
    if (!w)
        return;
    const gqmm_allocator alloc = w->alloc;
    gqmm_sink_close(&w->sink);
    gqmm_release(&alloc, w->metas.text.at, w->metas.text.room, 1);
    gqmm_release(&alloc, w->metas.entries.at, w->metas.entries.room, 1);
    gqmm_release(&alloc, w->tensors.text.at, w->tensors.text.room, 1);
    gqmm_release(&alloc, w->tensors.entries.at, w->tensors.entries.room, 1);
    gqmm_release(&alloc, w, 1, sizeof *w);
}
