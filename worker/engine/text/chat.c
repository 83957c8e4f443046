/* Chat templates' public face: reading, rendering, encoding. */
#include "worker/engine/text/chat.h"

#include <string.h>

#include "chat_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "tokenizer_internal.h"

#define MAX_CONVERSATION_BYTES (16u << 20)
#define MAX_CONFIG_BYTES       (64u << 20)

/* The text of a template as Jinja's lexer takes it: line breaks are \n, a last one is dropped. Kept in the arena. */
static joust_status normalize(joust_chat *chat, const char *text, size_t n, const char **ret,
                              size_t *ret_n, joust_error *err)
{
    size_t bad, k = 0;
    if (n > JOUST_CHAT_MAX_TEMPLATE_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: more than %u bytes", chat->name,
                          JOUST_CHAT_MAX_TEMPLATE_BYTES);
    if (!joust_text_is_utf8(text, n, &bad) || memchr(text, 0, n))
        return joust_fail(err, JOUST_MALFORMED, "%s: not UTF-8 text", chat->name);
    char *copy = joust_chat_alloc(&chat->arena, n + 1);
    if (!copy)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", chat->name);
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '\r')
            copy[k++] = text[i];
        else if (i + 1 == n || text[i + 1] != '\n')
            copy[k++] = '\n';
    }
    if (k > 0 && copy[k - 1] == '\n')
        k--;
    copy[k] = 0;
    *ret = copy;
    *ret_n = k;
    return JOUST_OK;
}

static joust_status compile(joust_chat *chat, const char *text, size_t n, joust_error *err)
{
    chat_lexemes lexemes = {0};
    chat_compiling c = {.name = chat->name, .arena = &chat->arena, .err = err};
    joust_status st = normalize(chat, text, n, &text, &n, err);
    if (st == JOUST_OK)
        st = joust_chat_lex(&chat->arena, chat->name, text, n, &lexemes, err);
    c.lexemes = lexemes.items;
    if (st == JOUST_OK)
        st = joust_chat_parse(&c, &chat->body);
    joust_free(lexemes.items);
    return st;
}

/* Keeps a special token; r's memory is the template's own. */
static joust_status keep_token(joust_chat *chat, chat_run *r, const char *name, const char *text)
{
    size_t n_name = strlen(name), n = strlen(text);
    char *copy = joust_chat_alloc(&r->arena, n_name + n + 2);
    if (!copy)
        return joust_fail(r->err, JOUST_NOMEM, "%s: out of memory", chat->name);
    memcpy(copy, name, n_name + 1);
    memcpy(copy + n_name + 1, text, n + 1);
    chat_value key = joust_chat_text(copy), value = joust_chat_text(copy + n_name + 1);
    return joust_chat_put(r, &chat->tokens, &key, &value);
}

/* "bos_token": "<s>" or {"content": "<s>"} of one of the tokenizer's files; what is there already stays. */
static joust_status read_tokens(joust_chat *chat, const json_t *config, joust_error *err)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                        "sep_token", "cls_token", "mask_token"};
    chat_run r = {.chat = chat, .err = err, .arena = chat->arena};
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < sizeof(names) / sizeof(*names); i++) {
        const json_t *token = json_object_get(config, names[i]);
        if (json_is_object(token))
            token = json_object_get(token, "content");
        if (!json_is_string(token) || joust_chat_find(&chat->tokens, names[i]))
            continue;
        st = keep_token(chat, &r, names[i], json_string_value(token));
    }
    chat->arena = r.arena;
    return st;
}

static joust_status create(const char *name, joust_chat **ret, joust_error *err)
{
    joust_chat *chat = joust_calloc(1, sizeof(*chat));
    char *copy = joust_strdup(name);
    if (!chat || !copy) {
        joust_free(chat);
        joust_free(copy);
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
    }
    chat->name = copy;
    chat->arena.max_bytes = JOUST_CHAT_MAX_TREE_BYTES;
    *ret = chat;
    return JOUST_OK;
}

