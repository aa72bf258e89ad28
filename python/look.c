/* SPDX-License-Identifier: MIT */
/* Where the arrays of a call lie, for packages that tell it through Python's buffer protocol alone
 * (MLX): one call in place of five memoryviews. The library is compiled against no Python; what is
 * used of it comes as addresses, and Py_buffer has had this layout since Python 3.0. Called through
 * ctypes.PyDLL, so with the GIL, which also raises the exceptions that are left set here. */
#include <gqmm.h>
#include <string.h>

typedef struct buffer {
    void *at;
    void *owner;
    ptrdiff_t bytes, itemsize;
    int readonly, ndim;
    const char *format;
    ptrdiff_t *shape, *strides, *suboffsets;
    void *internal;
} buffer;

enum { N = 6, MOST_DIMS = 8, STRIDES_AND_FORMAT = 0x0018 | 0x0004 };

static int (*get)(void *object, buffer *view, int flags);
static void (*release)(buffer *view);
static void *(*bytes_of)(const char *data, ptrdiff_t size);
static void *none;

GQMM_API void gqmm_look_with(int (*get_buffer)(void *, buffer *, int),
                             void (*release_buffer)(buffer *),
                             void *(*new_bytes)(const char *, ptrdiff_t), void *none_object);
void gqmm_look_with(int (*get_buffer)(void *, buffer *, int), void (*release_buffer)(buffer *),
                    void *(*new_bytes)(const char *, ptrdiff_t), void *none_object)
{
    get = get_buffer;
    release = release_buffer;
    bytes_of = new_bytes;
    none = none_object;
}

/* Appends what describes an array besides its address; false: too many dimensions. */
static int describe(int64_t *out, int *n, const buffer *b)
{
    char format[8] = {0};
    int64_t word;
    if (b->ndim > MOST_DIMS || !b->shape || !b->strides || b->suboffsets)
        return 0;
    strncpy(format, b->format ? b->format : "B", sizeof format - 1);
    memcpy(&word, format, sizeof word);
    out[(*n)++] = word;
    out[(*n)++] = b->ndim * 256 + b->itemsize;
    for (int i = 0; i < b->ndim; i++) {
        out[(*n)++] = b->shape[i];
        out[(*n)++] = b->strides[i];
    }
    return 1;
}

/* bytes: the addresses of x, lhs and rhs, then what tells calls apart (of these three addresses
 * only how they are aligned); empty where that cannot be said. NULL with an exception. */
GQMM_API void *gqmm_look(void *x, void *lhs, void *rhs, void *w, void *scales, void *biases);
void *gqmm_look(void *x, void *lhs, void *rhs, void *w, void *scales, void *biases)
{
    void *const objects[N] = {x, lhs, rhs, w, scales, biases};
    int64_t out[4 + N * (3 + 2 * MOST_DIMS)] = {0};
    int n = 4, known = 1;
    for (int i = 0; i < N && known; i++) {
        buffer b;
        if (objects[i] == none) {
            out[n++] = -1;
            continue;
        }
        if (get(objects[i], &b, STRIDES_AND_FORMAT) != 0)
            return NULL;
        const int64_t at = (int64_t)(uintptr_t)b.at;
        if (i < 3) {
            out[i] = at;
            out[3] |= at & 3;
        } else {
            out[n++] = at;
        }
        known = describe(out, &n, &b);
        release(&b);
    }
    return bytes_of((const char *)out, known ? n * (ptrdiff_t)sizeof *out : 0);
}
