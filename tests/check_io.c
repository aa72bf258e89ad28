/* SPDX-License-Identifier: MIT */
/* The readers of files, with images built here: what is valid, and one image for each way not to
 * be, with the sentence and the byte that it must be refused with. */
#include "io_image.h"

#include <jansson.h>

/* Byte positions, used by the table of faults:
 *     0 magic  4 version  8 n_tensors  16 n_keys
 *    24 "general.name"  44 type 8      48 "tiny"
 *    60 "n"             69 type 4      73 value
 *    77 "m"             86 type 9      90 item type 8  94 count 2  102 "a"  111 "bc"
 *   121 "x"            130 n_dims 1   134 32           142 type 8 (Q8_0)  146 offset 0
 *   154 "y"            163 n_dims 2   167 4, 175 2     183 type 0 (F32)   187 offset 64
 *   224 data of x, 34 bytes           288 data of y, 32 bytes             320 the end */
static image good_gguf(void)
{
    image m = {.n = 0};
    put_head(&m, 2, 3);
    put_text(&m, "general.name");
    put_int(&m, 8, 4);
    put_text(&m, "tiny");
    put_text(&m, "n");
    put_int(&m, 4, 4);
    put_int(&m, 4000000000u, 4);
    put_text(&m, "m");
    put_int(&m, 9, 4);
    put_int(&m, 8, 4);
    put_int(&m, 2, 8);
    put_text(&m, "a");
    put_text(&m, "bc");
    put_tensor(&m, "x", 1, (int64_t[]){32}, 8, 0);
    put_tensor(&m, "y", 2, (int64_t[]){4, 2}, 0, 64);
    pad(&m, 32);
    for (int i = 0; i < 96; i++)
        put_int(&m, (uint64_t)i, 1);
    return m;
}

/* ------------------------------------------------------------------ what is valid */

static void check_good_gguf(void)
{
    const image m = good_gguf();
    gqmm_error err = {0};
    gqmm_file *f = NULL;
    const gqmm_tensor *x, *y;
    const char *text = NULL;
    size_t length = 0;
    int64_t n = 0;
    double d;

    EXPECT(gqmm_file_parse(m.at, m.n, &counting, &f, &err) == GQMM_OK);
    if (!f)
        return;
    EXPECT(strcmp(gqmm_file_kind(f), "gguf") == 0 && gqmm_file_version(f) == 3);
    EXPECT(gqmm_file_size(f) == 320 && gqmm_file_tensor_count(f) == 2);
    EXPECT(gqmm_file_meta_count(f) == 3 && !gqmm_file_meta(f, "nn"));
    EXPECT(gqmm_meta_int(f, gqmm_file_meta(f, "n"), 0, &n) && n == 4000000000);
    EXPECT(!gqmm_meta_int(f, gqmm_file_meta(f, "n"), 1, &n));
    EXPECT(!gqmm_meta_float(f, gqmm_file_meta(f, "n"), 0, &d));
    EXPECT(!gqmm_meta_int(f, NULL, 0, &n) && !gqmm_file_tensor(f, NULL));
    EXPECT(gqmm_meta_string(f, gqmm_file_meta(f, "m"), 1, &text, &length) && length == 2 &&
           memcmp(text, "bc", 2) == 0);
    EXPECT(!gqmm_meta_string(f, gqmm_file_meta(f, "m"), 2, &text, &length));
    x = gqmm_file_tensor(f, "x");
    y = gqmm_file_tensor(f, "y");
    EXPECT(x && strcmp(x->type_name, "Q8_0") == 0 && x->n_bytes == 34 && x->offset == 224);
    EXPECT(x && x->format && strcmp(x->format, "q8_0") == 0 && x->data == m.at + 224);
    EXPECT(y && y->n_dims == 2 && y->dims[0] == 4 && y->dims[1] == 2 && y->n_bytes == 32);
    gqmm_file_close(f);
    EXPECT(n_live == 0);
}