static void digest(joust_chat *chat, const char *text, size_t n)
{
    joust_hasher h;
    joust_hasher_init(&h);
    for (size_t i = 0; i < chat->tokens.n; i++) {
        const chat_value *pair[] = {&chat->tokens.keys[i], &chat->tokens.values[i]};
        for (int k = 0; k < 2; k++) /* with the NUL that follows each in memory */
            joust_hasher_add(&h, pair[k]->as.text.bytes, pair[k]->as.text.n + 1);
    }
    joust_hasher_add(&h, text, n);
    chat->digest = joust_hasher_end(&h);
}

joust_status joust_chat_compile(const char *text, size_t n, const char *tokens_json,
                                const char *name, joust_chat **ret, joust_error *err)
{
    joust_chat *chat = NULL;
    json_t *tokens = NULL;
    joust_status st = create(name, &chat, err);
    if (st == JOUST_OK && tokens_json)
        st = joust_json_parse(tokens_json, strlen(tokens_json), name, &tokens, err);
    if (st == JOUST_OK && tokens)
        st = read_tokens(chat, tokens, err);
    if (st == JOUST_OK)
        st = compile(chat, text, n, err);
    json_decref(tokens);
    if (st != JOUST_OK) {
        joust_chat_free(&chat);
        return st;
    }
    digest(chat, text, n);
    *ret = chat;
    return JOUST_OK;
}

void joust_chat_free(joust_chat **chat)
{
    if (!*chat)
        return;
    joust_chat_arena_fini(&(*chat)->arena);
    joust_free((*chat)->name);
    joust_free(*chat);
    *chat = NULL;
}

joust_digest joust_chat_digest(const joust_chat *chat)
{
    return chat->digest;
}

/* --- a model's folder --- */
typedef struct folder {
    const char *dir;
    char *path;     /* of the file that has the template */
    joust_buf text; /* the template */
    json_t *config, *tokens;
} folder;

static void folder_fini(folder *f)
{
    joust_free(f->path);
    joust_buf_fini(&f->text);
    json_decref(f->config);
    json_decref(f->tokens);
}

/* The JSON object in dir/name; NULL with JOUST_OK if there is no such file. *ret_path: owned. */
static joust_status read_json(const char *dir, const char *name, char **ret_path, json_t **ret,
                              joust_error *err)
{
    joust_status st = JOUST_OK;
    char *path = joust_path_join(dir, name);
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (joust_file_exists(path))
        st = joust_json_read(path, MAX_CONFIG_BYTES, ret, err);
    joust_free(*ret_path);
    *ret_path = path;
    return st;
}

/* The member chat_template: a text, or a list of {"name", "template"} with one called "default". */
static joust_status take_template(folder *f, const json_t *config, joust_error *err)
{
    const json_t *member = json_object_get(config, "chat_template");
    size_t index;
    json_t *entry;
    if (json_is_array(member)) {
        const json_t *list = member;
        member = NULL;
        json_array_foreach(list, index, entry)
        {
            const char *name = json_string_value(json_object_get(entry, "name"));
            if (name && strcmp(name, "default") == 0)
                member = json_object_get(entry, "template");
        }
        if (!json_is_string(member))
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "%s: chat_template: a list without one named \"default\"", f->path);
    }
    if (json_is_string(member))
        joust_buf_add(&f->text, json_string_value(member), json_string_length(member));
    return joust_buf_status(&f->text, err);
}

