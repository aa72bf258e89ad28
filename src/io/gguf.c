/* SPDX-License-Identifier: MIT */
/* GGUF v2 and v3, little endian:
 *     "GGUF" version n_tensors n_kv { key type value }*n_kv { name n_dims ne[] type offset }*n
 *     padding to the alignment, then the data of the tensors
 * Nothing is believed: counts are held against the bytes left before memory is taken for them. */
#include "base/num.h"
#include "base/status.h"
#include "io/file.h"
#include "io/types.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { STRING = 8, ARRAY = 9, N_TYPES = 13 };
enum { DEFAULT_ALIGNMENT = 32 };
/* Smallest entries: a one-byte key with a one-byte value; a one-byte name without dimensions. */
enum { MIN_META_BYTES = 8 + 1 + 4 + 1, MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8 };

static const struct {
    uint8_t bytes; /* 0: strings and arrays */
    uint8_t kind;
} value_types[N_TYPES] = {
    {1, GQMM_META_UINT},   {1, GQMM_META_INT},   {2, GQMM_META_UINT},  {2, GQMM_META_INT},
    {4, GQMM_META_UINT},   {4, GQMM_META_INT},   {4, GQMM_META_FLOAT}, {1, GQMM_META_BOOL},
    {0, GQMM_META_STRING}, {0, GQMM_META_ARRAY}, {8, GQMM_META_UINT},  {8, GQMM_META_INT},
    {8, GQMM_META_FLOAT},
};

typedef struct reader {
    gqmm_file *f;
    gqmm_cursor c;
    uint64_t alignment, data_start;
    gqmm_error *err;
} reader;

static gqmm_status ends_inside(const reader *r, const char *what, uint64_t i)
{
    return gqmm_fail(r->err, GQMM_E_FORMAT, r->c.size,
                     "the file ends after %zu bytes, inside %s %" PRIu64, r->c.size, what, i);
}

/* A string where it lies. `what` and i name its owner in messages. */
static gqmm_status read_string(reader *r, const uint8_t **text, uint64_t *length, uint64_t limit,
                               const char *what, uint64_t i)
{
    const size_t at = r->c.pos;

    *length = gqmm_read_u64(&r->c);
    if (r->c.short_read)
        return ends_inside(r, what, i);
    if (*length > limit)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at,
                         "%s %" PRIu64 " has %" PRIu64 " bytes, at most %" PRIu64 " are allowed",
                         what, i, *length, limit);
    *text = gqmm_read_bytes(&r->c, *length);
    if (!*text)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at,
                         "%s %" PRIu64 " has %" PRIu64 " bytes, but %zu are left", what, i, *length,
                         r->c.size - r->c.pos);
    return GQMM_OK;
}

/* A key or a tensor name, kept with a NUL behind it. */
static gqmm_status read_name(reader *r, const char **name, const char *what, uint64_t i)
{
    const size_t at = r->c.pos;
    const uint8_t *text, *nul;
    uint64_t length;
    gqmm_status status = read_string(r, &text, &length, GQMM_MAX_NAME, what, i);

    if (status != GQMM_OK)
        return status;
    if (length == 0)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at, "%s %" PRIu64 " is empty", what, i);
    if ((nul = memchr(text, 0, (size_t)length)) != NULL)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at + 8 + (size_t)(nul - text),
                         "%s %" PRIu64 " has a zero byte in it", what, i);
    *name = gqmm_file_keep(r->f, text, (size_t)length);
    if (!*name)
        return gqmm_fail(r->err, GQMM_E_NOMEM, 0, "no memory for %s %" PRIu64, what, i);
    return GQMM_OK;
}