/* Each value type as a scalar and as an array, read by the getter of its kind and by no other. */
static void check_values(void)
{
    static const size_t size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    static const int64_t want[] = {254, -2, 65534, -2, 4294967294, -2, 0, 1, 0, 0, 0, -2, 0};
    const float narrow = -2.0f;
    const double wide = -2.0;

    for (uint64_t type = 0; type < 13; type++) {
        image m = {.n = 0};
        gqmm_file *f = NULL;
        int64_t n = 0;
        double x = 0;
        if (size[type] == 0)
            continue;
        put_head(&m, 0, 2);
        for (int is_array = 0; is_array < 2; is_array++) {
            const int64_t value = type == 7 ? 1 : -2;
            put_text(&m, is_array ? "array" : "scalar");
            put_int(&m, is_array ? 9 : type, 4);
            if (is_array) {
                put_int(&m, type, 4);
                put_int(&m, 2, 8);
                put_int(&m, 0, size[type]);
            }
            put(&m,
                type == 6    ? (const void *)&narrow
                : type == 12 ? (const void *)&wide
                             : &value,
                size[type]);
        }
        EXPECT(gqmm_file_parse(m.at, m.n, NULL, &f, NULL) == GQMM_OK);
        for (uint64_t i = 0; f && i < 2; i++) {
            const gqmm_meta *meta = gqmm_file_meta(f, i ? "array" : "scalar");
            const gqmm_meta copy = *meta;
            const bool is_float = type == 6 || type == 12;
            EXPECT(gqmm_meta_float(f, meta, i, &x) == is_float && (!is_float || x == -2.0));
            EXPECT(gqmm_meta_int(f, meta, i, &n) == (!is_float && type != 10));
            EXPECT(is_float || type == 10 || n == want[type]);
            EXPECT(!gqmm_meta_string(f, meta, i, NULL, NULL));
            EXPECT(!gqmm_meta_int(f, &copy, 0, &n)); /* not the file's own */
        }
        gqmm_file_close(f);
    }
}

/* Types without a kernel: named and sized where ggml's size is known, else filling the room. */
static void check_other_types(void)
{
    image m = {.n = 0};
    gqmm_file *f = NULL;
    const gqmm_tensor *t;

    put_head(&m, 4, 0);
    put_tensor(&m, "iq2", 1, (int64_t[]){256}, 16, 0);
    put_tensor(&m, "new", 1, (int64_t[]){7}, 999, 96);
    put_tensor(&m, "none", 2, (int64_t[]){0, 4}, 999, 96);
    put_tensor(&m, "i32", 0, NULL, 26, 160);
    pad(&m, 32);
    for (int i = 0; i < 164; i++)
        put_int(&m, 0, 1);
    EXPECT(gqmm_file_parse(m.at, m.n, &counting, &f, NULL) == GQMM_OK);
    if (!f)
        return;
    t = gqmm_file_tensor(f, "iq2");
    EXPECT(t && !t->format && strcmp(t->type_name, "IQ2_XXS") == 0 && t->n_bytes == 66);
    t = gqmm_file_tensor(f, "new");
    EXPECT(t && !t->format && strcmp(t->type_name, "ggml type 999") == 0 && t->n_bytes == 64);
    t = gqmm_file_tensor(f, "none");
    EXPECT(t && t->n_bytes == 0);
    t = gqmm_file_tensor(f, "i32");
    EXPECT(t && t->n_dims == 0 && t->n_bytes == 4 && strcmp(t->type_name, "I32") == 0);
    gqmm_file_close(f);
    EXPECT(n_live == 0);
}

static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"mlx\"},"
    "\"b\":{\"dtype\":\"U32\",\"shape\":[2],\"data_offsets\":[12,20]},"
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[3,2],\"data_offsets\":[0,12]}}  ";

static void check_good_safetensors(void)
{
    const image m = safetensors(good_header, 20);
    gqmm_file *f = NULL;
    const gqmm_tensor *t;
    const char *text = NULL;
    size_t length = 0;

    EXPECT(gqmm_file_parse(m.at, m.n, &counting, &f, NULL) == GQMM_OK);
    if (!f)
        return;
    EXPECT(strcmp(gqmm_file_kind(f), "safetensors") == 0 && gqmm_file_version(f) == 0);
    EXPECT(gqmm_meta_string(f, gqmm_file_meta(f, "format"), 0, &text, &length) && length == 3);
    EXPECT(gqmm_file_tensor_count(f) == 2);
    t = gqmm_file_tensor_at(f, 0); /* in the file's order */
    EXPECT(strcmp(t->name, "b") == 0 && !t->format && strcmp(t->type_name, "U32") == 0);
    t = gqmm_file_tensor(f, "a");
    EXPECT(t && t->dims[0] == 2 && t->dims[1] == 3 && t->n_bytes == 12 && t->type == -1);
    EXPECT(t && t->format && strcmp(t->format, "bf16") == 0 &&
           ((const uint8_t *)t->data)[11] == 11);
    gqmm_file_close(f);
    EXPECT(n_live == 0);
}

