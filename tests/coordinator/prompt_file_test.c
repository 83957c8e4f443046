/* Lines of prompt files: every key and alias, what is refused and where it says the fault is. */
#include "check.h"
#include "oom.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/prompt_file.h"
#include "coordinator/scratch.h"
#include "proto/base/alloc.h"

static joust_prompt parse(const char *line)
{
    joust_error err;
    joust_prompt p;
    check_ok(joust_prompt_parse(line, strlen(line), &p, &err));
    return p;
}

/* NULL stands for no text at all. */
static void check_text(const char *text, const char *expected)
{
    if (!expected)
        assert_null(text);
    else
        assert_string_equal(text, expected);
}

static void keys_and_aliases(void **state)
{
    static const struct {
        const char *line, *text, *reference, *id;
        double weight;
    } all[] = {
        {"{\"prompt\": \"a\"}", "a", NULL, NULL, 1},
        {"{\"prompt\": \"a\", \"reference\": \"r\", \"id\": \"i\", \"weight\": 2.5}", "a", "r", "i",
         2.5},
        {"{\"question\": \"q\", \"answer\": \"#### 3\"}", "q", "#### 3", NULL, 1},
        {"{\"question\": \"q\", \"prompt\": \"a\", \"answer\": \"x\", \"reference\": \"r\"}", "a",
         "r", NULL, 1},
        {"{\"prompt\": null, \"question\": \"q\", \"reference\": null, \"id\": null}", "q", NULL,
         NULL, 1},
        {"{\"prompt\": \"a\", \"weight\": 0, \"source\": {\"any\": [1, null]}}", "a", NULL, NULL,
         0},
        {" {\"prompt\": \"caf\\u00e9 \\ud83e\\udd99\"} ", "caf\xc3\xa9 \xf0\x9f\xa6\x99", NULL,
         NULL, 1},
        {"{\"prompt\": \"\"}", "", NULL, NULL, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        joust_prompt p = parse(all[i].line);
        joust_digest digest = joust_prompt_digest(all[i].id, all[i].text, all[i].reference);
        check_text(p.text, all[i].text);
        check_text(p.reference, all[i].reference);
        assert_null(p.messages);
        check_text(p.id, all[i].id);
        assert_true(p.weight == all[i].weight);
        assert_int_equal(p.occurrence, 0);
        assert_memory_equal(&p.digest, &digest, sizeof digest);
        joust_prompt_fini(&p);
    }
}

static void conversations(void **state)
{
    static const struct {
        const char *line, *text, *messages;
        bool plain;
    } all[] = {
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"m\\u00e9\"}], \"id\": -12}",
         "m\xc3\xa9", "{\"messages\":[{\"role\":\"user\",\"content\":\"m\xc3\xa9\"}]}", true},
        {"{\"prompt\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
         "\"content\": \"u\"}]}",
         "system: s\n\nuser: u",
         "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
         "\"u\"}]}",
         false},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}], \"tools\": [{\"a\": 1}], "
         "\"x\": 2}",
         "u", "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}],\"tools\":[{\"a\":1}]}",
         false},
        {"{\"messages\": [{\"role\": \"user\", \"content\": [1]}, {\"role\": \"a\", "
         "\"tool_calls\": []}]}",
         "user: [1]\n\na: ",
         "{\"messages\":[{\"role\":\"user\",\"content\":[1]},{\"role\":\"a\",\"tool_calls\":[]}]}",
         false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        joust_prompt p = parse(all[i].line);
        joust_digest digest = joust_prompt_digest_of(&p);
        joust_digest other = joust_prompt_digest(p.id, p.text, p.reference);
        check_text(p.text, all[i].text);
        check_text(p.messages, all[i].messages);
        assert_int_equal(joust_prompt_is_plain(&p), all[i].plain);
        assert_memory_equal(&p.digest, &digest, sizeof digest);
        assert_memory_not_equal(&p.digest, &other, sizeof other);
        joust_prompt_fini(&p);
    }
}

