/* SPDX-License-Identifier: MIT */
/* safetensors: u64 length, a JSON object {name: {dtype, shape, data_offsets}}, data. As strict as
 * the format's own reader: the tensors must cover the data exactly, without gap or overlap. */
#include "base/num.h"
#include "base/status.h"
#include "io/file.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

enum { MAX_HEADER = 100000000, MAX_DIMS = 8 };

/* Formats are named here by what gqmm computes with; the rest only has a size. */
static const struct {
    const char *name;
    int32_t bits;
    const char *format;
} dtypes[] = {
    {"F32", 32, "f32"},   {"F16", 16, "f16"},   {"BF16", 16, "bf16"}, {"F64", 64, NULL},
    {"C64", 64, NULL},    {"I64", 64, NULL},    {"I32", 32, NULL},    {"I16", 16, NULL},
    {"I8", 8, NULL},      {"U64", 64, NULL},    {"U32", 32, NULL},    {"U16", 16, NULL},
    {"U8", 8, NULL},      {"BOOL", 8, NULL},    {"F8_E4M3", 8, NULL}, {"F8_E5M2", 8, NULL},
    {"F8_E8M0", 8, NULL}, {"F6_E2M3", 6, NULL}, {"F6_E3M2", 6, NULL}, {"F4", 4, NULL},
};

typedef struct reader {
    gqmm_file *f;
    uint64_t header_size, data_start;
    gqmm_error *err;
} reader;

/* Where `"name" :` stands in the header, for messages: the JSON library keeps no positions. 8, the
 * start of the header, for a name that is written with escapes. */
static uint64_t position(const reader *r, const char *name)
{
    const uint8_t *p = r->f->map.bytes + 8, *end = p + r->header_size;
    const size_t n = strlen(name);

    while ((size_t)(end - p) > n + 2 && (p = memchr(p, '"', (size_t)(end - p) - n - 2)) != NULL) {
        if (memcmp(p + 1, name, n) == 0 && p[n + 1] == '"') {
            const uint8_t *after = p + n + 2;
            while (after < end && memchr(" \t\r\n", *after, 4))
                after++;
            if (after < end && *after == ':')
                return (uint64_t)(p - r->f->map.bytes);
        }
        p++;
    }
    return 8;
}

static gqmm_status no_memory(const reader *r)
{
    return gqmm_fail(r->err, GQMM_E_NOMEM, 0,
                     "no memory for the safetensors header of %" PRIu64 " bytes", r->header_size);
}

/* The header's object, or NULL with *status set. */
static json_t *load_header(reader *r, gqmm_status *status)
{
    const gqmm_file *f = r->f;
    char quoted[GQMM_QUOTE_SIZE];
    json_error_t why = {0};
    json_t *root;

    memcpy(&r->header_size, f->map.bytes, 8);
    if (r->header_size > MAX_HEADER || r->header_size > f->map.size - 8) {
        *status = gqmm_fail(r->err, GQMM_E_FORMAT, 0,
                            "a safetensors header of %" PRIu64
                            " bytes, but %zu are left and at most %d are allowed",
                            r->header_size, f->map.size - 8, MAX_HEADER);
        return NULL;
    }
    r->data_start = 8 + r->header_size;
    root = json_loadb((const char *)f->map.bytes + 8, (size_t)r->header_size,
                      JSON_REJECT_DUPLICATES, &why);
    if (root && json_is_object(root))
        return root;
    json_decref(root);
    /* Where the library runs out of memory it mostly says nothing at all. In the middle of a string
     * it takes that for a syntax error, and so must we. */
    if (!root && !why.text[0])
        *status = no_memory(r);
    else
        *status =
            gqmm_fail(r->err, GQMM_E_FORMAT, 8 + (uint64_t)(why.position > 0 ? why.position : 0),
                      "the safetensors header is not a JSON object: %s",
                      gqmm_quote(quoted, why.text, strlen(why.text)));
    return NULL;
}

/* A string as the GGUF getters expect it: its length, then its bytes. */
static gqmm_status read_meta(reader *r, size_t i, const char *key, const json_t *value)
{
    gqmm_meta_entry *e = &r->f->metas[i];
    const uint64_t length = json_string_length(value);
    char quoted[GQMM_QUOTE_SIZE];
    char *raw;

    if (!json_is_string(value))
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, key),
                         "the value of \"%s\" in __metadata__ is not a string",
                         gqmm_quote(quoted, key, strlen(key)));
    if (length > GQMM_MAX_STRING)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, key),
                         "the value of \"%s\" has %" PRIu64 " bytes, at most %u are allowed",
                         gqmm_quote(quoted, key, strlen(key)), length, GQMM_MAX_STRING);
    raw = gqmm_file_room(r->f, 8 + (size_t)length);
    e->pub.key = gqmm_file_keep(r->f, key, strlen(key));
    if (!raw || !e->pub.key)
        return no_memory(r);
    memcpy(raw, &length, 8);
    memcpy(raw + 8, json_string_value(value), (size_t)length);
    e->n_bytes = 8 + length;
    e->pub.raw = raw;
    e->pub.n = 1;
    e->pub.kind = e->pub.item_kind = GQMM_META_STRING;
    e->pub.gguf_type = e->pub.item_type = 8; /* GGUF's string */
    return GQMM_OK;
}

