/* SPDX-License-Identifier: MIT */
/*
 * gqmm-model - from a model file to text, built only on gqmm.h.
 *
 *   file       GGUF and safetensors: what is in them, where each tensor lies (untrusted bytes)
 *   writer     GGUF files, written beside the target and renamed into place
 *   tokenizer  byte-level BPE of a GGUF file (tokenizer.ggml.model "gpt2")
 *   sampler    greedy, temperature, top-k, top-p, min-p, repeat penalty, seed
 *   model      weights and hyperparameters of one architecture; session: one sequence and its cache
 *
 * Errors, descriptors, allocators and strings follow gqmm.h; an allocator is copied, NULL means
 * malloc. Objects are not locked: a model and a tokenizer may be shared by threads once created, a
 * session or a sampler belongs to one thread at a time.
 */
#ifndef GQMM_MODEL_H
#define GQMM_MODEL_H

#include "gqmm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ files */

typedef struct gqmm_file gqmm_file;

typedef struct gqmm_tensor {
    const char *name;
    const char *format;    /* gqmm format name; NULL: type_name is none that gqmm computes with */
    const char *type_name; /* as the file names it: "Q4_K", "BF16", "I32", "ggml type 16" */
    int32_t type;          /* GGUF: ggml type id; safetensors: -1 */
    int32_t n_dims;        /* 0 to 4 (safetensors: 8) */
    int64_t dims[8];       /* dims[0] is contiguous (safetensors shapes are reversed to this) */
    int64_t n_bytes;
    uint64_t offset; /* of the data from the start of the file */
    const void *data;
} gqmm_tensor;

/* Flags of gqmm_file_open. */
enum { GQMM_FILE_NO_MMAP = 1 }; /* read into memory: a file that shrinks later cannot fault */

/* Opens a GGUF (v2, v3, little endian) or safetensors file, told apart by their first bytes, maps
 * it and checks all of its structure: counts against bytes left, names unique, types known in
 * size, tensors aligned, inside the file and disjoint.
 * Errors: IO (with the system's reason), FORMAT (err->offset is the byte at fault), UNSUPPORTED
 * (GGUF version 1, big endian), NOMEM. */
GQMM_API gqmm_status gqmm_file_open(const char *path, uint32_t flags,
                                    const gqmm_allocator *allocator, gqmm_file **out,
                                    gqmm_error *err);
/* The same over bytes in memory, which stay the caller's and must outlive the object. */
GQMM_API gqmm_status gqmm_file_parse(const void *bytes, size_t size,
                                     const gqmm_allocator *allocator, gqmm_file **out,
                                     gqmm_error *err);
GQMM_API void gqmm_file_close(gqmm_file *file);

GQMM_API const char *gqmm_file_kind(const gqmm_file *file); /* "gguf" or "safetensors" */
GQMM_API int32_t gqmm_file_version(const gqmm_file *file);  /* GGUF: 2 or 3; else 0 */
GQMM_API uint64_t gqmm_file_size(const gqmm_file *file);
GQMM_API int64_t gqmm_file_tensor_count(const gqmm_file *file);
GQMM_API const gqmm_tensor *gqmm_file_tensor_at(const gqmm_file *file, int64_t i);
GQMM_API const gqmm_tensor *gqmm_file_tensor(const gqmm_file *file, const char *name); /* or NULL */

/* Metadata, in file order. Kinds of values: */
enum {
    GQMM_META_UINT = 1,  /* u8 u16 u32 u64 */
    GQMM_META_INT = 2,   /* i8 i16 i32 i64 */
    GQMM_META_FLOAT = 3, /* f32 f64 */
    GQMM_META_BOOL = 4,
    GQMM_META_STRING = 5,
    GQMM_META_ARRAY = 6
};
typedef struct gqmm_meta {
    const char *key;
    int32_t kind;      /* GQMM_META_*; of an array: GQMM_META_ARRAY */
    int32_t item_kind; /* arrays: kind of the items; else equal to kind */
    int32_t gguf_type; /* the file's own type id of the value (9 for an array) */
    int32_t item_type; /* arrays: type id of the items */
    uint64_t n;        /* items: 1 unless an array */
    const void *raw;   /* value bytes in the file; of strings: length (u64) and bytes */
} gqmm_meta;
GQMM_API int64_t gqmm_file_meta_count(const gqmm_file *file);
GQMM_API const gqmm_meta *gqmm_file_meta_at(const gqmm_file *file, int64_t i);
GQMM_API const gqmm_meta *gqmm_file_meta(const gqmm_file *file, const char *key); /* or NULL */
/* Item i of a value. Integers and bools convert into each other if the number fits; 1 on success,
 * 0 if the kind does not match, i >= n or it does not fit. Strings are not NUL-terminated; access
 * to string item i is constant time. */
