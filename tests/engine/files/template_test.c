/* Templates: slots can't open others or become special tokens; prefixes stand at begins only. */
#include "tests/check.h"

#include <string.h>

#include "files_fixture.h"
#include "worker/engine/text/tokenizer.h"

static const char json[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true},"
    "{\"id\":1,\"content\":\"<ans>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"always\"}"
    ","
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"<ans>\":1,\"_\":2,\"a\":3,\"b\":4,\"{\":5,"
    "\"}\":6,\"<\":7,\">\":8,\"s\":9,\"x\":10},\"merges\":[]}}";

static const char *const allowed[] = {"prompt", "answer"};

static joust_tokenizer *load(void)
{
    joust_error err = {0};
    joust_tokenizer *t = NULL;
    check_ok(joust_tokenizer_parse(json, strlen(json), "test", &t, &err));
    return t;
}

/* Renders text with both slots and compares with the ids, which end at -1. */
static void check_render(const char *text, const char *prompt, const char *answer, const int *ids)
{
    joust_error err = {0};
    joust_tokenizer *t = load();
    joust_template *template = NULL;
    joust_tokens tokens = {0};
    joust_slot slots[] = {{.name = "prompt", .text = prompt}, {.name = "answer", .text = answer}};
    check_ok(joust_template_compile(t, text, allowed, 2, &template, &err));
    joust_digest digest = joust_digest_of(text, strlen(text)),
                 own = joust_template_digest(template);
    assert_true(joust_digest_equal(&digest, &own));
    check_ok(joust_template_render(template, slots, 2, &tokens, &err));
    for (uint32_t i = 0; i < tokens.n; i++)
        assert_int_equal((int)tokens.ids[i], ids[i]);
    assert_int_equal(ids[tokens.n], -1);
    joust_tokens_fini(&tokens);
    joust_template_free(&template);
    joust_tokenizer_free(&t);
}

static void test_render(void **state)
{
    (void)state;
    /* a prefix after <s> and at the begin, none where text goes on after text */
    check_render("<s>{prompt}<ans>", "ab", "", (int[]){0, 2, 3, 4, 1, -1});
    check_render("a{prompt}b", "x", "", (int[]){2, 3, 10, 4, -1});
    check_render("{prompt}{answer}", "a", "b", (int[]){2, 3, 4, -1});
    check_render("{prompt}{answer}", "", "b", (int[]){2, 4, -1});
    check_render("{prompt}", "", "", (int[]){-1});
    check_render("{{a}}", "", "", (int[]){2, 5, 3, 6, -1});
}

static void test_slots_are_inert(void **state)
{
    (void)state;
    check_render("{prompt}<ans>", "{s}", "", (int[]){2, 5, 9, 6, 1, -1});
    check_render("{prompt}<ans>", "<s>", "", (int[]){2, 7, 9, 8, 1, -1});
    check_render("{prompt}<ans>", "{{", "", (int[]){2, 5, 5, 1, -1});
}

static void test_token_slots(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_tokenizer *t = load();
    joust_template *template = NULL;
    joust_tokens tokens = {0};
    const uint32_t prompt[] = {0, 2, 3};
    joust_slot slots[] = {{.name = "prompt", .tokens = prompt, .n_tokens = 3},
                          {.name = "answer", .text = "b"}};
    check_ok(joust_template_compile(t, "{prompt}{answer}<ans>", allowed, 2, &template, &err));
    check_ok(joust_template_render(template, slots, 2, &tokens, &err));
    assert_int_equal(tokens.n, 5);
    assert_memory_equal(tokens.ids, ((uint32_t[]){0, 2, 3, 4, 1}), 5 * sizeof(uint32_t));
    check_status(JOUST_INVALID, joust_template_render(template, slots, 1, &tokens, &err));
    check_text(&err, "nothing fills {answer}");
    assert_int_equal(tokens.n, 5); /* as it was */
    slots[1].text = "Z";
    check_status(JOUST_INVALID, joust_template_render(template, slots, 2, &tokens, &err));
    check_text(&err, "slot {answer}: \"Z\" is not in the vocabulary");
    assert_int_equal(tokens.n, 5);
    joust_tokens_fini(&tokens);
    joust_template_free(&template);
    joust_tokenizer_free(&t);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {{"{prompt", "byte 0: { is not closed"},
                 {"a}", "byte 1: } without {"},
                 {"a{pro{mpt}", "byte 1: { is not closed"},
                 {"{promt}", "did you mean {prompt}"},
                 {"{}", "{} is no slot"},
                 {"{{x}", "byte 3: } without {"},
                 {"Z{prompt}", "template: \"Z\" is not in the vocabulary"}};
    joust_tokenizer *t = load();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_template *template = NULL;
        check_status(JOUST_INVALID,
                     joust_template_compile(t, cases[i].text, allowed, 2, &template, &err));
        assert_null(template);
        check_text(&err, cases[i].says);
    }
    joust_tokenizer_free(&t);
}

static joust_status compile_and_render(void *context, joust_error *err)
{
    joust_template *template = NULL;
    joust_tokens tokens = {0};
    joust_slot slot = {.name = "prompt", .text = "ab xx"};
    joust_status st =
        joust_template_compile(context, "<s>a {prompt}<ans>", allowed, 2, &template, err);
    if (st == JOUST_OK)
        st = joust_template_render(template, &slot, 1, &tokens, err);
    joust_tokens_fini(&tokens);
    joust_template_free(&template);
    return st;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    joust_tokenizer *t = load();
    check_oom(compile_and_render, t);
    joust_tokenizer_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render), cmocka_unit_test(test_slots_are_inert),
        cmocka_unit_test(test_token_slots), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
