/* SPDX-License-Identifier: MIT */
/* The text of the demo model: check_model_text [--quick] [DATA_DIR]
 *
 * Held to the greedy text of llama.cpp, which tests/peers/compare_llama_text.py froze and compares
 * anew where llama.cpp is there. */
#include "model_maker.h"

#include <jansson.h>

/* Every token of its greedy text is our first choice after those before it, or a near-tie of it:
 * behind by less than the fixture's bound, which is what rounding activations to 8 bits can do. */
static const char *follow_text(stack *k, const json_t *c, double near, int32_t *n_ties,
                               double *worst)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    const json_t *ids = json_object_get(c, "ids"), *text = json_object_get(c, "greedy");
    NEED(name && json_array_size(ids) > 0 && json_array_size(text) > 0,
         "the fixture is not as expected");
    NEED(gqmm_session_truncate(k->s, 0, NULL) == GQMM_OK, "truncate");
    for (size_t i = 0; i < json_array_size(ids) + json_array_size(text); i++) {
        const size_t at = i - json_array_size(ids);
        const json_t *from = i < json_array_size(ids) ? ids : text;
        const int32_t id = (int32_t)json_integer_value(json_array_get(from, from == ids ? i : at));
        NEED(id >= 0 && id < k->info.n_vocab, "the fixture names token %d", id);
        if (from == text) {
            const float *logits = gqmm_session_logits(k->s);
            const double behind = logits[best(logits, k->info.n_vocab)] - logits[id];
            NEED(behind < near, "%s: token %zu, %d, is %g behind our choice", name, at, id, behind);
            *n_ties += behind > 0;
            *worst = behind > *worst ? behind : *worst;
        }
        EVAL(k, &id, 1, NULL);
    }
    return NULL;
}

static const char *test_llama_text(void)
{
    char model[512], fixture[512];
    json_error_t error;
    int32_t n_ties = 0;
    double worst = 0;
    snprintf(model, sizeof model, "%s/../../models/stories-q4_k_m.gguf", data_dir);
    snprintf(fixture, sizeof fixture, "%s/demo-llama.json", data_dir);
    if (access(model, R_OK) != 0) {
        snprintf(why, sizeof why, "skip: %s is not there", model);
        return why;
    }
    json_t *root = json_load_file(fixture, JSON_ALLOW_NUL, &error);
    NEED(root, "%s: %s", fixture, error.text);
    const json_t *cases = json_object_get(root, "cases");
    const double near = json_number_value(json_object_get(root, "near"));
    const char *bad = NULL;
    NEED(json_array_size(cases) > 0 && near > 0 && near < 0.2, "the fixture is not as expected");
    for (int32_t precision = quick ? 1 : 0; precision < 2 && !bad; precision++) {
        stack k;
        BUILD(&k, .path = model, .threads = 2, .precision = precision, .max_tokens = 512);
        for (size_t i = 0; i < json_array_size(cases) && !bad; i++)
            bad = follow_text(&k, json_array_get(cases, i), near, &n_ties, &worst);
        shut(&k);
    }
    json_decref(root);
    snprintf(note, sizeof note, " (%d near-ties, worst %.2g)", n_ties, worst);
    return bad;
}

int main(int argc, char **argv)
{
    static const named_test tests[] = {{"demo_text_as_llama_cpp", test_llama_text}};
    return run_tests("check_model_text", tests, sizeof tests / sizeof tests[0], argc, argv);
}