GQMM_API int32_t gqmm_meta_int(const gqmm_file *file, const gqmm_meta *meta, uint64_t i,
                               int64_t *value);
GQMM_API int32_t gqmm_meta_float(const gqmm_file *file, const gqmm_meta *meta, uint64_t i,
                                 double *value);
GQMM_API int32_t gqmm_meta_string(const gqmm_file *file, const gqmm_meta *meta, uint64_t i,
                                  const char **text, size_t *length);

/* ------------------------------------------------------------------ GGUF writer */

typedef struct gqmm_writer gqmm_writer;

/* Writes PATH.tmp-* in the same directory; the file appears at `path` only on finish (fsync,
 * rename). overwrite = 0: fails with IO if path exists. Destroying an unfinished writer removes
 * the temporary file. */
GQMM_API gqmm_status gqmm_writer_create(const char *path, int32_t overwrite,
                                        const gqmm_allocator *allocator, gqmm_writer **out,
                                        gqmm_error *err);
GQMM_API gqmm_status gqmm_writer_meta_int(gqmm_writer *w, const char *key, int32_t gguf_type,
                                          int64_t value, gqmm_error *err);
GQMM_API gqmm_status gqmm_writer_meta_float(gqmm_writer *w, const char *key, int32_t gguf_type,
                                            double value, gqmm_error *err);
GQMM_API gqmm_status gqmm_writer_meta_string(gqmm_writer *w, const char *key, const char *text,
                                             size_t length, gqmm_error *err);
/* An entry of another file, byte for byte (arrays included). */
GQMM_API gqmm_status gqmm_writer_meta_copy(gqmm_writer *w, const gqmm_file *file,
                                           const gqmm_meta *meta, gqmm_error *err);
/* Declares the tensors in the order of their data; all before the first write. `format` is a gqmm
 * format with a ggml type, or the name of a ggml type ("I32"). Alignment is 32 bytes, or that of a
 * general.alignment key written before. */
GQMM_API gqmm_status gqmm_writer_tensor(gqmm_writer *w, const char *name, const char *format,
                                        int32_t n_dims, const int64_t *dims, gqmm_error *err);
/* Appends bytes of the tensors, in order; padding between them is the writer's business. */
GQMM_API gqmm_status gqmm_writer_data(gqmm_writer *w, const void *bytes, size_t size,
                                      gqmm_error *err);
/* Checks that every declared byte came, flushes, renames. The writer remains to be destroyed. */
GQMM_API gqmm_status gqmm_writer_finish(gqmm_writer *w, gqmm_error *err);
GQMM_API void gqmm_writer_destroy(gqmm_writer *w);

/* ------------------------------------------------------------------ tokenizer */

typedef struct gqmm_tokenizer gqmm_tokenizer;

/* From the tokenizer.ggml.* keys: model "gpt2", pre "qwen2" or "qwen35". No normalisation is
 * applied to text. Errors: FORMAT (missing or inconsistent keys, named), UNSUPPORTED, NOMEM. */
GQMM_API gqmm_status gqmm_tokenizer_create(const gqmm_file *file, const gqmm_allocator *allocator,
                                           gqmm_tokenizer **out, gqmm_error *err);
GQMM_API void gqmm_tokenizer_destroy(gqmm_tokenizer *tok);
GQMM_API int32_t gqmm_tokenizer_size(const gqmm_tokenizer *tok);
/* Any bytes (invalid UTF-8 included: such bytes become byte tokens) to ids. special = 1: texts of
 * control tokens in `text` become those tokens. Writes at most max ids, *n is how many there are.
 * Errors: ARG (ids NULL with max > 0), NOMEM. */