static gqmm_status read_header(reader *r, uint64_t *n_tensors, uint64_t *n_metas)
{
    uint32_t version;

    gqmm_read_u32(&r->c);
    version = gqmm_read_u32(&r->c);
    if (r->c.short_read)
        return gqmm_fail(r->err, GQMM_E_FORMAT, r->c.size,
                         "the file ends after %zu bytes, inside the header", r->c.size);
    /* A small number in the upper half is a small number of the other byte order. */
    if (version != 0 && (version & 0xffff) == 0)
        return gqmm_fail(r->err, GQMM_E_UNSUPPORTED, 4,
                         "a big-endian GGUF file (version word 0x%08" PRIx32
                         "), only little-endian files are read",
                         version);
    if (version == 1)
        return gqmm_fail(r->err, GQMM_E_UNSUPPORTED, 4,
                         "GGUF version 1 is not supported, expected 2 or 3");
    if (version != 2 && version != 3)
        return gqmm_fail(r->err, GQMM_E_FORMAT, 4, "GGUF version %" PRIu32 ", expected 2 or 3",
                         version);
    r->f->kind = "gguf";
    r->f->version = (int32_t)version;
    *n_tensors = gqmm_read_u64(&r->c);
    *n_metas = gqmm_read_u64(&r->c);
    if (r->c.short_read)
        return gqmm_fail(r->err, GQMM_E_FORMAT, r->c.size,
                         "the file ends after %zu bytes, inside the header", r->c.size);
    if (*n_tensors > GQMM_MAX_TENSORS || *n_tensors > gqmm_cursor_left(&r->c) / MIN_TENSOR_BYTES)
        return gqmm_fail(r->err, GQMM_E_FORMAT, 8,
                         "%" PRIu64 " tensors cannot fit in the %zu bytes left (limit %u)",
                         *n_tensors, gqmm_cursor_left(&r->c), GQMM_MAX_TENSORS);
    if (*n_metas > GQMM_MAX_METAS || *n_metas > gqmm_cursor_left(&r->c) / MIN_META_BYTES)
        return gqmm_fail(r->err, GQMM_E_FORMAT, 16,
                         "%" PRIu64 " keys cannot fit in the %zu bytes left (limit %u)", *n_metas,
                         gqmm_cursor_left(&r->c), GQMM_MAX_METAS);
    return GQMM_OK;
}

/* Strings have no common size: the place of each is noted, so that item i is found at once. */
static gqmm_status read_string_array(reader *r, gqmm_meta_entry *e)
{
    const size_t first = r->c.pos;
    const uint8_t *text;
    uint64_t length;

    e->items = gqmm_alloc_raw(&r->f->alloc, (size_t)e->pub.n, sizeof *e->items);
    if (!e->items)
        return gqmm_fail(r->err, GQMM_E_NOMEM, 0, "no memory to index %" PRIu64 " strings",
                         e->pub.n);
    for (uint64_t i = 0; i < e->pub.n; i++) {
        gqmm_status status;
        e->items[i] = r->c.pos - first;
        status = read_string(r, &text, &length, GQMM_MAX_STRING, "array string", i);
        if (status != GQMM_OK)
            return status;
    }
    return GQMM_OK;
}

static gqmm_status read_array(reader *r, gqmm_meta_entry *e)
{
    const size_t at = r->c.pos;
    const uint32_t type = gqmm_read_u32(&r->c);
    const uint64_t n = gqmm_read_u64(&r->c);
    char quoted[GQMM_QUOTE_SIZE];
    size_t size;

    gqmm_quote(quoted, e->pub.key, strlen(e->pub.key));
    if (r->c.short_read)
        return gqmm_fail(r->err, GQMM_E_FORMAT, r->c.size,
                         "the file ends after %zu bytes, inside the array \"%s\"", r->c.size,
                         quoted);
    if (type >= N_TYPES || type == ARRAY)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at,
                         "the array \"%s\" has items of type %" PRIu32 ", %s", quoted, type,
                         type == ARRAY ? "arrays in arrays are not allowed" : "which is none");
    size = type == STRING ? 8 : value_types[type].bytes;
    if (n > gqmm_cursor_left(&r->c) / size)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at + 4,
                         "the array \"%s\" has %" PRIu64
                         " items of at least %zu bytes, but %zu bytes are left",
                         quoted, n, size, gqmm_cursor_left(&r->c));
    e->pub.item_kind = value_types[type].kind;
    e->pub.item_type = (int32_t)type;
    e->pub.n = n;
    e->pub.raw = r->c.bytes + r->c.pos;
    if (type == STRING)
        return read_string_array(r, e);
    gqmm_read_bytes(&r->c, n * size);
    return GQMM_OK;
}

static gqmm_status read_meta(reader *r, uint64_t i)
{
    gqmm_meta_entry *e = &r->f->metas[i];
    char quoted[GQMM_QUOTE_SIZE];
    const uint8_t *text;
    gqmm_status status;
    uint64_t length;
    uint32_t type;
    size_t at;

    e->at = r->c.pos;
    if ((status = read_name(r, &e->pub.key, "key", i)) != GQMM_OK)
        return status;
    at = r->c.pos;
    type = gqmm_read_u32(&r->c);
    if (r->c.short_read)
        return ends_inside(r, "the type of key", i);
    if (type >= N_TYPES)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at,
                         "the value of \"%s\" has type %" PRIu32 ", expected 0 to %d",
                         gqmm_quote(quoted, e->pub.key, strlen(e->pub.key)), type, N_TYPES - 1);
    e->pub.kind = e->pub.item_kind = value_types[type].kind;
    e->pub.gguf_type = e->pub.item_type = (int32_t)type;
    e->pub.raw = r->c.bytes + r->c.pos;
    if (type == ARRAY) {
        if ((status = read_array(r, e)) != GQMM_OK)
            return status;
    } else {
        e->pub.n = 1;
        if (type == STRING)
            status = read_string(r, &text, &length, GQMM_MAX_STRING, "the value of key", i);
        else if (!gqmm_read_bytes(&r->c, value_types[type].bytes))
            status = ends_inside(r, "the value of key", i);
    }
    e->n_bytes = (uint64_t)(r->c.bytes + r->c.pos - (const uint8_t *)e->pub.raw);
    return status;
}

