/* SPDX-License-Identifier: MIT */
/* Files on disk: opening, writing, and all that the operating system may refuse.
 * check_writer [tests/data] */
#include "io_image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------ files on disk */

static char folder[256];

static const char *in_folder(const char *name)
{
    static char path[2][320];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    EXPECT(file && fwrite(bytes, 1, n, file) == n);
    if (file)
        fclose(file);
}

static void expect_open(const char *path, uint32_t flags, gqmm_status status, const char *fragment)
{
    gqmm_error err = {0};
    gqmm_file *f = (gqmm_file *)&err;

    if (gqmm_file_open(path, flags, &counting, &f, &err) != status || f ||
        !strstr(err.text, fragment))
        fail("\"%s\", expected \"%s\"", err.text, fragment);
    EXPECT(n_live == 0);
}

static void check_open_errors(void)
{
    expect_open(in_folder("absent"), 0, GQMM_E_IO, strerror(ENOENT));
    expect_open(folder, 0, GQMM_E_IO, "is a directory, not a regular file");
    expect_open("/dev/null", 0, GQMM_E_IO, "is a device or a pipe");
    expect_open(in_folder("absent"), 8, GQMM_E_ARG, "unknown flags 0x8");
    expect_open(NULL, 0, GQMM_E_ARG, "path is NULL");
    write_file(in_folder("empty"), "", 0);
    expect_open(in_folder("empty"), GQMM_FILE_NO_MMAP, GQMM_E_FORMAT, "is empty");
    EXPECT(gqmm_file_open("x", 0, NULL, NULL, NULL) == GQMM_E_ARG);
}

/* Weights past 2^31 elements: a file that is one hole. */
static bool check_large(void)
{
    const int64_t n = ((int64_t)1 << 31) + 32;
    const char *path = in_folder("large");
    image m = {.n = 0};
    gqmm_file *f = NULL;
    const gqmm_tensor *t;

    put_head(&m, 1, 0);
    put_tensor(&m, "w", 2, (int64_t[]){n, 2}, 0, 0);
    pad(&m, 32);
    write_file(path, m.at, m.n);
    if (truncate(path, (off_t)m.n + n * 8) != 0) {
        unlink(path);
        return false;
    }
    EXPECT(gqmm_file_open(path, 0, NULL, &f, NULL) == GQMM_OK);
    t = f ? gqmm_file_tensor(f, "w") : NULL;
    EXPECT(t && t->n_bytes == n * 8 && ((const uint8_t *)t->data)[n * 8 - 1] == 0);
    gqmm_file_close(f);
    unlink(path);
    return true;
}

static void check_tiny(const gqmm_file *f)
{
    const gqmm_tensor *t = gqmm_file_tensor(f, "blk.1.ffn_down_exps.weight");
    const char *text = NULL;
    size_t length = 0;

    EXPECT(gqmm_file_tensor_count(f) == 27 && gqmm_file_meta_count(f) == 29);
    EXPECT(gqmm_meta_string(f, gqmm_file_meta(f, "general.architecture"), 0, &text, &length) &&
           length == 8 && memcmp(text, "qwen3moe", 8) == 0);
    EXPECT(gqmm_meta_string(f, gqmm_file_meta(f, "tokenizer.ggml.tokens"), 319, &text, &length) &&
           length == 10 && memcmp(text, "<|im_end|>", 10) == 0);
    EXPECT(t && t->n_dims == 3 && t->dims[0] == 32 && t->dims[1] == 64 && t->dims[2] == 5);
    EXPECT(t && strcmp(t->format, "f32") == 0 && t->n_bytes == 40960);
}

/* ------------------------------------------------------------------ writer */

