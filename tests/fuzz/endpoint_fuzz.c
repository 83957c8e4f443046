/* Lines of trainers: figures are finite, names plain words. Answers of servers: what is accepted has a text for each choice, finite log-probs, and no more tokens than asked for. The
 * first byte chooses how the answer was asked for. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "proto/base/text.h"
#include "worker/endpoint/wire.h"
#include "worker/external.h"

#define MAX_TOKENS 8u

static void check(const joust_endpoint_answer *a, uint32_t n)
{
    size_t bad;
    fuzz_require(a->n == n);
    for (uint32_t i = 0; i < n; i++) {
        const joust_endpoint_choice *c = &a->choices[i];
        fuzz_require(c->text && joust_text_is_utf8(c->text, strlen(c->text), &bad));
        fuzz_require(c->finish >= JOUST_FINISH_STOP && c->finish <= JOUST_FINISH_ABORTED);
        fuzz_require(c->n_tokens <= MAX_TOKENS);
        for (uint32_t k = 0; k < c->n_tokens; k++)
            fuzz_require(c->logps[k] <= 0 && c->logps[k] - c->logps[k] == 0);
    }
}

/* What a label is worth is finite, and a probability. */
static void check_scores(const uint8_t *data, size_t n, const joust_job_endpoint *e)
{
    static const char *const labels[] = {"yes", " no"};
    joust_endpoint_scores scores = {0};
    joust_error err;
    if (joust_endpoint_parse_echo(data, n, e, "yes", 0, &scores, &err) == JOUST_OK)
        fuzz_require(scores.logps[0] <= 0 && scores.logps[0] - scores.logps[0] == 0);
    scores = (joust_endpoint_scores){0};
    if (joust_endpoint_parse_top(data, n, e, labels, 2, &scores, &err) == JOUST_OK)
        for (int i = 0; i < 2; i++)
            fuzz_require(scores.logps[i] - scores.logps[i] == 0);
}

static void check_line(const uint8_t *data, size_t n)
{
    char *line = joust_strndup((const char *)data, n), name[128];
    joust_train_step s = {0};
    if (!line)
        return;
    joust_trainer_line kind = joust_trainer_line_read(line, &s, name);
    const double figures[] = {s.loss,     s.gradient_norm, s.learning_rate,
                              s.accuracy, s.chosen_reward, s.rejected_reward};
    for (size_t i = 0; i < sizeof(figures) / sizeof(*figures); i++)
        fuzz_require(figures[i] - figures[i] == 0);
    if (kind == JOUST_LINE_CHECKPOINT)
        fuzz_require(name[0] && name[0] != '.' && !strchr(name, '/') &&
                     strlen(name) < sizeof(name));
    joust_free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char model[] = "m";
    joust_error err;
    joust_job_endpoint e;
    joust_endpoint_answer answer;
    joust_endpoint_server server;
    bool listed;
    char text[256];
    int64_t live = joust_alloc_live();
    uint8_t how = n ? data[0] : 0;
    uint32_t choices = 1 + (how >> 1) % 3;
    if (n == 0)
        return 0;
    joust_job_endpoint_init(&e);
    e.model = model;
    e.mode = how & 1 ? JOUST_ENDPOINT_CHAT : JOUST_ENDPOINT_COMPLETIONS;
    if (joust_endpoint_parse(data + 1, n - 1, &e, choices, MAX_TOKENS, &answer, &err) == JOUST_OK) {
        check(&answer, choices);
        joust_endpoint_answer_fini(&answer);
    }
    check_scores(data + 1, n - 1, &e);
    if (joust_endpoint_parse_models(data + 1, n - 1, model, &server, &listed, &err) == JOUST_OK)
        fuzz_require(server > JOUST_SERVER_AUTO && server <= JOUST_SERVER_OPENAI);
    joust_endpoint_error_text(data + 1, n - 1, text);
    fuzz_require(strlen(text) <= 200);
    check_line(data + 1, n - 1);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