static void bad_lines(void **state)
{
    static const struct {
        const char *line;
        joust_status status;
        const char *says;
    } all[] = {
        {"", JOUST_MALFORMED, "an empty line"},
        {"\xef\xbb\xbf{\"prompt\": \"a\"}", JOUST_MALFORMED, "byte order mark"},
        {"{\"prompt\": \"a\"", JOUST_MALFORMED, "column 14"},
        {"{\"prompt\": \"a\"} {}", JOUST_MALFORMED, "not JSON"},
        {"{\"prompt\": \"a\", \"prompt\": \"b\"}", JOUST_MALFORMED, "duplicate"},
        {"{\"prompt\": \"\xc3\x28\"}", JOUST_MALFORMED, "byte 0xc3"},
        {"{\"prompt\": \"\\ud83e\"}", JOUST_MALFORMED, "not JSON"},
        {"[\"a\"]", JOUST_INVALID, "expected an object"},
        {"{}", JOUST_INVALID, "no prompt: expected the key 'prompt'"},
        {"{\"reference\": \"r\"}", JOUST_INVALID, "no prompt"},
        {"{\"prompt\": 3}", JOUST_INVALID, "key 'prompt': expected a string"},
        {"{\"question\": [\"a\"]}", JOUST_INVALID, "message 1: no 'role'"},
        {"{\"prompt\": \"a\\u0000b\"}", JOUST_INVALID, "key 'prompt': contains a NUL"},
        {"{\"prompt\": \"a\", \"reference\": 3}", JOUST_INVALID,
         "key 'reference': expected a string"},
        {"{\"prompt\": \"a\", \"answer\": \"\\u0000\"}", JOUST_INVALID,
         "key 'answer': contains a NUL"},
        {"{\"prompt\": \"a\", \"id\": 1.5}", JOUST_INVALID, "key 'id': expected a string"},
        {"{\"prompt\": \"a\", \"weight\": \"1\"}", JOUST_INVALID,
         "key 'weight': expected a number"},
        {"{\"prompt\": \"a\", \"weight\": -1}", JOUST_INVALID, "weight: below 0"},
        {"{\"prompt\": \"a\", \"weight\": 1e999}", JOUST_MALFORMED, "not JSON"},
        {"{\"messages\": []}", JOUST_INVALID, "expected a list of messages"},
        {"{\"messages\": \"a\"}", JOUST_INVALID, "expected a list of messages"},
        {"{\"messages\": [{\"content\": \"a\"}]}", JOUST_INVALID, "message 1: no 'role'"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\"}]}",
         JOUST_INVALID, "message 2: no 'content'"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000\"}]}", JOUST_INVALID,
         "message 1: contains a NUL"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        joust_error err = {0};
        joust_prompt p = {0};
        check_status(all[i].status, joust_prompt_parse(all[i].line, strlen(all[i].line), &p, &err));
        if (!strstr(err.text, all[i].says))
            fail_msg("%s: says '%s', not '%s'", all[i].line, err.text, all[i].says);
        assert_null(p.text); /* outputs are set on success only */
    }
}

static void a_nul_byte_is_no_text(void **state)
{
    static const char line[] = "{\"prompt\": \"a\0b\"}";
    joust_error err;
    joust_prompt p;
    (void)state;
    check_status(JOUST_MALFORMED, joust_prompt_parse(line, sizeof line - 1, &p, &err));
}

/* A line of n bytes: a prompt of as many letters as fit. */
static char *long_line(size_t n)
{
    static const char begin[] = "{\"prompt\":\"", end[] = "\"}";
    char *line = joust_malloc(n);
    assert_non_null(line);
    memset(line, 'a', n);
    memcpy(line, begin, sizeof begin - 1);
    memcpy(line + n - (sizeof end - 1), end, sizeof end - 1);
    return line;
}

static void long_lines(void **state)
{
    size_t most = JOUST_MAX_PROMPT_LINE_BYTES;
    joust_error err;
    joust_prompt p;
    char *line = long_line(most + 1);
    (void)state;
    check_status(JOUST_TOO_LARGE, joust_prompt_parse(line, most + 1, &p, &err));
    joust_free(line);
    line = long_line(most);
    check_ok(joust_prompt_parse(line, most, &p, &err));
    joust_prompt_fini(&p);
    joust_free(line);
}

/* Files ---------------------------------------------------------------------------------------- */

typedef struct seen {
    uint32_t n;
    uint64_t lines[8];
    uint32_t occurrences[8];
    char first[8]; /* letter of each prompt */
} seen;

static joust_status see(void *user, uint64_t line, const joust_prompt *prompt, joust_error *err)
{
    seen *s = user;
    (void)err;
    s->lines[s->n] = line;
    s->occurrences[s->n] = prompt->occurrence;
    s->first[s->n++] = prompt->text[0];
    return JOUST_OK;
}

static joust_status read_text(const char *text, size_t n, seen *ret, uint64_t *ret_lines,
                              joust_error *err)
{
    joust_digest content;
    char *dir = scratch_make(), *path = scratch_write(dir, "prompts.jsonl", text, n);
    *ret = (seen){0};
    joust_status st = joust_prompt_file_read(path, see, ret, ret_lines, &content, err);
    if (st == JOUST_OK) {
        joust_digest expected = joust_digest_of(text, n);
        assert_memory_equal(&content, &expected, sizeof content);
    }
    joust_free(path);
    scratch_remove(&dir);
    return st;
}

static void repeats_are_numbered(void **state)
{
    static const char text[] = "{\"prompt\": \"a\"}\n"
                               "{\"prompt\": \"b\"}\r\n"
                               "{\"question\": \"a\", \"weight\": 3}\n"
                               "{\"prompt\": \"a\", \"id\": \"other\"}\n"
                               "{\"prompt\": \"a\", \"note\": 1}";
    static const uint32_t occurrences[] = {0, 0, 1, 0, 2};
    joust_error err;
    seen s;
    uint64_t lines;
    (void)state;
    check_ok(read_text(text, sizeof text - 1, &s, &lines, &err));
    assert_int_equal(lines, 5);
    assert_int_equal(s.n, 5);
    assert_string_equal(s.first, "abaaa");
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(s.lines[i], i);
        assert_int_equal(s.occurrences[i], occurrences[i]);
    }
}

