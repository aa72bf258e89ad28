/* SPDX-License-Identifier: MIT */
/* gqmm run: one prompt, one text. */
#include "cli.h"
#include "engine.h"
#include "generate.h"
#include "input.h"
#include "interrupt.h"
#include "output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run_settings {
    machine_settings machine;
    sampling_settings sampling;
    const char *prompt, *file, *system;
    int64_t limit;
    bool chat, echo, json;
} run_settings;

static const run_settings run_defaults = {
    .machine = MACHINE_DEFAULTS,
    .sampling = SAMPLING_DEFAULTS,
    .limit = 256,
};

static const option run_options[] = {
    {"prompt", 'p', OPT_TEXT, offsetof(run_settings, prompt), 0, 0, "TEXT",
     "the prompt; '-', or no prompt and a pipe, reads standard input"},
    {"file", 'f', OPT_TEXT, offsetof(run_settings, file), 0, 0, "FILE",
     "read the prompt from FILE"},
    {"tokens", 'n', OPT_INT, offsetof(run_settings, limit), -1, 16777216, "N",
     "most tokens to generate; -1: until the text ends or the context is full"},
    {"chat", 0, OPT_FLAG, offsetof(run_settings, chat), 0, 0, NULL,
     "the prompt is what a user says; the model answers"},
    {"system", 0, OPT_TEXT, offsetof(run_settings, system), 0, 0, "TEXT",
     "with --chat: a system message before it"},
    {"echo", 0, OPT_FLAG, offsetof(run_settings, echo), 0, 0, NULL,
     "write the prompt too, before the text that continues it"},
    SAMPLING_OPTIONS(run_settings),
    MACHINE_OPTIONS(run_settings),
    {"json", 0, OPT_FLAG, offsetof(run_settings, json), 0, 0, NULL,
     "one JSON object at the end in place of text and statistics"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

/* The prompt's bytes, freed by the caller, or NULL with *code set. */
static char *read_prompt(const run_settings *set, size_t *length, int *code)
{
    const char *path = set->file;
    size_t at = 0;
    char *text;

    *code = CLI_USAGE;
    if (set->prompt && set->file) {
        say("give the prompt with -p or with -f, not both");
        return NULL;
    }
    if (!path && (!set->prompt || strcmp(set->prompt, "-") == 0)) {
        if (!set->prompt && isatty(STDIN_FILENO)) {
            say("run needs a prompt: -p TEXT, -f FILE or standard input");
            return NULL;
        }
        path = "-";
    }
    *code = CLI_FAILURE;
    if (path) {
        if (!(text = input_read(path, length)))
            return NULL;
        /* The line end that editors and echo leave is no part of the prompt. */
        if (*length && text[*length - 1] == '\n')
            *length -= *length > 1 && text[*length - 2] == '\r' ? 2 : 1;
    } else {
        *length = strlen(set->prompt);
        text = need(*length, 1);
        memcpy(text, set->prompt, *length);
    }
    if (!input_is_utf8(text, *length, &at))
        say("warning: the prompt is not valid UTF-8 at byte %zu; it is used as it is", at);
    return text;
}

/* The begin token of models that want one. */
static void add_begin(tokens *t, const engine *e)
{
    const gqmm_meta *wanted = gqmm_file_meta(e->file, "tokenizer.ggml.add_bos_token");
    const gqmm_meta *token = gqmm_file_meta(e->file, "tokenizer.ggml.bos_token_id");
    int64_t yes = 0, id = 0;

    if (wanted && token && gqmm_meta_int(e->file, wanted, 0, &yes) && yes &&
        gqmm_meta_int(e->file, token, 0, &id) && id >= 0 && id < e->info.n_vocab)
        tokens_add(t, &(int32_t){(int32_t)id}, 1);
}

static bool build_prompt(const engine *e, const run_settings *set, const char *text, size_t length,
                         tokens *t)
{
    add_begin(t, e);
    if (!set->chat)
        return tokens_add_text(t, e, text, length, 1);
    return engine_can_chat(e) &&
           (!set->system || tokens_add_message(t, e, "system", set->system, strlen(set->system))) &&
           tokens_add_message(t, e, "user", text, length) && tokens_add_answer(t, e);
}

static int report_json(const engine *e, const run_settings *set, const tokens *prompt,
                       double prompt_seconds, const generation *g)
{
    json_t *object = json_object();

    json_object_set_new(object, "text", json_text(g->text ? g->text : "", g->length));
    json_object_set_new(object, "stop", json_string(stop_words(g->stop)));
    json_object_set_new(object, "prompt_tokens", json_integer(prompt->n));
    json_object_set_new(object, "prompt_seconds", json_seconds(prompt_seconds));
    json_object_set_new(object, "prompt_tokens_per_second",
                        json_ratio(rate(prompt->n, prompt_seconds)));
    json_object_set_new(object, "generated_tokens", json_integer(g->out.n));
    json_object_set_new(object, "generated_seconds", json_seconds(g->seconds));
    json_object_set_new(object, "generated_tokens_per_second",
                        json_ratio(rate(g->known, g->seconds)));
    json_object_set_new(object, "temperature", json_real(set->sampling.temp));
    json_object_set_new(object, "seed", json_integer(set->sampling.seed));
    engine_json(e, object);
    return json_finish(object);
}

static void report_text(const engine *e, const run_settings *set, const tokens *prompt,
                        double prompt_seconds, const generation *g)
{
    fputc('\n', stderr);
    print_rate("prompt", prompt->n, prompt->n, prompt_seconds, NULL);
    print_rate("generated", g->out.n, g->known, g->seconds, stop_words(g->stop));
    if (set->sampling.temp > 0)
        fprintf(stderr, "sampling   temperature %g, seed %" PRId64 "\n", set->sampling.temp,
                set->sampling.seed);
    engine_print_stats(e);
}

/* Evaluates the prompt, generates, reports; the prompt has tokens. `echo` (NULL: nothing) is
 * written before the text. */
static int answer(engine *e, run_settings *set, const tokens *prompt, const char *echo,
                  size_t echo_length)
{
    const int64_t limit = set->limit < 0 ? e->info.context_length : set->limit;
    const int64_t context = engine_context(e, prompt->n + limit);
    gqmm_sampler *sampler = NULL;
    generation g = {.stop = STOP_ERROR};
    double prompt_seconds = 0;
    int code = CLI_FAILURE;

    if (prompt->n > context) {
        say("the prompt has %" PRId64 " tokens, the context holds %" PRId64 "%s", prompt->n,
            context, context < e->info.context_length ? "; --ctx makes it longer" : "");
        return CLI_FAILURE;
    }
    if (engine_session(e, context) != CLI_OK || !(sampler = engine_sampler(&set->sampling)))
        return CLI_FAILURE;
    for (int64_t i = 0; i < prompt->n; i++)
        gqmm_sampler_accept(sampler, prompt->ids[i]);

    if (echo)
        show(echo, echo_length, stdout);
    interrupt_watch(false);
    if (evaluate(e, prompt, &prompt_seconds))
        generate(e, sampler, set->limit, context, set->json ? NULL : stdout, &g);
    else if (interrupted())
        g.stop = STOP_INTERRUPT;
    if (g.stop != STOP_ERROR) {
        if (!set->json && g.length && g.text[g.length - 1] != '\n')
            fputc('\n', stdout);
        code = set->json ? report_json(e, set, prompt, prompt_seconds, &g) : output_finish();
        if (!set->json)
            report_text(e, set, prompt, prompt_seconds, &g);
        if (g.stop == STOP_CONTEXT)
            say("the context of %" PRId64 " tokens is full%s", context,
                context < e->info.context_length ? "; --ctx makes it longer" : "");
        if (g.stop == STOP_INTERRUPT)
            code = CLI_INTERRUPTED;
    }
    generation_free(&g);
    gqmm_sampler_destroy(sampler);
    return code;
}

static int run_main(const void *settings, const char *const *operands, int n_operands)
{
    run_settings set = *(const run_settings *)settings;
    engine e = {0};
    tokens prompt = {0};
    size_t length = 0;
    int code;

    (void)n_operands;
    if (set.system && !set.chat) {
        say("--system needs --chat");
        return CLI_USAGE;
    }
    if (set.echo && (set.chat || set.json)) {
        say("--echo goes with neither --chat nor --json");
        return CLI_USAGE;
    }
    char *text = read_prompt(&set, &length, &code);
    if (!text)
        return code;
    if ((code = engine_open(&e, operands[0], &set.machine)) == CLI_OK) {
        if (!build_prompt(&e, &set, text, length, &prompt)) {
            code = CLI_FAILURE;
        } else if (prompt.n == 0) {
            say("the prompt is empty, and this model has no token to begin a text with");
            code = CLI_FAILURE;
        } else {
            code = answer(&e, &set, &prompt, set.echo ? text : NULL, length);
        }
    }
    tokens_free(&prompt);
    engine_close(&e);
    free(text);
    return code;
}

const command run_command = {
    .name = "run",
    .summary = "continue a text, or answer one prompt",
    .operands = "MODEL",
    .min_operands = 1,
    .max_operands = 1,
    .options = run_options,
    .defaults = &run_defaults,
    .settings_size = sizeof run_defaults,
    .details =
        "The generated text goes to standard output as it comes, statistics to standard error.\n"
        "Without --chat the prompt may hold control tokens such as <|im_start|>. The context is "
        "as\n"
        "long as prompt and text need. Ctrl-C stops; what was generated and the statistics remain\n"
        "(exit code 130).\n",
    .examples = "  gqmm run model.gguf --chat -p \"Tell me a story about Nora and a lantern.\"\n"
                "  gqmm run model.gguf -p \"One day\" --echo -n 100 --temp 0\n"
                "  gqmm run model.gguf -f prompt.txt --seed 7 --threads 2 > story.txt\n"
                "  echo \"What is two plus three?\" | gqmm run model.gguf --chat --json\n",
    .run = run_main,
};
