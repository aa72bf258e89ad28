/* SPDX-License-Identifier: MIT */
/* The object behind gqmm_file_*: opening, tables, lookup by name. */
#include "io/file.h"

#include "base/status.h"

#include <inttypes.h>
#include <string.h>

struct gqmm_chunk {
    gqmm_chunk *next;
    size_t size, used; /* of bytes */
    char bytes[];
};

gqmm_status gqmm_file_alloc_tensors(gqmm_file *f, size_t n, gqmm_error *err)
{
    f->tensors = gqmm_alloc(&f->alloc, n, sizeof *f->tensors);
    if (!f->tensors)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a table of %zu tensors", n);
    f->n_tensors = n;
    return GQMM_OK;
}

gqmm_status gqmm_file_alloc_metas(gqmm_file *f, size_t n, gqmm_error *err)
{
    f->metas = gqmm_alloc(&f->alloc, n, sizeof *f->metas);
    if (!f->metas)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a table of %zu keys", n);
    f->n_metas = n;
    return GQMM_OK;
}

char *gqmm_file_room(gqmm_file *f, size_t size)
{
    gqmm_chunk *chunk = f->chunks;

    if (!chunk || chunk->size - chunk->used < size) {
        /* Small files get small chunks: what is kept came from the file and fits its size. */
        size_t fresh = f->map.size < 16384 ? f->map.size : 16384;
        fresh = fresh < size ? size : fresh;
        chunk = gqmm_alloc_raw(&f->alloc, sizeof *chunk + fresh, 1);
        if (!chunk)
            return NULL;
        *chunk = (gqmm_chunk){.next = f->chunks, .size = fresh};
        f->chunks = chunk;
    }
    chunk->used += size;
    return chunk->bytes + (chunk->used - size);
}

char *gqmm_file_keep(gqmm_file *f, const void *bytes, size_t length)
{
    char *text = gqmm_file_room(f, length + 1);

    if (!text)
        return NULL;
    if (length)
        memcpy(text, bytes, length);
    text[length] = 0;
    return text;
}

static void sift_down(uint32_t *order, size_t root, size_t n,
                      bool (*less)(const void *, uint32_t, uint32_t), const void *ctx)
{
    const uint32_t moving = order[root];
    size_t child;

    while ((child = 2 * root + 1) < n) {
        if (child + 1 < n && less(ctx, order[child], order[child + 1]))
            child++;
        if (!less(ctx, moving, order[child]))
            break;
        order[root] = order[child];
        root = child;
    }
    order[root] = moving;
}

void gqmm_sort(uint32_t *order, size_t n, bool (*less)(const void *ctx, uint32_t a, uint32_t b),
               const void *ctx)
{
    size_t sorted = 1;

    while (sorted < n && !less(ctx, order[sorted], order[sorted - 1]))
        sorted++;
    if (sorted >= n)
        return;
    for (size_t i = n / 2; i-- > 0;)
        sift_down(order, i, n, less, ctx);
    for (size_t end = n; end-- > 1;) {
        const uint32_t largest = order[0];
        order[0] = order[end];
        order[end] = largest;
        sift_down(order, 0, end, less, ctx);
    }
}

/* Both entry types in one shape, so that sorting and searching exist once. Ties go to the file's
 * order, so that the later of two equal names is the one reported. */
static const char *tensor_name(const gqmm_file *f, uint32_t i)
{
    return f->tensors[i].pub.name;
}

static const char *meta_name(const gqmm_file *f, uint32_t i)
{
    return f->metas[i].pub.key;
}

static bool tensor_less(const void *ctx, uint32_t a, uint32_t b)
{
    const int order = strcmp(tensor_name(ctx, a), tensor_name(ctx, b));
    return order < 0 || (order == 0 && a < b);
}

static bool meta_less(const void *ctx, uint32_t a, uint32_t b)
{
    const int order = strcmp(meta_name(ctx, a), meta_name(ctx, b));
    return order < 0 || (order == 0 && a < b);
}