static joust_status find_template(folder *f, joust_error *err)
{
    json_t *other = NULL;
    f->path = joust_path_join(f->dir, "chat_template.jinja");
    if (!f->path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", f->dir);
    if (joust_file_exists(f->path))
        return joust_file_read(f->path, JOUST_CHAT_MAX_TEMPLATE_BYTES, &f->text, err);
    joust_status st = read_json(f->dir, "chat_template.json", &f->path, &other, err);
    if (st == JOUST_OK && other)
        st = take_template(f, other, err);
    json_decref(other);
    if (st != JOUST_OK || f->text.n > 0)
        return st;
    joust_free(f->path);
    f->path = joust_path_join(f->dir, "tokenizer_config.json");
    if (!f->path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", f->dir);
    return take_template(f, f->config, err);
}

/* given: the template, or NULL: the folder's own. */
static joust_status load(const char *dir, const char *given, joust_chat **ret, joust_error *err)
{
    folder f = {.dir = dir};
    char *path = NULL;
    joust_chat *chat = NULL;
    joust_status st = read_json(dir, "tokenizer_config.json", &path, &f.config, err);
    if (st == JOUST_OK)
        st = read_json(dir, "special_tokens_map.json", &path, &f.tokens, err);
    joust_free(path);
    if (st == JOUST_OK && given) {
        joust_buf_text(&f.text, given);
        st = joust_buf_status(&f.text, err);
    } else if (st == JOUST_OK) {
        st = find_template(&f, err);
    }
    if (st == JOUST_OK && !given && f.text.n == 0)
        st = joust_fail(err, JOUST_NOT_FOUND,
                        "%s: no chat template (chat_template.jinja, chat_template.json or "
                        "tokenizer_config.json)",
                        dir);
    if (st == JOUST_OK)
        st = create(given ? "rollout.chat_template" : f.path, &chat, err);
    if (st == JOUST_OK && f.config)
        st = read_tokens(chat, f.config, err);
    if (st == JOUST_OK && f.tokens)
        st = read_tokens(chat, f.tokens, err);
    if (st == JOUST_OK)
        st = compile(chat, (const char *)f.text.data, f.text.n, err);
    if (st == JOUST_OK) {
        digest(chat, (const char *)f.text.data, f.text.n);
        *ret = chat;
    } else {
        joust_chat_free(&chat);
    }
    folder_fini(&f);
    return st;
}

joust_status joust_chat_load(const char *dir, joust_chat **ret, joust_error *err)
{
    return load(dir, NULL, ret, err);
}

joust_status joust_chat_load_if_any(const char *dir, const char *given, joust_chat **ret,
                                    joust_error *ret_why, joust_error *err)
{
    joust_status st = load(dir, given, ret, ret_why);
    if (joust_status_scope(st) != JOUST_SCOPE_PROCESS)
        return JOUST_OK;
    return joust_fail(err, st, "%s", ret_why->text);
}

/* --- rendering --- */
static joust_status set_variable(chat_run *r, const char *name, const json_t *json)
{
    chat_value key = joust_chat_text(name), value = {.kind = CHAT_NONE};
    joust_status st = json ? joust_chat_from_json(r, json, &value) : JOUST_OK;
    return st == JOUST_OK ? joust_chat_put(r, &r->scope->names, &key, &value) : st;
}

/* Names that the template sees, with the ecosystem's defaults: no tools and no documents are none. */
static joust_status set_variables(chat_run *r, const json_t *conversation, bool generate)
{
    bool bare = json_is_array(conversation);
    joust_status st = JOUST_OK;
    const json_t *more = bare ? NULL : json_object_get(conversation, "chat_template_kwargs");
    chat_value key = joust_chat_text("add_generation_prompt");
    chat_value flag = joust_chat_boolean(generate);
    for (size_t i = 0; st == JOUST_OK && i < r->chat->tokens.n; i++)
        st = joust_chat_put(r, &r->scope->names, &r->chat->tokens.keys[i],
                            &r->chat->tokens.values[i]);
    json_t *object = (json_t *)(uintptr_t)more;
    for (void *at = json_object_iter(object); st == JOUST_OK && at;
         at = json_object_iter_next(object, at))
        st = set_variable(r, json_object_iter_key(at), json_object_iter_value(at));
    if (st == JOUST_OK)
        st = set_variable(r, "messages",
                          bare ? conversation : json_object_get(conversation, "messages"));
    if (st == JOUST_OK)
        st = set_variable(r, "tools", bare ? NULL : json_object_get(conversation, "tools"));
    if (st == JOUST_OK)
        st = set_variable(r, "documents", bare ? NULL : json_object_get(conversation, "documents"));
    return st == JOUST_OK ? joust_chat_put(r, &r->scope->names, &key, &flag) : st;
}

static joust_status check_conversation(const json_t *conversation, joust_error *err)
{
    const json_t *messages =
        json_is_array(conversation) ? conversation : json_object_get(conversation, "messages");
    if (!json_is_array(messages))
        return joust_fail(err, JOUST_MALFORMED,
                          "conversation: expected a list of messages, found %s",
                          joust_json_kind(messages));
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        if (!json_is_string(json_object_get(message, "role")))
            return joust_fail(err, JOUST_MALFORMED,
                              "conversation: messages[%zu]: expected an object with a role", i);
    }
    return JOUST_OK;
}

static joust_status parse_conversation(const char *text, size_t n, json_t **ret, joust_error *err)
{
    json_error_t problem;
    if (n > MAX_CONVERSATION_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "conversation: more than %u bytes",
                          MAX_CONVERSATION_BYTES);
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!json && (!problem.text[0] || json_error_code(&problem) == json_error_out_of_memory))
        return joust_fail(err, JOUST_NOMEM, "conversation: out of memory");
    if (!json)
        return joust_fail(err, JOUST_MALFORMED, "conversation: line %d, column %d: %s",
                          problem.line, problem.column, problem.text);
    joust_status st = check_conversation(json, err);
    if (st == JOUST_OK)
        *ret = json;
    else
        json_decref(json);
    return st;
}

