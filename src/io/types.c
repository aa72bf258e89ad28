/* SPDX-License-Identifier: MIT */
#include "io/types.h"

#include "base/num.h"
#include "base/status.h"
#include "io/file.h"

#include <inttypes.h>
#include <string.h>

/* Names of the ggml types. Sizes stand here only for types that gqmm has no format for; Q8_1 and
 * Q2_0 have none because they differ between versions of ggml. */
static const struct {
    int32_t id;
    const char *name;
    int32_t block, bytes;
} types[] = {
    {0, "F32", 0, 0},        {1, "F16", 0, 0},         {2, "Q4_0", 0, 0},
    {3, "Q4_1", 0, 0},       {6, "Q5_0", 0, 0},        {7, "Q5_1", 0, 0},
    {8, "Q8_0", 0, 0},       {9, "Q8_1", 0, 0},        {10, "Q2_K", 0, 0},
    {11, "Q3_K", 0, 0},      {12, "Q4_K", 0, 0},       {13, "Q5_K", 0, 0},
    {14, "Q6_K", 0, 0},      {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 0, 0},    {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 0, 0},    {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},       {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},  {30, "BF16", 0, 0},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},  {39, "MXFP4", 0, 0},      {40, "NVFP4", 0, 0},
    {41, "Q1_0", 128, 18},   {42, "Q2_0", 0, 0},
};

gqmm_ggml_type gqmm_ggml_type_of(int32_t id)
{
    gqmm_ggml_type type = {.id = id, .format = gqmm_format_find_gguf(id)};

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].id == id) {
            type.name = types[i].name;
            type.block = types[i].block;
            type.bytes = types[i].bytes;
        }
    }
    if (type.format) {
        type.block = type.format->block_elems;
        type.bytes = type.format->plane_bytes[0];
    }
    return type;
}

gqmm_ggml_type gqmm_ggml_type_find(const char *name)
{
    const gqmm_format *format = gqmm_format_find(name);

    if (format && format->gguf_type >= 0)
        return gqmm_ggml_type_of(format->gguf_type);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(types[i].name, name) == 0)
            return gqmm_ggml_type_of(types[i].id);
    }
    return (gqmm_ggml_type){.id = -1};
}

gqmm_status gqmm_tensor_bytes(int64_t *n_elems, int64_t *n_bytes, const gqmm_ggml_type *type,
                              const char *name, int32_t n_dims, const int64_t *dims,
                              uint64_t offset, gqmm_error *err)
{
    const int64_t k = n_dims > 0 ? dims[0] : 1;
    const bool sized = type->block > 0;
    char quoted[GQMM_QUOTE_SIZE];
    int64_t elems = 1, bytes;
    bool fits = true;

    *n_elems = 0;
    *n_bytes = -1;
    gqmm_quote(quoted, name, strlen(name));
    for (int32_t d = 0; d < n_dims; d++) {
        if (dims[d] < 0 || dims[d] > GQMM_MAX_DIM)
            return gqmm_fail(err, GQMM_E_FORMAT, offset,
                             "dimension %" PRId32 " of \"%s\" is %" PRId64
                             ", expected 0 to %" PRId64,
                             d, quoted, dims[d], GQMM_MAX_DIM);
        fits = fits && gqmm_mul(&elems, elems, dims[d]);
    }
    if (sized && k % type->block != 0)
        return gqmm_fail(err, GQMM_E_FORMAT, offset,
                         "\"%s\" has rows of %" PRId64 " elements, no multiple of %s's block of "
                         "%" PRId32,
                         quoted, k, type->name ? type->name : type->format->name, type->block);
    bytes = sized ? k / type->block : 0;
    fits = fits && gqmm_mul(&bytes, bytes, type->bytes);
    for (int32_t d = 1; d < n_dims; d++)
        fits = fits && gqmm_mul(&bytes, bytes, dims[d]);
    if (!fits)
        return gqmm_fail(err, GQMM_E_FORMAT, offset, "the size of \"%s\" passes 2^63", quoted);
    *n_elems = elems;
    *n_bytes = sized ? bytes : elems == 0 ? 0 : -1;
    return GQMM_OK;
}