static gqmm_status read_alignment(reader *r)
{
    const gqmm_meta *meta = gqmm_file_meta(r->f, "general.alignment");
    int64_t n;

    r->alignment = DEFAULT_ALIGNMENT;
    if (!meta)
        return GQMM_OK;
    if (meta->kind == GQMM_META_ARRAY || !gqmm_meta_int(r->f, meta, 0, &n))
        return gqmm_fail(r->err, GQMM_E_FORMAT, ((const gqmm_meta_entry *)meta)->at,
                         "general.alignment has value type %" PRId32 ", expected an integer",
                         meta->gguf_type);
    if (n < 1 || n > GQMM_MAX_ALIGNMENT || (n & (n - 1)) != 0)
        return gqmm_fail(r->err, GQMM_E_FORMAT, (uint64_t)((const uint8_t *)meta->raw - r->c.bytes),
                         "general.alignment is %" PRId64 ", expected a power of two up to %u", n,
                         GQMM_MAX_ALIGNMENT);
    r->alignment = (uint64_t)n;
    return GQMM_OK;
}

/* Name, shape and type; pub.offset stays relative until the start of the data is known. */
static gqmm_status read_tensor(reader *r, uint64_t i)
{
    gqmm_tensor_entry *e = &r->f->tensors[i];
    char quoted[GQMM_QUOTE_SIZE], number[32];
    gqmm_ggml_type type;
    gqmm_status status;
    uint32_t n_dims, id;
    size_t at;

    e->at = r->c.pos;
    if ((status = read_name(r, &e->pub.name, "tensor name", i)) != GQMM_OK)
        return status;
    at = r->c.pos;
    n_dims = gqmm_read_u32(&r->c);
    if (n_dims > 4)
        return gqmm_fail(r->err, GQMM_E_FORMAT, at,
                         "\"%s\" has %" PRIu32 " dimensions, at most 4 are allowed",
                         gqmm_quote(quoted, e->pub.name, strlen(e->pub.name)), n_dims);
    e->pub.n_dims = (int32_t)n_dims;
    for (uint32_t d = 0; d < n_dims; d++)
        e->pub.dims[d] = (int64_t)gqmm_read_u64(&r->c);
    id = gqmm_read_u32(&r->c);
    e->pub.offset = gqmm_read_u64(&r->c);
    if (r->c.short_read)
        return ends_inside(r, "the entry of tensor", i);
    if (id > INT32_MAX)
        return gqmm_fail(r->err, GQMM_E_FORMAT, r->c.pos - 12,
                         "\"%s\" has ggml type %" PRIu32 ", which is none",
                         gqmm_quote(quoted, e->pub.name, strlen(e->pub.name)), id);
    type = gqmm_ggml_type_of((int32_t)id);
    e->pub.type = type.id;
    e->pub.format = type.format ? type.format->name : NULL;
    e->pub.type_name = type.name;
    if (!type.name) {
        const int n = snprintf(number, sizeof number, "ggml type %" PRIu32, id);
        e->pub.type_name = gqmm_file_keep(r->f, number, (size_t)n);
        if (!e->pub.type_name)
            return gqmm_fail(r->err, GQMM_E_NOMEM, 0, "no memory for a type name");
    }
    return gqmm_tensor_bytes(&e->n_elems, &e->pub.n_bytes, &type, e->pub.name, e->pub.n_dims,
                             e->pub.dims, at + 4, r->err);
}

static bool offset_less(const void *ctx, uint32_t a, uint32_t b)
{
    const gqmm_file *f = ctx;
    const uint64_t x = f->tensors[a].pub.offset, y = f->tensors[b].pub.offset;
    return x < y || (x == y && a < b);
}

/* Where the offset field of a tensor's entry lies, for messages. */
static uint64_t offset_field(const gqmm_tensor_entry *e)
{
    return e->at + 8 + strlen(e->pub.name) + 4 + 8 * (uint64_t)e->pub.n_dims + 4;
}

/* The tensor ends before `end`, where the next one or the file's end is; one of unknown size is
 * taken to fill all of it. */
