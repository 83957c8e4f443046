#include "coordinator/prompt_file.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "proto/base/file.h"
#include "proto/base/text.h"

#define MOST_READ (JOUST_MAX_PROMPT_LINE_BYTES + 3) /* of a line: one byte too many, "\r\n" */

/* How often each content was met, by digest: open addressing, 40 bytes a distinct prompt at half load. */
typedef struct seen_table {
    struct seen {
        joust_digest digest;
        uint32_t count; /* 0: empty place */
    } * places;
    size_t n, capacity; /* capacity: a power of two */
} seen_table;

static struct seen *seen_find(const seen_table *t, const joust_digest *digest)
{
    size_t at = (size_t)joust_get_be64(digest->bytes) & (t->capacity - 1);
    while (t->places[at].count && !joust_digest_equal(&t->places[at].digest, digest))
        at = (at + 1) & (t->capacity - 1);
    return &t->places[at];
}

static joust_status seen_grow(seen_table *t, joust_error *err)
{
    seen_table larger = {.capacity = t->capacity ? 2 * t->capacity : 1024, .n = t->n};
    larger.places = joust_calloc(larger.capacity, sizeof(*larger.places));
    if (!larger.places)
        return joust_fail(err, JOUST_NOMEM, "prompts: out of memory");
    for (size_t i = 0; i < t->capacity; i++)
        if (t->places[i].count)
            *seen_find(&larger, &t->places[i].digest) = t->places[i];
    joust_free(t->places);
    *t = larger;
    return JOUST_OK;
}

/* Number of times the digest was met before; counts this one. */
static joust_status seen_count(seen_table *t, const joust_digest *digest, uint32_t *ret,
                               joust_error *err)
{
    joust_status st = 2 * t->n >= t->capacity ? seen_grow(t, err) : JOUST_OK;
    if (st != JOUST_OK)
        return st;
    struct seen *place = seen_find(t, digest);
    place->digest = *digest;
    *ret = place->count++;
    t->n += *ret == 0;
    return JOUST_OK;
}

/* The text under one of two keys; NULL with JOUST_OK if neither is there (or it is null). View of object. */
static joust_status text_of(json_t *object, const char *key, const char *alias, const char **ret,
                            joust_error *err)
{
    json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value)) {
        key = alias;
        value = json_object_get(object, alias);
    }
    *ret = NULL;
    if (!value || json_is_null(value))
        return JOUST_OK;
    if (!json_is_string(value))
        return joust_fail(err, JOUST_INVALID, "key '%s': expected a string", key);
    if (strlen(json_string_value(value)) != json_string_length(value))
        return joust_fail(err, JOUST_INVALID, "key '%s': contains a NUL character", key);
    *ret = json_string_value(value);
    return JOUST_OK;
}

/* What one message adds to the text that readers and judges see: its words, after its role if it isn't the only one. */
static joust_status add_message(joust_buf *to, const json_t *message, size_t index, bool only,
                                joust_error *err)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    json_t *content = json_object_get(message, "content");
    if (!role)
        return joust_fail(err, JOUST_INVALID, "key 'messages': message %zu: no 'role'", index + 1);
    bool none = !content || json_is_null(content);
    if (none && !json_object_get(message, "tool_calls"))
        return joust_fail(err, JOUST_INVALID, "key 'messages': message %zu: no 'content'",
                          index + 1);
    const char *words = json_string_value(content);
    if (words && strlen(words) != json_string_length(content))
        return joust_fail(err, JOUST_INVALID,
                          "key 'messages': message %zu: contains a NUL character", index + 1);
    if (!only)
        joust_buf_format(to, "%s%s: ", index ? "\n\n" : "", role);
    char *other = words || none ? NULL : json_dumps(content, JSON_COMPACT | JSON_ENCODE_ANY);
    joust_buf_text(to, words ? words : other ? other : "");
    free(other);
    return JOUST_OK;
}