GQMM_API gqmm_status gqmm_tokenizer_encode(const gqmm_tokenizer *tok, const char *text,
                                           size_t length, int32_t special, int32_t *ids,
                                           int64_t max, int64_t *n, gqmm_error *err);
/* Bytes of one token (of a control token: its text); NULL outside the vocabulary. Not NUL-ended. */
GQMM_API const char *gqmm_tokenizer_bytes(const gqmm_tokenizer *tok, int32_t id, size_t *length);
/* Id of a token by its exact bytes; -1 if there is none. */
GQMM_API int32_t gqmm_tokenizer_find(const gqmm_tokenizer *tok, const char *bytes, size_t length);
GQMM_API int32_t gqmm_tokenizer_is_control(const gqmm_tokenizer *tok, int32_t id);
/* End of generation: eos, <|im_end|>, <|endoftext|>. */
GQMM_API int32_t gqmm_tokenizer_is_end(const gqmm_tokenizer *tok, int32_t id);
/* Fillers that no sampler should choose (types unused and unknown). */
GQMM_API int32_t gqmm_tokenizer_is_filler(const gqmm_tokenizer *tok, int32_t id);

/* One ChatML message, "<|im_start|>ROLE\nTEXT<|im_end|>\n", or with role "assistant" and text NULL
 * the opening of an answer. Returns the length of the whole (without NUL), writes at most size. */
GQMM_API size_t gqmm_chat_format(const char *role, const char *text, char *out, size_t size);

/* Streaming UTF-8: feed bytes, get back whole characters; invalid bytes become U+FFFD. */
typedef struct gqmm_utf8 {
    uint8_t held[4];
    int32_t n_held;
} gqmm_utf8;
/* Writes at most 3 * (length + 3) bytes to out and returns how many. finish = 1 flushes the rest.
 */
GQMM_API size_t gqmm_utf8_feed(gqmm_utf8 *state, const char *bytes, size_t length, int32_t finish,
                               char *out);

/* ------------------------------------------------------------------ sampler */

typedef struct gqmm_sampler gqmm_sampler;
typedef struct gqmm_sampler_desc {
    uint32_t struct_size;
    float temperature;    /* 0: greedy (the largest logit, ties to the lower id) */
    int32_t top_k;        /* 0: off */
    float top_p;          /* 0 or 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 0 or 1: off; divides positive and multiplies negative logits */
    int32_t repeat_last;  /* tokens that count for it; 0: 64 */
    uint64_t seed;
} gqmm_sampler_desc;
/* Order: penalty, temperature, top-k, top-p, min-p, draw. Same seed and logits, same tokens.
 * Errors: ARG (NaN, negative, top_p or min_p above 1), NOMEM. */
GQMM_API gqmm_status gqmm_sampler_create(const gqmm_sampler_desc *desc,
                                         const gqmm_allocator *allocator, gqmm_sampler **out,
                                         gqmm_error *err);
GQMM_API void gqmm_sampler_destroy(gqmm_sampler *s);
/* Chooses from logits[n]; tokens with allowed[id] = 0 are out (allowed may be NULL). -1 if every
 * logit is NaN or forbidden, or memory for n candidates is missing. */
GQMM_API int32_t gqmm_sampler_next(gqmm_sampler *s, const float *logits, int32_t n,
                                   const uint8_t *allowed);
/* Tells the penalty about a token that is now part of the text. */
GQMM_API void gqmm_sampler_accept(gqmm_sampler *s, int32_t id);

/* ------------------------------------------------------------------ model and session */

typedef struct gqmm_model gqmm_model;

typedef struct gqmm_model_desc {
    uint32_t struct_size;
    int32_t precision; /* of the quantised products: GQMM_EXACT or GQMM_INT8 */
    int32_t repack; /* 1: GGUF blocks are rewritten as MLX affine planes at load, where gqmm_repack
                       can */
    int32_t reserved;
    const gqmm_allocator *allocator;
} gqmm_model_desc;