static gqmm_status place(reader *r, gqmm_tensor_entry *e, uint64_t end, const char *next)
{
    gqmm_tensor *t = &e->pub;
    char a[GQMM_QUOTE_SIZE], b[GQMM_QUOTE_SIZE];

    if (t->n_bytes < 0 && t->offset < end)
        t->n_bytes = (int64_t)(end - t->offset);
    if (t->n_bytes >= 0 && t->offset <= end && (uint64_t)t->n_bytes <= end - t->offset)
        return GQMM_OK;
    gqmm_quote(a, t->name, strlen(t->name));
    if (next)
        return gqmm_fail(r->err, GQMM_E_FORMAT, offset_field(e),
                         "\"%s\" of %" PRId64 " bytes at %" PRIu64 " overlaps \"%s\" at %" PRIu64,
                         a, t->n_bytes < 0 ? 0 : t->n_bytes, t->offset,
                         gqmm_quote(b, next, strlen(next)), end);
    return gqmm_fail(r->err, GQMM_E_FORMAT, offset_field(e),
                     "\"%s\" of %" PRId64 " bytes at %" PRIu64
                     " passes the end of the file at %" PRIu64,
                     a, t->n_bytes < 0 ? 1 : t->n_bytes, t->offset, end);
}

/* Data begins at the next multiple of the alignment; every tensor lies aligned, inside the file and
 * apart from the others. Empty tensors take no place. */
static gqmm_status place_tensors(reader *r, uint32_t *order)
{
    gqmm_file *f = r->f;
    const uint64_t size = f->map.size;
    char quoted[GQMM_QUOTE_SIZE];
    size_t n = 0;

    r->data_start = (r->c.pos + r->alignment - 1) & ~(r->alignment - 1);
    for (size_t i = 0; i < f->n_tensors; i++) {
        gqmm_tensor *t = &f->tensors[i].pub;
        const uint64_t relative = t->offset;
        bool inside;

        gqmm_quote(quoted, t->name, strlen(t->name));
        if (relative % r->alignment != 0)
            return gqmm_fail(r->err, GQMM_E_FORMAT, offset_field(&f->tensors[i]),
                             "\"%s\" has offset %" PRIu64 ", no multiple of the alignment %" PRIu64,
                             quoted, relative, r->alignment);
        inside = r->data_start <= size && relative <= size - r->data_start;
        if (!inside && f->tensors[i].n_elems != 0)
            return gqmm_fail(r->err, GQMM_E_FORMAT, offset_field(&f->tensors[i]),
                             "\"%s\" has offset %" PRIu64 " from %" PRIu64
                             ", past the end of the file at %" PRIu64,
                             quoted, relative, r->data_start, size);
        t->offset = inside ? r->data_start + relative : size;
        t->data = f->map.bytes + t->offset;
        if (f->tensors[i].n_elems != 0)
            order[n++] = (uint32_t)i;
    }
    gqmm_sort(order, n, offset_less, f);
    for (size_t i = 0; i < n; i++) {
        const gqmm_tensor *next = i + 1 < n ? &f->tensors[order[i + 1]].pub : NULL;
        const gqmm_status status =
            place(r, &f->tensors[order[i]], next ? next->offset : size, next ? next->name : NULL);
        if (status != GQMM_OK)
            return status;
    }
    return GQMM_OK;
}

gqmm_status gqmm_gguf_read(gqmm_file *f, gqmm_error *err)
{
    reader r = {.f = f, .c = {.bytes = f->map.bytes, .size = f->map.size}, .err = err};
    uint64_t n_tensors = 0, n_metas = 0;
    gqmm_status status = read_header(&r, &n_tensors, &n_metas);
    uint32_t *order;

    if (status == GQMM_OK)
        status = gqmm_file_alloc_metas(f, (size_t)n_metas, err);
    for (uint64_t i = 0; status == GQMM_OK && i < n_metas; i++)
        status = read_meta(&r, i);
    if (status == GQMM_OK)
        status = gqmm_file_index_metas(f, err);
    if (status == GQMM_OK)
        status = read_alignment(&r);
    /* Again, now that the metadata has taken its part of the bytes. */
    if (status == GQMM_OK && n_tensors > gqmm_cursor_left(&r.c) / MIN_TENSOR_BYTES)
        status = gqmm_fail(err, GQMM_E_FORMAT, 8,
                           "%" PRIu64 " tensors cannot fit in the %zu bytes left after the keys",
                           n_tensors, gqmm_cursor_left(&r.c));
    if (status == GQMM_OK)
        status = gqmm_file_alloc_tensors(f, (size_t)n_tensors, err);
    for (uint64_t i = 0; status == GQMM_OK && i < n_tensors; i++)
        status = read_tensor(&r, i);
    if (status == GQMM_OK)
        status = gqmm_file_index_tensors(f, err);
    if (status != GQMM_OK)
        return status;
    order = gqmm_alloc_raw(&f->alloc, f->n_tensors, sizeof *order);
    if (!order)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory to order %zu tensors", f->n_tensors);
    status = place_tensors(&r, order);
    gqmm_release(&f->alloc, order, f->n_tensors, sizeof *order);
    return status;
}