static gqmm_status copy_file(const gqmm_file *f, const char *path, int32_t overwrite,
                             const gqmm_allocator *alloc, gqmm_error *err)
{
    gqmm_writer *w;
    gqmm_status status = gqmm_writer_create(path, overwrite, alloc, &w, err);

    for (int64_t i = 0; status == GQMM_OK && i < gqmm_file_meta_count(f); i++)
        status = gqmm_writer_meta_copy(w, f, gqmm_file_meta_at(f, i), err);
    for (int64_t i = 0; status == GQMM_OK && i < gqmm_file_tensor_count(f); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(f, i);
        status = gqmm_writer_tensor(w, t->name, t->format, t->n_dims, t->dims, err);
    }
    for (int64_t i = 0; status == GQMM_OK && i < gqmm_file_tensor_count(f); i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(f, i);
        const int64_t half = t->n_bytes / 2;
        status = gqmm_writer_data(w, t->data, (size_t)half, err);
        if (status == GQMM_OK)
            status = gqmm_writer_data(w, (const uint8_t *)t->data + half,
                                      (size_t)(t->n_bytes - half), err);
    }
    if (status == GQMM_OK)
        status = gqmm_writer_finish(w, err);
    gqmm_writer_destroy(w);
    return status;
}

static bool same_files(const gqmm_file *a, const gqmm_file *b)
{
    bool same = gqmm_file_meta_count(a) == gqmm_file_meta_count(b) &&
                gqmm_file_tensor_count(a) == gqmm_file_tensor_count(b);
    for (int64_t i = 0; same && i < gqmm_file_tensor_count(a); i++) {
        const gqmm_tensor *x = gqmm_file_tensor_at(a, i), *y = gqmm_file_tensor_at(b, i);
        same = strcmp(x->name, y->name) == 0 && x->type == y->type && x->n_dims == y->n_dims &&
               memcmp(x->dims, y->dims, sizeof x->dims) == 0 && x->n_bytes == y->n_bytes &&
               memcmp(x->data, y->data, (size_t)x->n_bytes) == 0;
    }
    return same;
}

/* With the same padding as the file that was read, a copy is the same file. */
static void check_round_trip(const gqmm_file *f, const void *bytes, size_t n)
{
    const char *path = in_folder("copy.gguf");
    gqmm_error err = {0};
    gqmm_file *g = NULL;
    struct stat st;

    if (copy_file(f, path, 0, &counting, &err) != GQMM_OK)
        fail("%s", err.text);
    EXPECT(n_live == 0 && gqmm_file_open(path, GQMM_FILE_NO_MMAP, NULL, &g, &err) == GQMM_OK);
    EXPECT(g && same_files(f, g) && gqmm_file_size(g) == n);
    gqmm_file_close(g);
    if (stat(path, &st) == 0 && (size_t)st.st_size == n) {
        uint8_t *copy = malloc(n);
        const int fd = open(path, O_RDONLY);
        EXPECT(read(fd, copy, n) == (ssize_t)n && memcmp(copy, bytes, n) == 0);
        close(fd);
        free(copy);
    }
    EXPECT(copy_file(f, path, 0, &counting, &err) == GQMM_E_IO && strstr(err.text, "exists"));
    EXPECT(copy_file(f, path, 1, &counting, &err) == GQMM_OK && n_live == 0);
    unlink(path);
}