typedef struct gqmm_model_info {
    uint32_t struct_size;
    int32_t n_layers, n_experts, n_experts_used, n_vocab, n_embd, n_heads, n_kv_heads, head_dim;
    int32_t context_length;   /* the file's; a session may be shorter */
    const char *architecture; /* "qwen3moe" */
    const char *name;         /* general.name or "" */
    int64_t n_parameters;
    int64_t weight_bytes;   /* of tensors as they lie in the file */
    int64_t repacked_bytes; /* memory that repack cost; 0 without */
    int64_t device_bytes;   /* memory of a device that the weights take; 0 on the CPU */
} gqmm_model_info;

/* Builds the model of an open file, which must outlive it. The context computes; it must outlive
 * the model and serves one session call at a time. On a context of a device the weights are copied
 * to its memory here, and sessions keep all but the logits there.
 * Errors: UNSUPPORTED (architecture unknown: the text names it and lists the known; a tensor type
 * that gqmm has no kernel for; repack on a device), FORMAT (missing key or tensor, wrong shape:
 * named), NOMEM (of a device: how much was needed), DEVICE. */
GQMM_API gqmm_status gqmm_model_create(gqmm_context *ctx, const gqmm_file *file,
                                       const gqmm_model_desc *desc, gqmm_model **out,
                                       gqmm_error *err);
GQMM_API void gqmm_model_destroy(gqmm_model *model);
GQMM_API void gqmm_model_get_info(const gqmm_model *model, gqmm_model_info *info);
/* Architectures that gqmm_model_create() knows; NULL past the end. */
GQMM_API const char *gqmm_architecture_at(int32_t i);

typedef struct gqmm_session gqmm_session;
/* A sequence of at most max_tokens (0: the model's context length; more than that is ARG) and
 * prompt batches of at most batch tokens (0: 512; more than 65536 counts as 65536). The cache is
 * allocated here; evaluation allocates nothing. Errors: ARG, NOMEM. */
GQMM_API gqmm_status gqmm_session_create(gqmm_model *model, int64_t max_tokens, int64_t batch,
                                         gqmm_session **out, gqmm_error *err);
GQMM_API void gqmm_session_destroy(gqmm_session *s);
/* Appends n tokens and computes them in batches. Logits [n_vocab] of the last token are then at
 * gqmm_session_logits(); with all_logits (float [n, n_vocab], may be NULL) those of every token.
 * Errors: INDEX (token id), SHAPE (more tokens than fit: both numbers are said); the session is
 * unchanged then. */
GQMM_API gqmm_status gqmm_session_eval(gqmm_session *s, const int32_t *tokens, int64_t n,
                                       float *all_logits, gqmm_error *err);
/* [n_vocab] of the last token; NULL before the first. */
GQMM_API const float *gqmm_session_logits(const gqmm_session *s);
GQMM_API int64_t gqmm_session_length(const gqmm_session *s);
/* Forgets all but the first n tokens. */
GQMM_API gqmm_status gqmm_session_truncate(gqmm_session *s, int64_t n, gqmm_error *err);
GQMM_API int64_t gqmm_session_bytes(const gqmm_session *s); /* cache and scratch */
/* Those of them that are memory of a device. */
GQMM_API int64_t gqmm_session_device_bytes(const gqmm_session *s);
/* Where the time of gqmm_session_eval() went: seconds since the session was made, by part. Set
 * struct_size first. A device is only told what to do, so there no part is timed: all are 0. */
typedef struct gqmm_session_times {
    uint32_t struct_size;
    int32_t reserved;
    double embed;       /* embedding, angles of the rotation */
    double norms;       /* norms, rotation, residuals */
    double projections; /* products into and out of attention */
    double attention;   /* the cache, scores, softmax, values */
    double experts;     /* router, routing, the experts' products */
    double logits;      /* final norm and head */
} gqmm_session_times;
GQMM_API void gqmm_session_get_times(const gqmm_session *s, gqmm_session_times *times);
/* Called after each layer with the residual stream of the batch, [n_tokens, n_embd]; layer -1 is
 * the embedding. For tests and tools; NULL turns it off. */
GQMM_API void gqmm_session_observe(gqmm_session *s,
                                   void (*seen)(void *user, int32_t layer, const float *residual,
                                                int64_t n_tokens),
                                   void *user);

#ifdef __cplusplus
}
#endif
#endif