static uint32_t *new_order(gqmm_file *f, size_t n, gqmm_error *err)
{
    uint32_t *order = gqmm_alloc_raw(&f->alloc, n, sizeof *order);

    if (!order)
        gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory to index %zu names", n);
    for (size_t i = 0; order && i < n; i++)
        order[i] = (uint32_t)i;
    return order;
}

gqmm_status gqmm_file_index_tensors(gqmm_file *f, gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    uint32_t *order = f->tensor_order = new_order(f, f->n_tensors, err);

    if (!order)
        return GQMM_E_NOMEM;
    gqmm_sort(order, f->n_tensors, tensor_less, f);
    for (size_t i = 1; i < f->n_tensors; i++) {
        const char *name = tensor_name(f, order[i]);
        if (strcmp(tensor_name(f, order[i - 1]), name) == 0)
            return gqmm_fail(err, GQMM_E_FORMAT, f->tensors[order[i]].at,
                             "tensors %" PRIu32 " and %" PRIu32 " are both named \"%s\"",
                             order[i - 1], order[i], gqmm_quote(quoted, name, strlen(name)));
    }
    return GQMM_OK;
}

gqmm_status gqmm_file_index_metas(gqmm_file *f, gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    uint32_t *order = f->meta_order = new_order(f, f->n_metas, err);

    if (!order)
        return GQMM_E_NOMEM;
    gqmm_sort(order, f->n_metas, meta_less, f);
    for (size_t i = 1; i < f->n_metas; i++) {
        const char *key = meta_name(f, order[i]);
        if (strcmp(meta_name(f, order[i - 1]), key) == 0)
            return gqmm_fail(err, GQMM_E_FORMAT, f->metas[order[i]].at,
                             "entries %" PRIu32 " and %" PRIu32 " both have the key \"%s\"",
                             order[i - 1], order[i], gqmm_quote(quoted, key, strlen(key)));
    }
    return GQMM_OK;
}

/* Index of `name`, or -1. Binary search: no hash for a hostile file to collide. */
static int64_t find(const gqmm_file *f, const uint32_t *order, size_t n, const char *name,
                    const char *(*name_at)(const gqmm_file *f, uint32_t i))
{
    size_t low = 0, high = order ? n : 0;

    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        const int c = strcmp(name_at(f, order[mid]), name);
        if (c == 0)
            return order[mid];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return -1;
}

static gqmm_status read_any(gqmm_file *f, gqmm_error *err)
{
    const uint8_t *bytes = f->map.bytes;
    char quoted[GQMM_QUOTE_SIZE];

    if (f->map.size >= 4 && memcmp(bytes, "GGUF", 4) == 0)
        return gqmm_gguf_read(f, err);
    /* A safetensors header is an object right behind its 8-byte length. */
    if (f->map.size >= 9 && bytes[8] == '{')
        return gqmm_safetensors_read(f, err);
    return gqmm_fail(err, GQMM_E_FORMAT, 0,
                     "neither GGUF nor safetensors: %zu bytes that start with \"%s\"", f->map.size,
                     gqmm_quote(quoted, bytes, f->map.size < 8 ? f->map.size : 8));
}

/* Takes over `map`, also on failure. */
static gqmm_status create(gqmm_map *map, const char *path, const gqmm_allocator *alloc,
                          gqmm_file **out, gqmm_error *err)
{
    gqmm_status status;
    gqmm_file *f = gqmm_alloc(alloc, 1, sizeof *f);

    if (!f) {
        gqmm_map_close(map, alloc);
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a file object");
    }
    f->alloc = *alloc;
    f->map = *map;
    status = read_any(f, err);
    if (status == GQMM_OK && path)
        status = gqmm_map_check(&f->map, path, err);
    if (status != GQMM_OK) {
        gqmm_file_close(f);
        return status;
    }
    *out = f;
    return GQMM_OK;
}