static gqmm_status read_metas(reader *r, json_t *metas)
{
    gqmm_status status;
    const char *key;
    json_t *value;
    size_t n = 0;

    if (metas && !json_is_object(metas))
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, "__metadata__"),
                         "__metadata__ is not an object");
    if (json_object_size(metas) > GQMM_MAX_METAS)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, "__metadata__"),
                         "__metadata__ has %zu keys, at most %u are allowed",
                         json_object_size(metas), GQMM_MAX_METAS);
    status = gqmm_file_alloc_metas(r->f, json_object_size(metas), r->err);
    if (status != GQMM_OK)
        return status;
    json_object_foreach(metas, key, value)
    {
        if ((status = read_meta(r, n++, key, value)) != GQMM_OK)
            return status;
    }
    return gqmm_file_index_metas(r->f, r->err);
}

/* A count from JSON: an integer, not negative, not above `limit`. */
static bool get_count(int64_t *n, const json_t *value, int64_t limit)
{
    *n = json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
    return *n >= 0 && *n <= limit;
}

static gqmm_status read_shape(reader *r, gqmm_tensor *t, int64_t *n_elems, const json_t *shape)
{
    const size_t n = json_array_size(shape);
    char quoted[GQMM_QUOTE_SIZE];
    bool fits = true;

    gqmm_quote(quoted, t->name, strlen(t->name));
    if (!json_is_array(shape) || n > MAX_DIMS)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, t->name),
                         "the shape of \"%s\" is not an array of at most %d sizes", quoted,
                         MAX_DIMS);
    t->n_dims = (int32_t)n;
    *n_elems = 1;
    for (size_t d = 0; d < n; d++) {
        int64_t *dim = &t->dims[n - 1 - d]; /* the last of a shape is contiguous */
        if (!get_count(dim, json_array_get(shape, d), GQMM_MAX_DIM))
            return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, t->name),
                             "size %zu in the shape of \"%s\" is not a number from 0 to %" PRId64,
                             d, quoted, GQMM_MAX_DIM);
        fits = fits && gqmm_mul(n_elems, *n_elems, *dim);
    }
    if (!fits)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, t->name),
                         "the size of \"%s\" passes 2^63", quoted);
    return GQMM_OK;
}

/* data_offsets [begin, end) against the data that is there and the bytes that the shape asks for.
 */
static gqmm_status read_offsets(reader *r, gqmm_tensor_entry *e, int32_t bits,
                                const json_t *offsets)
{
    const uint64_t n_data = r->f->map.size - r->data_start;
    gqmm_tensor *t = &e->pub;
    char quoted[GQMM_QUOTE_SIZE];
    int64_t begin, end, n_bits;

    gqmm_quote(quoted, t->name, strlen(t->name));
    if (json_array_size(offsets) != 2 ||
        !get_count(&begin, json_array_get(offsets, 0), INT64_MAX) ||
        !get_count(&end, json_array_get(offsets, 1), INT64_MAX) || begin > end)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, t->name),
                         "the data_offsets of \"%s\" are not two numbers in order", quoted);
    if ((uint64_t)end > n_data)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, t->name),
                         "\"%s\" ends at byte %" PRId64 " of the data, which has %" PRIu64, quoted,
                         end, n_data);
    if (!gqmm_mul(&n_bits, e->n_elems, bits) || n_bits % 8 != 0 || n_bits / 8 != end - begin)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, t->name),
                         "\"%s\" has %" PRId64 " elements of %" PRId32 " bits in %" PRId64 " bytes",
                         quoted, e->n_elems, bits, end - begin);
    t->n_bytes = end - begin;
    t->offset = r->data_start + (uint64_t)begin;
    t->data = r->f->map.bytes + t->offset;
    return GQMM_OK;
}

