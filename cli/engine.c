/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include "output.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static int check_isa(const char *isa)
{
    const char *known = NULL;
    char list[200] = "";

    for (int32_t i = 0; (known = gqmm_isa_at(i)); i++) {
        if (strcmp(known, isa) == 0)
            break;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", known);
    }
    if (!known) {
        say("--isa '%s' is none of %s", isa, list);
        return CLI_USAGE;
    }
    if (!gqmm_isa_available(isa)) {
        say("this CPU cannot run the kernels of --isa %s; 'gqmm info' lists what it can", isa);
        return CLI_FAILURE;
    }
    return CLI_OK;
}

static gqmm_status open_all(engine *e, gqmm_error *err)
{
    gqmm_context_desc context;
    gqmm_model_desc model;
    gqmm_status st;

    GQMM_INIT(context);
    context.n_threads = (int32_t)e->machine.threads;
    context.isa = e->machine.isa;
    context.device = e->machine.device;
    GQMM_INIT(model);
    model.precision = e->machine.precision;
    model.repack = e->machine.repacked;

    if ((st = gqmm_file_open(e->path, 0, NULL, &e->file, err)) != GQMM_OK)
        return st;
    if ((st = gqmm_context_create(&context, &e->ctx, err)) != GQMM_OK)
        return st;
    if ((st = gqmm_model_create(e->ctx, e->file, &model, &e->model, err)) != GQMM_OK)
        return st;
    return gqmm_tokenizer_create(e->file, NULL, &e->tok, err);
}

int engine_open(engine *e, const char *path, const machine_settings *machine)
{
    gqmm_error err = {0};
    const double start = seconds_now();
    int code;

    *e = (engine){.path = path, .machine = *machine};
    if (machine->isa && (code = check_isa(machine->isa)) != CLI_OK)
        return code;
    progress("loading %s", path);
    if (open_all(e, &err) != GQMM_OK) {
        /* The context knows nothing of the file. */
        say_error(e->file && !e->ctx ? NULL : path, &err);
        return CLI_FAILURE;
    }
    GQMM_INIT(e->info);
    gqmm_model_get_info(e->model, &e->info);
    if (machine->context > e->info.context_length) {
        say("--ctx asks for %" PRId64 " tokens, this model knows up to %d", machine->context,
            e->info.context_length);
        return CLI_FAILURE;
    }
    e->allowed = need((size_t)e->info.n_vocab, 1);
    for (int32_t i = 0; i < e->info.n_vocab; i++)
        e->allowed[i] = i < gqmm_tokenizer_size(e->tok) && !gqmm_tokenizer_is_filler(e->tok, i);
    e->load_seconds = seconds_now() - start;
    progress_clear();
    return CLI_OK;
}

void engine_close(engine *e)
{
    gqmm_session_destroy(e->session);
    gqmm_tokenizer_destroy(e->tok);
    gqmm_model_destroy(e->model);
    gqmm_context_destroy(e->ctx);
    gqmm_file_close(e->file);
    free(e->allowed);
    *e = (engine){0};
}

int64_t engine_context(const engine *e, int64_t needed)
{
    if (e->machine.context)
        return e->machine.context;
    return needed < e->info.context_length ? needed : e->info.context_length;
}

int engine_session(engine *e, int64_t n_tokens)
{
    gqmm_error err = {0};

    if (gqmm_session_create(e->model, n_tokens, e->machine.batch, &e->session, &err) == GQMM_OK)
        return CLI_OK;
    say_error(e->path, &err);
    return CLI_FAILURE;
}

gqmm_sampler *engine_sampler(sampling_settings *s)
{
    gqmm_sampler_desc desc;
    gqmm_sampler *sampler = NULL;
    gqmm_error err = {0};
    uint32_t drawn = 0;

    if (s->seed < 0) {
        if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
            drawn = (uint32_t)(seconds_now() * 1e6);
        s->seed = drawn;
    }
    GQMM_INIT(desc);
    desc.temperature = (float)s->temp;
    desc.top_k = (int32_t)s->top_k;
    desc.top_p = (float)s->top_p;
    desc.min_p = (float)s->min_p;
    desc.repeat_penalty = (float)s->repeat_penalty;
    desc.seed = (uint64_t)s->seed;
    if (gqmm_sampler_create(&desc, NULL, &sampler, &err) != GQMM_OK)
        say_error(NULL, &err);
    return sampler;
}

/* ------------------------------------------------------------------ prompts as tokens */

void tokens_add(tokens *t, const int32_t *ids, int64_t n)
{
    if (t->n + n > t->room) {
        t->room = (t->n + n) * 2;
        t->ids = need_more(t->ids, (size_t)t->room, sizeof *t->ids);
    }
    if (n)
        memcpy(t->ids + t->n, ids, (size_t)n * sizeof *ids);
    t->n += n;
}

void tokens_free(tokens *t)
{
    free(t->ids);
    *t = (tokens){0};
}

bool tokens_add_text(tokens *t, const engine *e, const char *text, size_t length, int32_t special)
{
    gqmm_error err = {0};
    /* Every token of a byte-level tokenizer is at least one byte of the text. */
    int32_t *ids = need(length + 1, sizeof *ids);
    int64_t n = 0;
    const bool good = gqmm_tokenizer_encode(e->tok, text, length, special, ids, (int64_t)length + 1,
                                            &n, &err) == GQMM_OK;

    if (good)
        tokens_add(t, ids, n);
    else
        say_error(e->path, &err);
    free(ids);
    return good;
}

static int32_t control(const engine *e, const char *name)
{
    return gqmm_tokenizer_find(e->tok, name, strlen(name));
}

bool engine_can_chat(const engine *e)
{
    if (control(e, "<|im_start|>") >= 0 && control(e, "<|im_end|>") >= 0)
        return true;
    say("%s: the model has no <|im_start|> and <|im_end|> tokens, so it cannot chat", e->path);
    return false;
}

bool tokens_add_message(tokens *t, const engine *e, const char *role, const char *text,
                        size_t length)
{
    const int32_t begin = control(e, "<|im_start|>"), end = control(e, "<|im_end|>");
    const size_t n_role = strlen(role);
    char *body = need(n_role + 1 + length, 1);

    /* Role and text are one piece, as a tokenizer sees them in the whole template. */
    memcpy(body, role, n_role);
    body[n_role] = '\n';
    memcpy(body + n_role + 1, text, length);
    tokens_add(t, &begin, 1);
    bool good = tokens_add_text(t, e, body, n_role + 1 + length, 0);
    tokens_add(t, &end, 1);
    good = good && tokens_add_text(t, e, "\n", 1, 0);
    free(body);
    return good;
}

bool tokens_add_answer(tokens *t, const engine *e)
{
    const int32_t begin = control(e, "<|im_start|>");

    tokens_add(t, &begin, 1);
    return tokens_add_text(t, e, "assistant\n", 10, 0);
}