/* A conversation: a list of messages, with what else its rendering takes from the line. */
static joust_status take_messages(json_t *object, json_t *messages, joust_buf *text, char **ret,
                                  joust_error *err)
{
    static const char *const others[] = {"tools", "documents", "chat_template_kwargs"};
    size_t n = json_array_size(messages);
    if (n == 0)
        return joust_fail(err, JOUST_INVALID, "key 'messages': expected a list of messages");
    const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    bool only = n == 1 && role && strcmp(role, "user") == 0;
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < n; i++)
        st = add_message(text, json_array_get(messages, i), i, only, err);
    if (st != JOUST_OK)
        return st;
    json_t *whole = json_object();
    bool ok = whole && json_object_set(whole, "messages", messages) == 0;
    for (size_t i = 0; ok && i < sizeof(others) / sizeof(*others); i++) {
        json_t *value = json_object_get(object, others[i]);
        if (value && !json_is_null(value))
            ok = json_object_set(whole, others[i], value) == 0;
    }
    char *dumped = ok ? json_dumps(whole, JSON_COMPACT) : NULL;
    json_decref(whole);
    *ret = dumped ? joust_strdup(dumped) : NULL;
    free(dumped);
    return *ret ? joust_buf_status(text, err) : joust_fail(err, JOUST_NOMEM, "out of memory");
}

/* The prompt under its several names: a text, or (as TRL has it) a list of messages. */
static joust_status take_prompt(json_t *object, joust_prompt *p, joust_error *err)
{
    const char *text = NULL;
    joust_buf shown = {0};
    json_t *messages = json_object_get(object, "prompt");
    if (!messages || json_is_null(messages))
        messages = json_object_get(object, "question");
    if (!json_is_array(messages)) {
        joust_status st = text_of(object, "prompt", "question", &text, err);
        if (st != JOUST_OK)
            return st;
        messages = json_object_get(object, "messages");
    }
    if (text) {
        p->text = joust_strdup(text);
        return p->text ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "out of memory");
    }
    if (!messages)
        return joust_fail(err, JOUST_INVALID,
                          "no prompt: expected the key 'prompt' (or 'question', or 'messages')");
    joust_status st = take_messages(object, messages, &shown, &p->messages, err);
    if (st == JOUST_OK) {
        p->text = shown.n ? joust_buf_take_text(&shown) : joust_strdup("");
        st = p->text ? st : joust_fail(err, JOUST_NOMEM, "out of memory");
    }
    joust_buf_fini(&shown);
    return st;
}

static joust_status fill_prompt(json_t *object, joust_prompt *p, joust_error *err)
{
    const char *reference, *id = NULL;
    char number[32];
    joust_status st = take_prompt(object, p, err);
    if (st == JOUST_OK)
        st = text_of(object, "reference", "answer", &reference, err);
    if (st != JOUST_OK)
        return st;
    json_t *given = json_object_get(object, "id");
    if (json_is_integer(given)) {
        snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(given));
        id = number;
    } else if ((st = text_of(object, "id", "id", &id, err)) != JOUST_OK) {
        return st;
    }
    json_t *weight = json_object_get(object, "weight");
    if (weight && !json_is_number(weight))
        return joust_fail(err, JOUST_INVALID, "key 'weight': expected a number");
    p->weight = weight ? json_number_value(weight) : 1;
    p->reference = reference ? joust_strdup(reference) : NULL;
    p->id = id ? joust_strdup(id) : NULL;
    if ((reference && !p->reference) || (id && !p->id))
        return joust_fail(err, JOUST_NOMEM, "out of memory");
    p->digest = joust_prompt_digest_of(p);
    return joust_prompt_validate(p, err);
}

/* How many of the first bytes are white space. */
static size_t count_blank(const char *line, size_t n)
{
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", line[i]) && line[i])
        i++;
    return i;
}

