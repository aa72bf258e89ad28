/* SPDX-License-Identifier: MIT */
/* gqmm eval: how well a model predicts a text. */
#include "cli.h"
#include "engine.h"
#include "generate.h"
#include "input.h"
#include "interrupt.h"
#include "output.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct eval_settings {
    machine_settings machine;
    bool json;
} eval_settings;

static const eval_settings eval_defaults = {.machine = MACHINE_DEFAULTS};

static const option eval_options[] = {
    MACHINE_OPTIONS(eval_settings),
    {"json", 0, OPT_FLAG, offsetof(eval_settings, json), 0, 0, NULL,
     "one JSON object in place of the table"},
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

/* Longest window when neither --ctx nor the model asks for less. */
enum { EVAL_CONTEXT = 4096, LOGITS_BYTES = 64 << 20 };

typedef struct evaluation {
    engine e;
    int64_t window; /* tokens of context */
    int64_t step;   /* tokens whose logits fit the buffer */
    float *logits;  /* [step, n_vocab] */
    double loss;    /* sum over predicted tokens, nats */
    int64_t n_predicted, n_documents, n_windows;
    double seconds;
} evaluation;

/* Nats that the logits give to a token. */
static double token_loss(const float *logits, int32_t n, int32_t id)
{
    double most = -HUGE_VAL, sum = 0;

    for (int32_t i = 0; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum) - (double)logits[id];
}

/* One window of n tokens: every token but the first is predicted from those before it. */
static bool eval_window(evaluation *v, const int32_t *ids, int64_t n, int64_t done, int64_t total)
{
    gqmm_error err = {0};

    if (gqmm_session_truncate(v->e.session, 0, &err) != GQMM_OK) {
        say_error(v->e.path, &err);
        return false;
    }
    /* The last token predicts nothing that is known. */
    for (int64_t i = 0; i < n - 1; i += v->step) {
        const int64_t m = n - 1 - i < v->step ? n - 1 - i : v->step;

        if (interrupted())
            return false;
        if (gqmm_session_eval(v->e.session, ids + i, m, v->logits, &err) != GQMM_OK) {
            say_error(v->e.path, &err);
            return false;
        }
        for (int64_t k = 0; k < m; k++)
            v->loss +=
                token_loss(v->logits + k * v->e.info.n_vocab, v->e.info.n_vocab, ids[i + k + 1]);
        v->n_predicted += m;
        progress("token %" PRId64 " of %" PRId64 ", loss %.4f", done + i + m, total,
                 v->loss / (double)v->n_predicted);
    }
    v->n_windows++;
    return true;
}

/* A document in windows that share one token, so that each token but the first is predicted. */
static bool eval_document(evaluation *v, const int32_t *ids, int64_t n, int64_t done, int64_t total)
{
    if (n < 2)
        return true;
    v->n_documents++;
    for (int64_t i = 0; i < n - 1; i += v->window - 1) {
        const int64_t m = n - i < v->window ? n - i : v->window;

        if (!eval_window(v, ids + i, m, done + i, total))
            return false;
    }
    return true;
}

static bool eval_text(evaluation *v, const tokens *t)
{
    const int32_t end = gqmm_tokenizer_find(v->e.tok, "<|endoftext|>", 13);
    const double start = seconds_now();
    bool good = true;

    /* The mark belongs to the document that it ends: knowing when to stop is part of the text. */
    for (int64_t i = 0, first = 0; i < t->n && good; i++)
        if (i + 1 == t->n || t->ids[i] == end) {
            good = eval_document(v, t->ids + first, i + 1 - first, first, t->n);
            first = i + 1;
        }
    progress_clear();
    v->seconds = seconds_now() - start;
    return good;
}

static int report(const evaluation *v, const tokens *t, bool json)
{
    const double loss = v->loss / (double)v->n_predicted;

    if (json) {
        json_t *object = json_object();

        json_object_set_new(object, "loss", json_ratio(loss));
        json_object_set_new(object, "perplexity", json_ratio(exp(loss)));
        json_object_set_new(object, "tokens", json_integer(t->n));
        json_object_set_new(object, "predicted_tokens", json_integer(v->n_predicted));
        json_object_set_new(object, "documents", json_integer(v->n_documents));
        json_object_set_new(object, "windows", json_integer(v->n_windows));
        json_object_set_new(object, "context", json_integer(v->window));
        json_object_set_new(object, "seconds", json_seconds(v->seconds));
        engine_json(&v->e, object);
        return json_finish(object);
    }
    printf("loss        %.4f nats per token\n", loss);
    printf("perplexity  %.3f\n", exp(loss));
    printf("tokens      %" PRId64 ", %" PRId64 " of them predicted, in %" PRId64
           " document%s and %" PRId64 " window%s of at most %" PRId64 "\n",
           t->n, v->n_predicted, v->n_documents, v->n_documents == 1 ? "" : "s", v->n_windows,
           v->n_windows == 1 ? "" : "s", v->window);
    const int code = output_finish();
    fputc('\n', stderr);
    print_rate("text", v->n_predicted, v->n_predicted, v->seconds, NULL);
    engine_print_stats(&v->e);
    return code;
}

static int eval_tokens(evaluation *v, const tokens *t, bool json)
{
    const int64_t fit = LOGITS_BYTES / ((int64_t)sizeof(float) * v->e.info.n_vocab);

    v->window = engine_context(&v->e, EVAL_CONTEXT);
    v->step = fit < 1 ? 1 : fit < v->e.machine.batch ? fit : v->e.machine.batch;
    if (v->window < 2) {
        say("a context of %" PRId64 " token predicts nothing; --ctx takes 2 or more", v->window);
        return CLI_USAGE;
    }
    v->logits = need((size_t)(v->step * v->e.info.n_vocab), sizeof *v->logits);
    if (engine_session(&v->e, v->window) != CLI_OK)
        return CLI_FAILURE;
    interrupt_watch(false);
    const bool good = eval_text(v, t);
    if (interrupted())
        say("interrupted after %" PRId64 " tokens", v->n_predicted);
    else if (good && v->n_predicted == 0)
        say("the text has %" PRId64 " tokens, but no document of two, so nothing is predicted",
            t->n);
    if ((!good && !interrupted()) || v->n_predicted == 0)
        return interrupted() ? CLI_INTERRUPTED : CLI_FAILURE;
    const int code = report(v, t, json);
    return interrupted() ? CLI_INTERRUPTED : code;
}

static int eval_main(const void *settings, const char *const *operands, int n_operands)
{
    const eval_settings *set = settings;
    evaluation v = {.window = 0};
    tokens t = {0};
    size_t length = 0;
    int code = CLI_FAILURE;

    (void)n_operands;
    char *text = input_read(operands[1], &length);
    if (text && (code = engine_open(&v.e, operands[0], &set->machine)) == CLI_OK) {
        if (!tokens_add_text(&t, &v.e, text, length, 1)) {
            code = CLI_FAILURE;
        } else if (t.n < 2) {
            say("%s has %" PRId64 " token%s; two are needed to predict one", operands[1], t.n,
                t.n == 1 ? "" : "s");
            code = CLI_FAILURE;
        } else {
            code = eval_tokens(&v, &t, set->json);
        }
    }
    tokens_free(&t);
    free(v.logits);
    engine_close(&v.e);
    free(text);
    return code;
}

const command eval_command = {
    .name = "eval",
    .summary = "loss and perplexity of a text",
    .operands = "MODEL FILE.txt",
    .min_operands = 2,
    .max_operands = 2,
    .options = eval_options,
    .defaults = &eval_defaults,
    .settings_size = sizeof eval_defaults,
    .details =
        "The mean loss in nats per token, over every token but the first of each document.\n"
        "<|endoftext|> ends a document; the next one starts with an empty context. Documents\n"
        "longer than the context (4096 tokens, or as many as the model knows) are cut into\n"
        "windows. FILE.txt may be '-'.\n",
    .examples = "  gqmm eval model-q4_k_m.gguf heldout.txt\n"
                "  gqmm eval model.gguf heldout.txt --precision exact --json\n",
    .run = eval_main,
};