/* ------------------------------------------------------------------ what is not */

static void expect_error(const image *m, gqmm_status status, uint64_t offset, const char *fragment)
{
    gqmm_error err = {0};
    const gqmm_status got = (largest = 0, walk(m->at, m->n, &counting, &err));

    if (got != status || err.offset != offset || !strstr(err.text, fragment))
        fail("status %d at %" PRIu64 " \"%s\", expected %d at %" PRIu64 " \"%s\"", (int)got,
             err.offset, err.text, (int)status, offset, fragment);
    EXPECT(n_live == 0 && largest <= 1024 + 16 * m->n);
}

static const struct {
    const char *name;
    struct {
        size_t at, n;
        uint64_t value;
    } patch[2];
    uint64_t offset;
    const char *fragment;
} faults[] = {
    {"magic", {{0, 4, 0x58585858}}, 0, "neither GGUF nor safetensors: 320 bytes"},
    {"version 1", {{4, 4, 1}}, 4, "version 1 is not supported"},
    {"version 4", {{4, 4, 4}}, 4, "version 4, expected 2 or 3"},
    {"big endian", {{4, 4, 0x03000000}}, 4, "big-endian"},
    {"tensor count", {{8, 8, (uint64_t)1 << 60}}, 8, "tensors cannot fit in the 296 bytes left"},
    {"tensor count after keys", {{8, 8, 11}}, 8, "11 tensors cannot fit in the 199 bytes left"},
    {"key count", {{16, 8, 22}}, 16, "22 keys cannot fit"},
    {"empty key", {{60, 8, 0}}, 60, "key 1 is empty"},
    {"zero byte in key", {{68, 1, 0}}, 68, "key 1 has a zero byte"},
    {"long key", {{60, 8, 1 << 17}}, 60, "at most 65535"},
    {"key past the end", {{60, 8, 300}}, 60, "key 1 has 300 bytes, but 252 are left"},
    {"key length wraps", {{60, 8, UINT64_MAX}}, 60, "at most 65535"},
    {"value type", {{69, 4, 13}}, 69, "type 13, expected 0 to 12"},
    {"long string", {{48, 8, (uint64_t)1 << 40}}, 48, "at most 16777216"},
    {"string past the end", {{48, 8, 1000}}, 48, "but 264 are left"},
    {"two keys", {{85, 1, 'n'}}, 77, "both have the key \"n\""},
    {"array of arrays", {{90, 4, 9}}, 90, "arrays in arrays"},
    {"array item type", {{90, 4, 77}}, 90, "type 77, which is none"},
    {"array count", {{94, 8, UINT64_MAX / 8 + 1}}, 94, "items of at least 8 bytes, but 218"},
    {"array of integers", {{90, 4, 10}, {94, 8, 28}}, 94, "28 items of at least 8 bytes"},
    {"array string", {{111, 8, 4096}}, 111, "array string 1 has 4096 bytes, but 201 are left"},
    {"two tensors", {{162, 1, 'x'}}, 154, "tensors 0 and 1 are both named \"x\""},
    {"dimensions", {{130, 4, 5}}, 130, "\"x\" has 5 dimensions"},
    {"negative size", {{134, 8, UINT64_MAX}}, 134, "dimension 0 of \"x\" is -1"},
    {"no whole blocks", {{134, 8, 33}}, 134, "no multiple of Q8_0's block of 32"},
    {"size wraps", {{167, 8, (uint64_t)1 << 40}, {175, 8, (uint64_t)1 << 40}}, 167, "passes 2^63"},
    {"size near 2^63", {{167, 8, INT64_MAX}, {175, 8, 2}}, 167, "expected 0 to"},
    {"tensor type", {{142, 4, 0x80000000u}}, 142, "ggml type 2147483648, which is none"},
    {"offset alignment", {{146, 8, 1}}, 146, "offset 1, no multiple of the alignment 32"},
    {"offset", {{187, 8, (uint64_t)1 << 40}}, 187, "past the end of the file at 320"},
    {"offset wraps", {{187, 8, UINT64_MAX - 31}}, 187, "past the end of the file at 320"},
    {"same offset", {{187, 8, 0}}, 146, "\"x\" of 34 bytes at 224 overlaps \"y\" at 224"},
    {"overlap", {{187, 8, 32}}, 146, "\"x\" of 34 bytes at 224 overlaps \"y\" at 256"},
    {"past the end", {{175, 8, 3}}, 187, "\"y\" of 48 bytes at 288 passes the end"},
    {"unknown type past the end", {{183, 4, 99}, {187, 8, 96}}, 187, "passes the end"},
};