static void check_writer_values(void)
{
    const char *path = in_folder("values.gguf");
    static const uint8_t data[64] = {1};
    gqmm_file *f = NULL;
    gqmm_writer *w;
    gqmm_error err = {0};
    int64_t n = 0;
    double x = 0;

    EXPECT(gqmm_writer_create(path, 0, &counting, &w, &err) == GQMM_OK);
    if (!w)
        return;
    EXPECT(gqmm_writer_meta_int(w, "i8", 1, -128, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_int(w, "u64", 10, INT64_MAX, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_int(w, "yes", 7, 1, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_float(w, "f32", 6, 0.5, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_float(w, "f64", 12, 0.1, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_string(w, "s", "text", 4, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_int(w, "general.alignment", 4, 64, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_int(w, "i8", 1, 0, &err) == GQMM_E_ARG && strstr(err.text, "already"));
    EXPECT(gqmm_writer_meta_string(w, "general.alignment", "x", 1, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_meta_float(w, "general.alignment", 6, 2.0, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_meta_int(w, "u8", 0, 256, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_meta_int(w, "f", 6, 1, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_meta_float(w, "i", 4, 1, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_meta_int(w, "", 4, 1, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_tensor(w, "a", "f16", 1, (int64_t[]){3}, &err) == GQMM_OK);
    EXPECT(gqmm_writer_tensor(w, "b", "I32", 1, (int64_t[]){2}, &err) == GQMM_OK);
    EXPECT(gqmm_writer_tensor(w, "a", "f16", 1, (int64_t[]){3}, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_tensor(w, "c", "q4_k", 1, (int64_t[]){3}, &err) == GQMM_E_SHAPE);
    EXPECT(gqmm_writer_tensor(w, "c", "f32", 1, (int64_t[]){0}, &err) == GQMM_E_SHAPE);
    EXPECT(gqmm_writer_tensor(w, "c", "no", 1, (int64_t[]){3}, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_tensor(w, "c", "f32", 5, (int64_t[]){1, 1, 1, 1, 1}, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_meta_int(w, "general.alignment", 4, 32, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_data(w, data, 13, &err) == GQMM_OK);
    EXPECT(gqmm_writer_meta_int(w, "late", 4, 1, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_finish(w, &err) == GQMM_E_ARG && strstr(err.text, "\"b\" has 7 of its 8"));
    EXPECT(gqmm_writer_data(w, data, 2, &err) == GQMM_E_ARG && strstr(err.text, "1 bytes follow"));
    EXPECT(access(path, F_OK) != 0);
    EXPECT(gqmm_writer_finish(w, &err) == GQMM_OK && access(path, F_OK) == 0);
    EXPECT(gqmm_writer_finish(w, &err) == GQMM_E_IO);
    gqmm_writer_destroy(w);
    EXPECT(n_live == 0 && gqmm_file_open(path, 0, NULL, &f, &err) == GQMM_OK);
    if (!f)
        return;
    EXPECT(gqmm_meta_int(f, gqmm_file_meta(f, "i8"), 0, &n) && n == -128);
    EXPECT(gqmm_meta_int(f, gqmm_file_meta(f, "u64"), 0, &n) && n == INT64_MAX);
    EXPECT(gqmm_meta_int(f, gqmm_file_meta(f, "yes"), 0, &n) && n == 1);
    EXPECT(gqmm_meta_float(f, gqmm_file_meta(f, "f32"), 0, &x) && x == 0.5);
    EXPECT(gqmm_meta_float(f, gqmm_file_meta(f, "f64"), 0, &x) && x == 0.1);
    EXPECT(gqmm_file_tensor(f, "b") && gqmm_file_tensor(f, "b")->offset % 64 == 0);
    gqmm_file_close(f);
    unlink(path);
}

/* Data past the write buffer goes around it, in order. */
static void check_large_data(void)
{
    const char *path = in_folder("big.gguf");
    const size_t n = 1000003;
    uint8_t *data = malloc(n);
    gqmm_file *f = NULL;
    gqmm_writer *w;

    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    EXPECT(gqmm_writer_create(path, 1, NULL, &w, NULL) == GQMM_OK);
    EXPECT(gqmm_writer_tensor(w, "w", "I8", 1, (int64_t[]){(int64_t)n}, NULL) == GQMM_OK);
    for (size_t at = 0, part = 1; at < n; at += part, part = part * 7 < n - at ? part * 7 : n - at)
        EXPECT(gqmm_writer_data(w, data + at, part, NULL) == GQMM_OK);
    EXPECT(gqmm_writer_finish(w, NULL) == GQMM_OK);
    gqmm_writer_destroy(w);
    EXPECT(gqmm_file_open(path, 0, NULL, &f, NULL) == GQMM_OK);
    EXPECT(f && memcmp(gqmm_file_tensor(f, "w")->data, data, n) == 0);
    gqmm_file_close(f);
    free(data);
    unlink(path);
}

static void check_writer_errors(const gqmm_file *f)
{
    gqmm_error err = {0};
    gqmm_writer *w;

    EXPECT(copy_file(f, in_folder("absent/x"), 0, &counting, &err) == GQMM_E_IO &&
           strstr(err.text, strerror(ENOENT)));
    EXPECT(copy_file(f, folder, 1, &counting, &err) == GQMM_E_IO);
    EXPECT(copy_file(f, "/dev/null", 1, &counting, &err) == GQMM_E_IO &&
           strstr(err.text, "not a regular file"));
    EXPECT(copy_file(f, "", 1, &counting, &err) == GQMM_E_ARG);
    EXPECT(gqmm_writer_create(in_folder("dropped"), 0, &counting, &w, &err) == GQMM_OK);
    gqmm_writer_destroy(w); /* nothing stays: rmdir at the end says so */
    /* Another process finishes first: its file stays. */
    EXPECT(gqmm_writer_create(in_folder("race"), 0, &counting, &w, &err) == GQMM_OK);
    write_file(in_folder("race"), "x", 1);
    EXPECT(gqmm_writer_finish(w, &err) == GQMM_E_IO && strstr(err.text, strerror(EEXIST)));
    gqmm_writer_destroy(w);
    unlink(in_folder("race"));
    EXPECT(n_live == 0);
}

/* A limit on file sizes stands in for a full disk: write(2) fails part of the way. */
static void check_full_disk(const gqmm_file *f)
{
    struct rlimit old, small;
    gqmm_error err = {0};

    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 300000;
    setrlimit(RLIMIT_FSIZE, &small);
    EXPECT(copy_file(f, in_folder("full"), 0, &counting, &err) == GQMM_E_IO &&
           strstr(err.text, strerror(EFBIG)));
    setrlimit(RLIMIT_FSIZE, &old);
    EXPECT(n_live == 0 && access(in_folder("full"), F_OK) != 0);
}

static void check_writer_no_memory(const gqmm_file *f)
{
    gqmm_status status = GQMM_E_NOMEM;

    for (fail_at = 0; status != GQMM_OK && fail_at < 1000; fail_at++) {
        n_allocs = 0;
        status = copy_file(f, in_folder("scarce"), 0, &counting, NULL);
        EXPECT((status == GQMM_OK || status == GQMM_E_NOMEM) && n_live == 0);
    }
    EXPECT(status == GQMM_OK && fail_at > 5);
    fail_at = -1;
    unlink(in_folder("scarce"));
}

static void check_files(const char *data)
{
    char path[512];
    gqmm_error err = {0};
    gqmm_file *f = NULL, *g = NULL;

    snprintf(path, sizeof path, "%s/tiny-qwen3moe-f32.gguf", data);
    if (gqmm_file_open(path, 0, &counting, &f, &err) != GQMM_OK) {
        fail("%s", err.text);
        report("tiny model");
        return;
    }
    check_tiny(f);
    EXPECT(gqmm_file_open(path, GQMM_FILE_NO_MMAP, NULL, &g, &err) == GQMM_OK);
    EXPECT(g && same_files(f, g));
    report("tiny model");
    if (g) {
        /* The object's own bytes serve as the original: tensor 0 lies at its offset in them. */
        const gqmm_tensor *t = gqmm_file_tensor_at(g, 0);
        const size_t size = (size_t)gqmm_file_size(g);
        gqmm_file_close(f); /* so that n_live counts the writer alone */
        check_round_trip(g, (const uint8_t *)t->data - t->offset, size);
        report("writer round trip");
        check_writer_errors(g);
        report("writer errors");
        check_full_disk(g);
        report("writer on a full disk");
        check_writer_no_memory(g);
        report("writer without memory");
    }
    gqmm_file_close(g);
}

int main(int argc, char **argv)
{
    const char *temporary = getenv("TMPDIR");
    const char *data = argc > 1 && argv[1][0] != '-' ? argv[1] : "tests/data";

    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(folder, sizeof folder, "%s/check-writer-XXXXXX", temporary ? temporary : "/tmp");
    if (!mkdtemp(folder)) {
        skip("files", "no temporary directory");
    } else {
        check_open_errors();
        report("open errors");
        if (check_large())
            report("tensor of 2^32 elements");
        else
            skip("tensor of 2^32 elements", "no sparse files here");
        check_writer_values();
        report("writer values");
        check_large_data();
        report("writer past its buffer");
        check_files(data);
        unlink(in_folder("empty"));
        if (rmdir(folder) != 0)
            fail("files were left in %s", folder);
        report("nothing left behind");
    }
    return finish("check_writer");
}