gqmm_status gqmm_file_open(const char *path, uint32_t flags, const gqmm_allocator *allocator,
                           gqmm_file **out, gqmm_error *err)
{
    gqmm_allocator alloc;
    gqmm_status status;
    gqmm_map map;

    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!path)
        return gqmm_fail(err, GQMM_E_ARG, 0, "path is NULL");
    if (flags & ~(uint32_t)GQMM_FILE_NO_MMAP)
        return gqmm_fail(err, GQMM_E_ARG, 0, "unknown flags 0x%" PRIx32, flags);
    if ((status = gqmm_allocator_init(&alloc, allocator, err)) != GQMM_OK)
        return status;
    if ((status = gqmm_map_open(&map, path, flags, &alloc, err)) != GQMM_OK)
        return status;
    return create(&map, path, &alloc, out, err);
}

gqmm_status gqmm_file_parse(const void *bytes, size_t size, const gqmm_allocator *allocator,
                            gqmm_file **out, gqmm_error *err)
{
    gqmm_allocator alloc;
    gqmm_status status;
    gqmm_map map = {.bytes = bytes, .size = size, .how = GQMM_MAP_BORROWED};

    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!bytes && size)
        return gqmm_fail(err, GQMM_E_ARG, 0, "bytes is NULL");
    if ((status = gqmm_allocator_init(&alloc, allocator, err)) != GQMM_OK)
        return status;
    if (size == 0)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "the file is empty");
    return create(&map, NULL, &alloc, out, err);
}

void gqmm_file_close(gqmm_file *f)
{
    if (!f)
        return;
    const gqmm_allocator alloc = f->alloc;
    for (size_t i = 0; i < f->n_metas; i++)
        gqmm_release(&alloc, f->metas[i].items, (size_t)f->metas[i].pub.n, sizeof(uint64_t));
    gqmm_release(&alloc, f->metas, f->n_metas, sizeof *f->metas);
    gqmm_release(&alloc, f->tensors, f->n_tensors, sizeof *f->tensors);
    gqmm_release(&alloc, f->meta_order, f->n_metas, sizeof(uint32_t));
    gqmm_release(&alloc, f->tensor_order, f->n_tensors, sizeof(uint32_t));
    for (gqmm_chunk *chunk = f->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        gqmm_release(&alloc, chunk, sizeof *chunk + chunk->size, 1);
    }
    gqmm_map_close(&f->map, &alloc);
    gqmm_release(&alloc, f, 1, sizeof *f);
}

const char *gqmm_file_kind(const gqmm_file *f)
{
    return f->kind;
}

int32_t gqmm_file_version(const gqmm_file *f)
{
    return f->version;
}

uint64_t gqmm_file_size(const gqmm_file *f)
{
    return f->map.size;
}

int64_t gqmm_file_tensor_count(const gqmm_file *f)
{
    return (int64_t)f->n_tensors;
}

const gqmm_tensor *gqmm_file_tensor_at(const gqmm_file *f, int64_t i)
{
    return i >= 0 && (uint64_t)i < f->n_tensors ? &f->tensors[i].pub : NULL;
}

const gqmm_tensor *gqmm_file_tensor(const gqmm_file *f, const char *name)
{
    return gqmm_file_tensor_at(f, name ? find(f, f->tensor_order, f->n_tensors, name, tensor_name)
                                       : -1);
}

int64_t gqmm_file_meta_count(const gqmm_file *f)
{
    return (int64_t)f->n_metas;
}

const gqmm_meta *gqmm_file_meta_at(const gqmm_file *f, int64_t i)
{
    return i >= 0 && (uint64_t)i < f->n_metas ? &f->metas[i].pub : NULL;
}

const gqmm_meta *gqmm_file_meta(const gqmm_file *f, const char *key)
{
    return gqmm_file_meta_at(f, key ? find(f, f->meta_order, f->n_metas, key, meta_name) : -1);
}
