/* SPDX-License-Identifier: MIT */
/*
 * The smallest byte-level BPE that a runner takes. The writer copies arrays from other files and
 * makes none, so the arrays are put into a GGUF file in memory first.
 */
#include "output.h"
#include "synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };
enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5 };
enum { N_BYTES = 256, FIRST_CONTROL = N_BYTES + 1, N_CONTROL = 3 };

static const char *const controls[N_CONTROL] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

static void put_u32(FILE *f, uint32_t v)
{
    fwrite(&v, sizeof v, 1, f);
}

static void put_u64(FILE *f, uint64_t v)
{
    fwrite(&v, sizeof v, 1, f);
}

static void put_text(FILE *f, const char *text)
{
    put_u64(f, strlen(text));
    fputs(text, f);
}

static void put_array(FILE *f, const char *key, uint32_t type, int64_t n)
{
    put_text(f, key);
    put_u32(f, GGUF_ARRAY);
    put_u32(f, type);
    put_u64(f, (uint64_t)n);
}

/* The letter that stands for byte b in byte-level BPE: printable bytes stand for themselves, the
 * others for letters from U+0100 on. `other` counts those. */
static void byte_letter(int b, int *other, char out[4])
{
    const bool plain_byte = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int code = plain_byte ? b : 256 + (*other)++;

    if (code < 128)
        snprintf(out, 4, "%c", code);
    else
        snprintf(out, 4, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 63));
}

static void put_tokens(FILE *f, int64_t n_vocab)
{
    char text[32];
    int other = 0;

    put_array(f, "tokenizer.ggml.tokens", GGUF_STRING, n_vocab);
    for (int b = 0; b < N_BYTES; b++) {
        byte_letter(b, &other, text);
        put_text(f, text);
    }
    put_text(f, "th");
    for (int i = 0; i < N_CONTROL; i++)
        put_text(f, controls[i]);
    for (int64_t i = FIRST_CONTROL + N_CONTROL; i < n_vocab; i++) {
        snprintf(text, sizeof text, "[PAD%lld]", (long long)i);
        put_text(f, text);
    }
}

static void put_types(FILE *f, int64_t n_vocab)
{
    put_array(f, "tokenizer.ggml.token_type", GGUF_I32, n_vocab);
    for (int64_t i = 0; i < n_vocab; i++)
        put_u32(f, i < FIRST_CONTROL               ? TOKEN_NORMAL
                   : i < FIRST_CONTROL + N_CONTROL ? TOKEN_CONTROL
                                                   : TOKEN_UNUSED);
}

/* A GGUF file of three arrays and no tensor. */
static char *make_arrays(int64_t n_vocab, size_t *size)
{
    char *bytes = NULL;
    FILE *f = open_memstream(&bytes, size);

    if (!f)
        return NULL;
    fputs("GGUF", f);
    put_u32(f, 3);
    put_u64(f, 0);
    put_u64(f, 3);
    put_tokens(f, n_vocab);
    put_types(f, n_vocab);
    put_array(f, "tokenizer.ggml.merges", GGUF_STRING, 1);
    put_text(f, "t h");
    if (fclose(f) != 0) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

static gqmm_status copy_arrays(gqmm_writer *w, int64_t n_vocab, gqmm_error *err)
{
    size_t size = 0;
    char *bytes = make_arrays(n_vocab, &size);
    gqmm_file *file = NULL;
    gqmm_status st = GQMM_E_NOMEM;

    if (!bytes)
        snprintf(err->text, sizeof err->text, "no memory for the vocabulary");
    else
        st = gqmm_file_parse(bytes, size, NULL, &file, err);
    for (int64_t i = 0; st == GQMM_OK && i < gqmm_file_meta_count(file); i++)
        st = gqmm_writer_meta_copy(w, file, gqmm_file_meta_at(file, i), err);
    gqmm_file_close(file);
    free(bytes);
    return st;
}

gqmm_status synth_tokenizer(gqmm_writer *w, int64_t n_vocab, gqmm_error *err)
{
    static const struct {
        const char *key;
        int32_t type;
        int64_t value;
    } numbers[] = {
        {"tokenizer.ggml.bos_token_id", GGUF_U32, FIRST_CONTROL},
        {"tokenizer.ggml.eos_token_id", GGUF_U32, FIRST_CONTROL + 2},
        {"tokenizer.ggml.padding_token_id", GGUF_U32, FIRST_CONTROL},
        {"tokenizer.ggml.add_bos_token", GGUF_BOOL, 0},
    };
    gqmm_status st = gqmm_writer_meta_string(w, "tokenizer.ggml.model", "gpt2", 4, err);

    if (st == GQMM_OK)
        st = gqmm_writer_meta_string(w, "tokenizer.ggml.pre", "qwen2", 5, err);
    if (st == GQMM_OK)
        st = copy_arrays(w, n_vocab, err);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && st == GQMM_OK; i++)
        st = gqmm_writer_meta_int(w, numbers[i].key, numbers[i].type, numbers[i].value, err);
    return st;
}