static gqmm_status read_tensor(reader *r, size_t i, const char *name, const json_t *value)
{
    const size_t n_dtypes = sizeof dtypes / sizeof dtypes[0];
    gqmm_tensor_entry *e = &r->f->tensors[i];
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    const gqmm_format *format;
    char quoted[GQMM_QUOTE_SIZE], type_quoted[GQMM_QUOTE_SIZE];
    gqmm_status status;
    size_t d = 0;

    e->pub.type = -1;
    e->pub.name = gqmm_file_keep(r->f, name, strlen(name));
    if (!e->pub.name)
        return no_memory(r);
    while (dtype && d < n_dtypes && strcmp(dtypes[d].name, dtype) != 0)
        d++;
    if (!dtype || d == n_dtypes)
        return gqmm_fail(r->err, GQMM_E_FORMAT, position(r, name), "\"%s\" has %s dtype%s%s",
                         gqmm_quote(quoted, name, strlen(name)), dtype ? "the unknown" : "no",
                         dtype ? " " : "",
                         dtype ? gqmm_quote(type_quoted, dtype, strlen(dtype)) : "");
    format = dtypes[d].format ? gqmm_format_find(dtypes[d].format) : NULL;
    e->pub.format = format ? format->name : NULL;
    e->pub.type_name = dtypes[d].name;
    status = read_shape(r, &e->pub, &e->n_elems, json_object_get(value, "shape"));
    if (status != GQMM_OK)
        return status;
    return read_offsets(r, e, dtypes[d].bits, json_object_get(value, "data_offsets"));
}

/* By begin, empty tensors before the one that starts where they lie. */
static bool begins_before(const void *ctx, uint32_t a, uint32_t b)
{
    const gqmm_tensor *x = &((const gqmm_file *)ctx)->tensors[a].pub;
    const gqmm_tensor *y = &((const gqmm_file *)ctx)->tensors[b].pub;
    if (x->offset != y->offset)
        return x->offset < y->offset;
    return x->n_bytes < y->n_bytes || (x->n_bytes == y->n_bytes && a < b);
}

static gqmm_status check_cover(reader *r)
{
    gqmm_file *f = r->f;
    uint32_t *order = gqmm_alloc_raw(&f->alloc, f->n_tensors, sizeof *order);
    gqmm_status status = GQMM_OK;
    uint64_t end = r->data_start;
    char quoted[GQMM_QUOTE_SIZE];

    if (!order)
        return no_memory(r);
    for (size_t i = 0; i < f->n_tensors; i++)
        order[i] = (uint32_t)i;
    gqmm_sort(order, f->n_tensors, begins_before, f);
    for (size_t i = 0; status == GQMM_OK && i < f->n_tensors; i++) {
        const gqmm_tensor *t = &f->tensors[order[i]].pub;
        if (t->offset != end)
            status = gqmm_fail(
                r->err, GQMM_E_FORMAT, position(r, t->name),
                "\"%s\" begins at byte %" PRIu64 " of the file, %s byte %" PRIu64,
                gqmm_quote(quoted, t->name, strlen(t->name)), t->offset,
                t->offset < end ? "but what lies before it reaches" : "leaving a gap from", end);
        end = t->offset + (uint64_t)t->n_bytes;
    }
    if (status == GQMM_OK && end != f->map.size)
        status =
            gqmm_fail(r->err, GQMM_E_FORMAT, end,
                      "the tensors end at byte %" PRIu64 ", the file at %zu", end, f->map.size);
    gqmm_release(&f->alloc, order, f->n_tensors, sizeof *order);
    return status;
}

static gqmm_status read_tensors(reader *r, json_t *root)
{
    const size_t has_metas = json_object_get(root, "__metadata__") != NULL;
    const size_t n_tensors = json_object_size(root) - has_metas;
    gqmm_status status;
    const char *name;
    json_t *value;
    size_t n = 0;

    if (n_tensors > GQMM_MAX_TENSORS)
        return gqmm_fail(r->err, GQMM_E_FORMAT, 8, "%zu tensors, at most %u are allowed", n_tensors,
                         GQMM_MAX_TENSORS);
    if ((status = gqmm_file_alloc_tensors(r->f, n_tensors, r->err)) != GQMM_OK)
        return status;
    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if ((status = read_tensor(r, n++, name, value)) != GQMM_OK)
            return status;
    }
    if ((status = gqmm_file_index_tensors(r->f, r->err)) != GQMM_OK)
        return status;
    return check_cover(r);
}

gqmm_status gqmm_safetensors_read(gqmm_file *f, gqmm_error *err)
{
    reader r = {.f = f, .err = err};
    gqmm_status status = GQMM_OK;
    json_t *root = load_header(&r, &status);

    if (!root)
        return status;
    f->kind = "safetensors";
    status = read_metas(&r, json_object_get(root, "__metadata__"));
    if (status == GQMM_OK)
        status = read_tensors(&r, root);
    json_decref(root);
    return status;
}
