/* How prompts become tokens: the job's template, the model's chat template, and what has neither. */
#include "proto/base/alloc.h"
#include "tests/check.h"
#include "worker/prompter.h"

#include <stdlib.h>
#include <string.h>

static const char tokenizer[] =
    "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"?\":0,\"<s>\":1,\"a\":2,\"b\":3,\"user\":4,"
    "\"system\":5,"
    "\":\":6},\"unk_token\":\"?\"},\"pre_tokenizer\":{\"type\":\"Whitespace\"},\"added_tokens\":"
    "[{\"id\":1,\"content\":\"<s>\",\"special\":true}],\"post_processor\":{\"type\":"
    "\"BertProcessing\",\"cls\":[\"<s>\",1],\"sep\":[\":\",6]}}";
static const char template[] = "{% for m in messages %}<s>{{ m.role }} {{ m.content }}{% endfor %}";

typedef struct fixture {
    joust_tokenizer *tokenizer;
    joust_chat *chat;
    joust_model_config config;
    joust_error no_chat;
} fixture;

static void open_fixture(fixture *f)
{
    joust_error err = {0};
    memset(f, 0, sizeof(*f));
    check_ok(joust_tokenizer_parse(tokenizer, strlen(tokenizer), "t", &f->tokenizer, &err));
    check_ok(joust_chat_compile(template, strlen(template), NULL, "c", &f->chat, &err));
    f->config.bos_token = 1;
    (void)joust_fail(&f->no_chat, JOUST_NOT_FOUND, "no chat template here");
}

static void close_fixture(fixture *f)
{
    joust_tokenizer_free(&f->tokenizer);
    joust_chat_free(&f->chat);
}

static joust_status render(const fixture *f, char *job_template, bool chat, char *text,
                           char *messages, joust_tokens *to, joust_error *err)
{
    joust_prompter *p = NULL;
    joust_job job;
    joust_prompt prompt = {.text = text, .messages = messages};
    joust_status st = joust_job_init(&job, err); /* as a job file without the key leaves it */
    if (st != JOUST_OK)
        return st;
    if (job_template) {
        joust_free(job.rollout.template_text);
        job.rollout.template_text = joust_strdup(job_template);
    }
    st = joust_prompter_create(&job, f->tokenizer, &f->config, chat ? f->chat : NULL, &f->no_chat,
                               &p, err);
    if (st == JOUST_OK)
        st = joust_prompter_render(p, &prompt, to, err);
    joust_prompter_free(&p);
    joust_job_fini(&job);
    return st;
}

#define ONE "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"
#define TWO                                                                                        \
    "{\"messages\":[{\"role\":\"system\",\"content\":\"a "                                         \
    "<s>\"},{\"role\":\"user\",\"content\":\"b\"}]}"

static void test_tokens(void **state)
{
    static const struct {
        const char *job_template, *text, *messages;
        uint32_t n, ids[8];
    } cases[] = {
        {NULL, "a", NULL, 3, {1, 2, 6}},      {"{prompt}", "a <s>", NULL, 6, {1, 2, 0, 0, 0, 6}},
        {"{prompt} b", "a", NULL, 2, {2, 3}}, {NULL, "a", ONE, 3, {1, 4, 2}},
        {"{prompt} b", "a", ONE, 2, {2, 3}},  {NULL, "x", TWO, 7, {1, 5, 2, 0, 0, 0, 1}},
        {"{prompt}", "a", ONE, 3, {1, 4, 2}}};
    fixture f;
    (void)state;
    open_fixture(&f);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_tokens tokens = {0};
        check_ok(render(&f, (char *)(uintptr_t)cases[i].job_template, true,
                        (char *)(uintptr_t)cases[i].text, (char *)(uintptr_t)cases[i].messages,
                        &tokens, &err));
        assert_true(tokens.n >= cases[i].n);
        assert_memory_equal(tokens.ids, cases[i].ids, cases[i].n * sizeof(uint32_t));
        joust_tokens_fini(&tokens);
    }
    close_fixture(&f);
}

/* A tokenizer without a post-processor adds nothing, whatever bos the model has (as Qwen2's); only a prompt of no token
 * becomes bos. */
static void test_without_post_processor(void **state)
{
    fixture f;
    joust_error err = {0};
    joust_tokens tokens = {0};
    char text[] = "a", one[] = ONE, empty[] = "", *plain = strdup(tokenizer);
    (void)state;
    open_fixture(&f);
    joust_tokenizer_free(&f.tokenizer);
    strcpy(strstr(plain, ",\"post_processor\""), "}");
    check_ok(joust_tokenizer_parse(plain, strlen(plain), "t", &f.tokenizer, &err));
    check_ok(render(&f, NULL, false, text, NULL, &tokens, &err));
    assert_true(tokens.n == 1 && tokens.ids[0] == 2);
    tokens.n = 0;
    check_ok(render(&f, NULL, false, text, one, &tokens, &err)); /* no chat template: as plain */
    assert_true(tokens.n == 1 && tokens.ids[0] == 2);
    tokens.n = 0;
    check_ok(render(&f, NULL, false, empty, NULL, &tokens, &err));
    assert_true(tokens.n == 1 && tokens.ids[0] == 1);
    f.config.bos_token = UINT32_MAX;
    tokens.n = 0;
    check_status(JOUST_INVALID, render(&f, NULL, false, empty, NULL, &tokens, &err));
    joust_tokens_fini(&tokens);
    free(plain);
    close_fixture(&f);
}

static void check_fails(const fixture *f, char *job_template, bool chat, char *text, char *messages,
                        const char *says)
{
    joust_error err = {0};
    joust_tokens tokens = {0};
    check_status(JOUST_INVALID, render(f, job_template, chat, text, messages, &tokens, &err));
    if (!strstr(err.text, says))
        fail_msg("'%s' doesn't say '%s'", err.text, says);
    assert_int_equal(tokens.n, 0);
    joust_tokens_fini(&tokens);
}

static void test_refused(void **state)
{
    fixture f;
    char given[] = "{prompt} b", bad[] = "{other}", given_none[] = "{prompt}{prompt}", text[] = "a",
         empty[] = "", two[] = TWO, none[] = "{\"messages\":[{\"role\":\"user\"}]}";
    (void)state;
    open_fixture(&f);
    check_fails(&f, NULL, false, text, two, "no chat template here; rollout.chat_template");
    check_fails(&f, given, true, text, two, "has no place in rollout.template");
    check_fails(&f, bad, true, text, NULL, "rollout.template");
    joust_chat_free(&f.chat);
    joust_error err = {0};
    check_ok(joust_chat_compile("{{ messages[0].content.x.y }}", 29, NULL, "c", &f.chat, &err));
    check_fails(&f, NULL, true, text, none, "c, line 1: '.x' of an undefined value");
    check_fails(&f, given_none, true, empty, NULL, "the prompt has no token");
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tokens),
                                       cmocka_unit_test(test_without_post_processor),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