static joust_status render(const joust_chat *chat, const char *conversation, size_t n,
                           bool generate, chat_output *to, joust_error *err)
{
    json_t *json = NULL;
    chat_scope scope = {0};
    chat_run r = {.chat = chat,
                  .err = err,
                  .arena = {.max_bytes = JOUST_CHAT_MAX_RUN_BYTES},
                  .scope = &scope,
                  .to = to,
                  .line = 1};
    joust_status st = parse_conversation(conversation, n, &json, err);
    if (st == JOUST_OK)
        st = set_variables(&r, json, generate);
    if (st == JOUST_OK)
        st = joust_chat_execute(&r, chat->body);
    json_decref(json); /* names of variables lie in it */
    if (st == JOUST_OK && !(joust_buf_ok(&to->bytes) && joust_buf_ok(&to->trust)))
        st = joust_chat_fail(&r, JOUST_NOMEM, "out of memory");
    joust_chat_arena_fini(&r.arena);
    return st;
}

joust_status joust_chat_render(const joust_chat *chat, const char *conversation, size_t n,
                               bool generate, joust_buf *to, joust_error *err)
{
    chat_output out = {0};
    joust_status st = render(chat, conversation, n, generate, &out, err);
    if (st == JOUST_OK) {
        joust_buf_add(to, out.bytes.data, out.bytes.n);
        st = joust_buf_status(to, err);
    }
    joust_chat_output_fini(&out);
    return st;
}

joust_status joust_chat_encode(const joust_chat *chat, const joust_tokenizer *t,
                               const char *conversation, size_t n, bool generate, joust_tokens *to,
                               joust_error *err)
{
    chat_output out = {0};
    joust_status st = render(chat, conversation, n, generate, &out, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_encode_trusted(t, (const char *)out.bytes.data, out.bytes.n,
                                            out.trust.data, to, err);
    if (st != JOUST_OK)
        st = joust_blame(err, st, "chat template");
    joust_chat_output_fini(&out);
    return st;
}