/* More distinct prompts than the table of digests begins with. */
static void many_prompts(void **state)
{
    joust_error err;
    joust_buf text = {0};
    joust_digest content;
    uint64_t lines;
    (void)state;
    for (int i = 0; i < 5000; i++)
        joust_buf_format(&text, "{\"prompt\": \"%d\"}\n", i % 4000);
    char *dir = scratch_make(), *path = scratch_write(dir, "many.jsonl", text.data, text.n);
    check_ok(joust_prompt_file_read(path, NULL, NULL, &lines, &content, &err));
    assert_int_equal(lines, 5000);
    joust_buf_fini(&text);
    joust_free(path);
    scratch_remove(&dir);
}

static void faults_name_their_line(void **state)
{
    static const struct {
        const char *text;
        joust_status status;
        const char *says;
    } all[] = {
        {"", JOUST_INVALID, "prompts.jsonl: empty"},
        {"{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\"}\n", JOUST_MALFORMED,
         "prompts.jsonl:2: an empty line"},
        {"{\"prompt\": \"a\"}\r\n\r\n", JOUST_MALFORMED, "prompts.jsonl:2: an empty line"},
        {"{\"prompt\": \"a\"}\n{\"prompt\": 1}\n", JOUST_INVALID, "prompts.jsonl:2: key 'prompt'"},
        {"{\"text\": \"a\"}\n", JOUST_INVALID, "prompts.jsonl:1: no prompt"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        joust_error err = {0};
        seen s;
        uint64_t lines = 99;
        check_status(all[i].status, read_text(all[i].text, strlen(all[i].text), &s, &lines, &err));
        if (!strstr(err.text, all[i].says))
            fail_msg("case %zu says '%s', not '%s'", i, err.text, all[i].says);
        assert_int_equal(lines, 99);
    }
}

/* A line too long is told by its number, and no more of it is read than shows it. */
static void a_long_line_in_a_file(void **state)
{
    size_t most = JOUST_MAX_PROMPT_LINE_BYTES;
    char *lines = joust_malloc(3 * most + 20), *line = long_line(most);
    joust_error err = {0};
    seen s;
    uint64_t n;
    (void)state;
    assert_non_null(lines);
    memcpy(lines, line, most);
    memcpy(lines + most, "\r\n", 2);
    check_ok(read_text(lines, most + 2, &s, &n, &err));
    assert_int_equal(n, 1);
    memset(lines + most + 2, ' ', 2 * most);
    check_status(JOUST_TOO_LARGE, read_text(lines, 3 * most + 2, &s, &n, &err));
    assert_non_null(strstr(err.text, "prompts.jsonl:2: longer than"));
    assert_int_equal(s.n, 1);
    joust_free(line);
    joust_free(lines);
}

static joust_status refuse(void *user, uint64_t line, const joust_prompt *prompt, joust_error *err)
{
    (void)user, (void)prompt;
    return line == 1 ? joust_fail(err, JOUST_DISK_FULL, "no room") : JOUST_OK;
}

static void see_may_end_it(void **state)
{
    static const char text[] = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\nnot JSON";
    joust_error err;
    joust_digest content;
    uint64_t lines;
    (void)state;
    char *dir = scratch_make(), *path = scratch_write(dir, "p.jsonl", text, sizeof text - 1);
    check_status(JOUST_DISK_FULL,
                 joust_prompt_file_read(path, refuse, NULL, &lines, &content, &err));
    assert_string_equal(err.text, "no room");
    joust_free(path);
    scratch_remove(&dir);
}

static void no_file(void **state)
{
    joust_error err;
    joust_digest content;
    uint64_t lines;
    (void)state;
    char *dir = scratch_make(), *path = joust_path_join(dir, "absent.jsonl");
    check_status(JOUST_NOT_FOUND, joust_prompt_file_read(path, NULL, NULL, &lines, &content, &err));
    assert_non_null(strstr(err.text, "absent.jsonl: can't open"));
    joust_free(path);
    check_status(JOUST_INVALID, joust_prompt_file_read(dir, NULL, NULL, &lines, &content, &err));
    assert_non_null(strstr(err.text, "not a regular file"));
    scratch_remove(&dir);
}

static joust_status read_lines(void *path, joust_error *err)
{
    joust_digest content;
    uint64_t lines;
    return joust_prompt_file_read(path, NULL, NULL, &lines, &content, err);
}

/* Whichever allocation of ours fails, it is said and nothing stays behind. */
static void out_of_memory(void **state)
{
    static const char text[] =
        "{\"prompt\": \"a\", \"reference\": \"r\", \"id\": \"i\"}\n{\"prompt\": \"b\"}\n";
    (void)state;
    char *dir = scratch_make(), *path = scratch_write(dir, "p.jsonl", text, sizeof text - 1);
    int64_t n = check_oom(read_lines, path);
    assert_true(n > 5 && n < 1000);
    joust_free(path);
    scratch_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys_and_aliases),
                                       cmocka_unit_test(conversations),
                                       cmocka_unit_test(bad_lines),
                                       cmocka_unit_test(a_nul_byte_is_no_text),
                                       cmocka_unit_test(long_lines),
                                       cmocka_unit_test(repeats_are_numbered),
                                       cmocka_unit_test(many_prompts),
                                       cmocka_unit_test(faults_name_their_line),
                                       cmocka_unit_test(a_long_line_in_a_file),
                                       cmocka_unit_test(see_may_end_it),
                                       cmocka_unit_test(no_file),
                                       cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