static void check_faults(void)
{
    char name[96];

    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        image m = good_gguf();
        const bool known = strstr(faults[i].name, "version 1") || strstr(faults[i].name, "endian");
        for (int p = 0; p < 2; p++)
            memcpy(m.at + faults[i].patch[p].at, &faults[i].patch[p].value, faults[i].patch[p].n);
        expect_error(&m, known ? GQMM_E_UNSUPPORTED : GQMM_E_FORMAT, faults[i].offset,
                     faults[i].fragment);
        snprintf(name, sizeof name, "gguf fault: %s", faults[i].name);
        report(name);
    }
}

static void check_alignment_key(void)
{
    /* 24 the key, 49 its type, 53 the value */
    static const struct {
        uint32_t type, value;
        const char *fragment;
        uint64_t offset;
    } cases[] = {
        {4, 3, "is 3, expected a power of two", 53},
        {4, 0, "is 0, expected a power of two", 53},
        {4, 1u << 21, "is 2097152, expected", 53},
        {6, 32, "has value type 6, expected an integer", 24},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        image m = {.n = 0};
        put_head(&m, 0, 1);
        put_text(&m, "general.alignment");
        put_int(&m, cases[i].type, 4);
        put_int(&m, cases[i].value, 4);
        expect_error(&m, GQMM_E_FORMAT, cases[i].offset, cases[i].fragment);
    }
}

#define ONE(dtype, shape, offsets) \
    "{\"w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