joust_status joust_prompt_parse(const void *line, size_t n, joust_prompt *ret, joust_error *err)
{
    if (n > JOUST_MAX_PROMPT_LINE_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "longer than %u bytes",
                          JOUST_MAX_PROMPT_LINE_BYTES);
    if (n == count_blank(line, n))
        return joust_fail(err, JOUST_MALFORMED, "an empty line: expected {\"prompt\": …}");
    if (n >= 3 && !memcmp(line, "\xef\xbb\xbf", 3))
        return joust_fail(err, JOUST_MALFORMED,
                          "begins with a byte order mark: save the file as UTF-8 without one");
    json_error_t problem;
    json_t *object = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!object)
        return joust_fail(err, JOUST_MALFORMED, "not JSON: %s (column %d)", problem.text,
                          problem.column);
    joust_prompt p = {0};
    joust_status st = json_is_object(object)
                          ? fill_prompt(object, &p, err)
                          : joust_fail(err, JOUST_INVALID, "expected an object {\"prompt\": …}");
    json_decref(object);
    if (st == JOUST_OK)
        *ret = p;
    else
        joust_prompt_fini(&p);
    return st;
}

typedef struct reading {
    const char *path;
    FILE *file;
    joust_buf line; /* with its newline */
    seen_table seen;
    joust_hasher hasher;
} reading;

/* Reads the next line; false at the end. One that is longer than a prompt may be is read no further than shows it. Out of
 * memory is found in the buffer. */
static bool read_line(reading *r)
{
    int c = 0;
    joust_buf_clear(&r->line);
    while (c != '\n' && r->line.n < MOST_READ && joust_buf_ok(&r->line) &&
           (c = getc_unlocked(r->file)) != EOF)
        joust_buf_u8(&r->line, (uint8_t)c);
    return r->line.n > 0 || !joust_buf_ok(&r->line);
}

static joust_status see_line(reading *r, uint64_t number, joust_prompt_see *see, void *user,
                             joust_error *err)
{
    joust_prompt prompt = {0};
    size_t length = r->line.n;
    joust_status st = joust_buf_status(&r->line, err);
    if (st != JOUST_OK)
        return st;
    joust_hasher_add(&r->hasher, r->line.data, length);
    if (length && r->line.data[length - 1] == '\n')
        length--;
    if (length && r->line.data[length - 1] == '\r')
        length--;
    st = joust_prompt_parse(r->line.data, length, &prompt, err);
    if (st == JOUST_OK)
        st = seen_count(&r->seen, &prompt.digest, &prompt.occurrence, err);
    if (st != JOUST_OK)
        st = joust_blame(err, st, "%s:%llu", r->path, (unsigned long long)number + 1);
    else if (see)
        st = see(user, number, &prompt, err);
    joust_prompt_fini(&prompt);
    return st;
}

joust_status joust_prompt_file_read(const char *path, joust_prompt_see *see, void *user,
                                    uint64_t *ret_lines, joust_digest *ret_content,
                                    joust_error *err)
{
    reading r = {.path = path};
    uint64_t size;
    int fd;
    joust_status st = joust_file_open(path, &fd, &size, err);
    if (st != JOUST_OK)
        return st;
    if (!(r.file = fdopen(fd, "r"))) {
        close(fd);
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    }
    joust_hasher_init(&r.hasher);
    uint64_t lines = 0;
    while (st == JOUST_OK && read_line(&r))
        st = see_line(&r, lines++, see, user, err);
    if (st == JOUST_OK && ferror(r.file))
        st = joust_fail(err, JOUST_IO, "%s: can't read: %s", path, strerror(errno));
    if (st == JOUST_OK && lines == 0)
        st = joust_fail(err, JOUST_INVALID, "%s: empty: expected one JSON object a line", path);
    if (st == JOUST_OK && lines > UINT32_MAX)
        st = joust_fail(err, JOUST_TOO_LARGE, "%s: more than %u lines", path, UINT32_MAX);
    if (st == JOUST_OK) {
        *ret_lines = lines;
        *ret_content = joust_hasher_end(&r.hasher);
    }
    joust_buf_fini(&r.line);
    joust_free(r.seen.places);
    fclose(r.file);
    return st;
}