static const struct {
    const char *name, *header;
    size_t n_data;
    uint64_t offset;
    const char *fragment;
} st_faults[] = {
    {"no JSON", "{\"a\":", 0, 13, "not a JSON object"},
    {"twice", "{\"a\":1,\"a\":2}", 0, 18, "duplicate"},
    {"rest", "{} x", 0, 12, "not a JSON object"},
    {"metadata", "{\"__metadata__\":[]}", 0, 9, "__metadata__ is not an object"},
    {"metadata value", "{\"__metadata__\":{\"k\":1}}", 0, 25, "\"k\" in __metadata__ is not"},
    {"no dtype", "{\"w\":{}}", 0, 9, "\"w\" has no dtype"},
    {"no object", "{\"w\":3}", 0, 9, "\"w\" has no dtype"},
    {"dtype", ONE("F7", "[1]", "[0,1]"), 1, 9, "\"w\" has the unknown dtype F7"},
    {"shape", ONE("U8", "3", "[0,1]"), 1, 9, "the shape of \"w\" is not an array"},
    {"nine sizes", ONE("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, 9, "at most 8 sizes"},
    {"negative size", ONE("U8", "[1,-1]", "[0,1]"), 1, 9, "size 1 in the shape of \"w\""},
    {"real size", ONE("U8", "[1.0]", "[0,1]"), 1, 9, "size 0 in the shape"},
    {"wrap", ONE("U8", "[1099511627776,1099511627776]", "[0,0]"), 0, 9, "passes 2^63"},
    {"one offset", ONE("U8", "[1]", "[0]"), 1, 9, "not two numbers in order"},
    {"order", ONE("U8", "[1]", "[1,0]"), 1, 9, "not two numbers in order"},
    {"negative offset", ONE("U8", "[1]", "[-1,0]"), 1, 9, "not two numbers in order"},
    {"past the end", ONE("U8", "[2]", "[0,2]"), 1, 9, "ends at byte 2 of the data, which has 1"},
    {"far end", ONE("U8", "[1]", "[0,9223372036854775807]"), 1, 9, "which has 1"},
    {"shape and bytes", ONE("F32", "[2]", "[0,4]"), 4, 9, "2 elements of 32 bits in 4 bytes"},
    {"half a byte", ONE("F4", "[3]", "[0,1]"), 1, 9, "3 elements of 4 bits in 1 bytes"},
    {"gap", ONE("U8", "[1]", "[1,2]"), 2, 9, "leaving a gap from byte 61"},
    {"uncovered", ONE("U8", "[1]", "[0,1]"), 2, 62, "the tensors end at byte 62, the file at 63"},
};

static void check_safetensors_faults(void)
{
    image m = safetensors("{}", 0);
    char name[96];

    for (size_t i = 0; i < sizeof st_faults / sizeof st_faults[0]; i++) {
        const image bad = safetensors(st_faults[i].header, st_faults[i].n_data);
        expect_error(&bad, GQMM_E_FORMAT, st_faults[i].offset, st_faults[i].fragment);
        snprintf(name, sizeof name, "safetensors fault: %s", st_faults[i].name);
        report(name);
    }
    memset(m.at, 0xff, 8); /* the length of the header */
    expect_error(&m, GQMM_E_FORMAT, 0, "a safetensors header of 18446744073709551615 bytes");
    report("safetensors fault: header length");
    m = safetensors("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                    "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
                    3);
    expect_error(&m, GQMM_E_FORMAT, 61, "what lies before it reaches");
    report("safetensors fault: overlap");
}

/* Every prefix fails cleanly; every flipped bit of the header leaves a valid file or an error. The
 * bytes are copied to a block of their own size, so that reading past it shows. */
static void check_mutations(const image *m, size_t n_header)
{
    for (size_t n = 0; n < m->n; n++) {
        uint8_t *part = malloc(n ? n : 1);
        memcpy(part, m->at, n);
        EXPECT(walk(part, n, &counting, NULL) == GQMM_E_FORMAT && n_live == 0);
        free(part);
    }
    for (size_t bit = 0; bit < 8 * n_header; bit++) {
        uint8_t *flipped = malloc(m->n);
        memcpy(flipped, m->at, m->n);
        flipped[bit / 8] ^= (uint8_t)(1 << bit % 8);
        largest = 0;
        walk(flipped, m->n, &counting, NULL);
        EXPECT(n_live == 0 && largest <= 1024 + 16 * m->n);
        free(flipped);
    }
}

static void *json_alloc(size_t size)
{
    return n_allocs++ == fail_at ? NULL : malloc(size);
}

/* In a safetensors header a syntax error is let pass too: the JSON library reports some of its
 * failed allocations as one. */
static void check_no_memory(const image *m)
{
    const gqmm_status other = m->at[0] == 'G' ? GQMM_E_NOMEM : GQMM_E_FORMAT;
    gqmm_status status = GQMM_E_NOMEM;

    json_set_alloc_funcs(json_alloc, free);
    for (fail_at = 0; status != GQMM_OK && fail_at < 1000; fail_at++) {
        n_allocs = 0;
        status = walk(m->at, m->n, &counting, NULL);
        EXPECT(status == GQMM_OK || status == GQMM_E_NOMEM || status == other);
        EXPECT(n_live == 0);
    }
    EXPECT(status == GQMM_OK && fail_at > 5);
    fail_at = -1;
    json_set_alloc_funcs(malloc, free);
}

int main(void)
{
    const image gguf = good_gguf(), st = safetensors(good_header, 20);

    setvbuf(stdout, NULL, _IOLBF, 0);
    check_good_gguf();
    report("gguf");
    check_values();
    report("gguf values");
    check_other_types();
    report("gguf types without a kernel");
    check_good_safetensors();
    report("safetensors");
    check_faults();
    check_alignment_key();
    report("gguf fault: alignment");
    check_safetensors_faults();
    check_mutations(&gguf, 224);
    report("gguf cut and flipped");
    check_mutations(&st, st.n - 20);
    report("safetensors cut and flipped");
    check_no_memory(&gguf);
    report("gguf without memory");
    check_no_memory(&st);
    report("safetensors without memory");
    return finish("check_io");
}
