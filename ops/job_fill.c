#include "ops/job_fill.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/hub.h"
#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "proto/base/file.h"
#include "proto/base/text.h"

typedef struct filler {
    const char *folder;
    joust_job_draft *draft;
    joust_problems *problems;
    joust_error *err;
    char path[256]; /* of the key at hand: "judges[0].model" */
} filler;

static joust_status out_of_memory(filler *f)
{
    return joust_fail(f->err, JOUST_NOMEM, "job file: out of memory");
}

/* Puts ".name" (or "[index]" if name is NULL) behind the path; gives the length to go back to. */
static size_t push(filler *f, const char *name, uint32_t index)
{
    size_t n = strlen(f->path);
    if (name)
        snprintf(f->path + n, sizeof(f->path) - n, "%s%s", n ? "." : "", name);
    else
        snprintf(f->path + n, sizeof(f->path) - n, "[%u]", index);
    return n;
}

static void pop(filler *f, size_t n)
{
    f->path[n] = '\0';
}

/* "found 0.5", "found the text "0.5" (quotes make text)", "found a list". */
static void describe(const joust_yaml_node *node, joust_buf *to)
{
    bool scalar = node->kind != JOUST_YAML_LIST && node->kind != JOUST_YAML_MAP;
    if (!scalar || node->kind == JOUST_YAML_NULL)
        joust_buf_format(to, "found %s", joust_yaml_kind_name(node->kind));
    else if (node->quoted)
        joust_buf_format(to, "found the text \"%.64s\"", node->text);
    else
        joust_buf_format(to, "found %.64s", node->text);
}

/* "train.beta: expected a number above 0, found abc"; hint may be NULL. */
static void mismatch(filler *f, const joust_key *key, const joust_yaml_node *node, const char *hint)
{
    joust_buf expected = {0}, found = {0};
    joust_key_expectation(key, &expected);
    describe(node, &found);
    joust_problem_add(f->problems, node->place, "%s: expected %s; %s%s%s", f->path,
                      joust_buf_ok(&expected) ? (char *)expected.data : "?",
                      joust_buf_ok(&found) ? (char *)found.data : "?", hint ? "; " : "",
                      hint ? hint : "");
    joust_buf_fini(&expected);
    joust_buf_fini(&found);
}

/* ---- scalars ---- */

static bool in_range(const joust_key *key, double v)
{
    if (key->low == 0 && key->high == 0)
        return !isnan(v);
    return (key->low_open ? v > key->low : v >= key->low) && v <= key->high;
}

static void fill_integer(filler *f, const joust_key *key, const joust_yaml_node *node, void *to)
{
    bool whole = node->kind == JOUST_YAML_INTEGER && !node->negative;
    if (!whole || !in_range(key, node->real)) {
        bool text = node->kind == JOUST_YAML_TEXT && node->quoted;
        mismatch(f, key, node, text ? "quotes make text: leave them out" : NULL);
        return;
    }
    if (key->kind == JOUST_KEY_U64) {
        *(uint64_t *)to = node->magnitude;
    } else if (node->magnitude > UINT32_MAX) {
        mismatch(f, key, node, "the largest is 4294967295");
    } else {
        *(uint32_t *)to = (uint32_t)node->magnitude;
    }
}

static void fill_number(filler *f, const joust_key *key, const joust_yaml_node *node, void *to)
{
    bool number = node->kind == JOUST_YAML_INTEGER || node->kind == JOUST_YAML_REAL;
    if (!number || !in_range(key, node->real)) {
        bool text = node->kind == JOUST_YAML_TEXT && node->quoted;
        mismatch(f, key, node, text ? "quotes make text: leave them out" : NULL);
    } else if (key->kind == JOUST_KEY_FLOAT) {
        *(float *)to = (float)node->real;
    } else {
        *(double *)to = node->real;
    }
}

static void fill_bool(filler *f, const joust_key *key, const joust_yaml_node *node, void *to)
{
    if (node->kind == JOUST_YAML_BOOL)
        *(bool *)to = node->truth;
    else
        mismatch(f, key, node, NULL);
}

/* The choice that node names, or NULL after a problem; a synonym is reported by its canonical name. */
static const joust_choice *choose(filler *f, const joust_key *key, const joust_yaml_node *node)
{
    const char *names[JOUST_MAX_CHOICES];
    uint32_t n = 0;
    for (const joust_choice *c = key->choices; node->kind == JOUST_YAML_TEXT && c->name; c++) {
        if (n < JOUST_MAX_CHOICES)
            names[n++] = c->name;
        if (strcmp(c->name, node->text) != 0)
            continue;
        const joust_choice *canonical = key->choices;
        while (canonical->value != c->value)
            canonical++;
        if (c->synonym)
            joust_warning_add(f->problems, node->place, "%s: '%s' is '%s' here", f->path, c->name,
                              canonical->name);
        return canonical;
    }
    const char *nearest = n ? joust_text_nearest(node->text, names, n) : NULL;
    char hint[96];
    snprintf(hint, sizeof(hint), "did you mean '%s'?", nearest ? nearest : "");
    mismatch(f, key, node, nearest ? hint : NULL);
    return NULL;
}

/* Replaces the owned text at to. */
static joust_status put_text(filler *f, const char *text, char **to)
{
    char *copy = joust_strdup(text);
    if (!copy)
        return out_of_memory(f);
    joust_free(*to);
    *to = copy;
    return JOUST_OK;
}

static joust_status fill_text(filler *f, const joust_key *key, const joust_yaml_node *node,
                              char **to)
{
    if (key->choices) {
        const joust_choice *choice = choose(f, key, node);
        return choice ? put_text(f, choice->name, to) : JOUST_OK;
    }
    if (node->kind == JOUST_YAML_TEXT)
        return put_text(f, node->text, to);
    bool scalar = node->kind != JOUST_YAML_LIST && node->kind != JOUST_YAML_MAP &&
                  node->kind != JOUST_YAML_NULL;
    mismatch(f, key, node, scalar ? "quote it to make it text" : NULL);
    return JOUST_OK;
}

/* A folder that isn't there may be a model of the hub's cache: *path becomes its snapshot there. */
static joust_status find_in_hub(filler *f, const joust_yaml_node *node, char **path)
{
    joust_error why = {0};
    char *found = NULL;
    joust_status st = joust_hub_find(node->text, &found, &why);
    if (st == JOUST_NOMEM)
        return out_of_memory(f);
    if (st != JOUST_OK) {
        joust_problem_add(f->problems, node->place,
                          "%s: no folder %.400s (paths are relative to the job file), and %s",
                          f->path, *path, why.text);
        return JOUST_OK;
    }
    joust_free(*path);
    *path = found;
    return JOUST_OK;
}

static joust_status fill_path(filler *f, const joust_key *key, const joust_yaml_node *node,
                              char **to)
{
    if (node->kind != JOUST_YAML_TEXT || !*node->text) {
        mismatch(f, key, node, NULL);
        return JOUST_OK;
    }
    char *path = joust_path_join(f->folder, node->text);
    if (!path)
        return out_of_memory(f);
    bool folder = key->kind == JOUST_KEY_FOLDER;
    joust_status st = JOUST_OK;
    if (f->folder && folder && !joust_dir_exists(path) && joust_hub_is_id(node->text))
        st = find_in_hub(f, node, &path);
    else if (f->folder && !(folder ? joust_dir_exists(path) : joust_file_exists(path)))
        joust_problem_add(f->problems, node->place,
                          "%s: no %s %.400s (paths are relative to the job file)", f->path,
                          folder ? "folder" : "file", path);
    joust_free(*to);
    *to = path;
    return st;
}

/* What is in the file; its path where files needn't exist. */
static joust_status fill_content(filler *f, const joust_key *key, const joust_yaml_node *node,
                                 char **to)
{
    char *path = NULL;
    joust_buf text = {0};
    joust_error why = {0};
    joust_status st = fill_path(f, key, node, &path);
    if (st == JOUST_OK && path && f->folder && joust_file_exists(path)) {
        st = joust_file_read(path, JOUST_MAX_GRAMMAR_BYTES, &text, &why);
        joust_free(path);
        path = NULL;
        if (st == JOUST_OK && memchr(text.data, 0, text.n))
            st = joust_fail(&why, JOUST_INVALID, "a NUL byte in it: not text");
        if (st == JOUST_OK && !(path = joust_buf_take_text(&text)))
            st = joust_fail(&why, JOUST_NOMEM, "out of memory");
        if (st != JOUST_OK && st != JOUST_NOMEM) {
            joust_problem_add(f->problems, node->place, "%s: %s", f->path, why.text);
            st = JOUST_OK;
        }
    }
    joust_buf_fini(&text);
    if (path) {
        joust_free(*to);
        *to = path;
    }
    return st == JOUST_NOMEM ? out_of_memory(f) : st;
}

/* ---- lists ---- */

static void fill_choices(filler *f, const joust_key *key, const joust_yaml_node *node, uint32_t *to)
{
    if (node->kind != JOUST_YAML_LIST) {
        mismatch(f, key, node, NULL);
        return;
    }
    *to = 0;
    for (uint32_t i = 0; i < node->n; i++) {
        size_t n = push(f, NULL, i);
        const joust_choice *choice = choose(f, key, node->entries[i].value);
        *to |= choice ? (uint32_t)choice->value : 0;
        pop(f, n);
    }
}

static joust_status fill_texts(filler *f, const joust_key *key, const joust_yaml_node *node,
                               void *base)
{
    char **to = (char **)((char *)base + key->offset);
    uint32_t *count = (uint32_t *)((char *)base + key->count_offset);
    if (node->kind != JOUST_YAML_LIST || node->n > key->max_items) {
        mismatch(f, key, node, NULL);
        return JOUST_OK;
    }
    for (uint32_t i = 0; i < *count; i++) {
        joust_free(to[i]);
        to[i] = NULL;
    }
    static const joust_key item = {.name = "", .kind = JOUST_KEY_TEXT};
    joust_status st = JOUST_OK;
    for (*count = 0; !st && *count < node->n; ++*count) {
        size_t n = push(f, NULL, *count);
        st = fill_text(f, &item, node->entries[*count].value, &to[*count]);
        if (!st && !to[*count]) /* a problem: keep the list whole */
            st = put_text(f, "", &to[*count]);
        pop(f, n);
        if (st)
            break;
    }
    return st;
}

static joust_status fill_section(filler *f, const joust_section *section,
                                 const joust_yaml_node *node, void *base);

/* Lists of sections, and maps from names to sections. */
static joust_status fill_elements(filler *f, const joust_key *key, const joust_yaml_node *node,
                                  void *base)
{
    joust_yaml_kind kind = key->kind == JOUST_KEY_MAP ? JOUST_YAML_MAP : JOUST_YAML_LIST;
    if (node->kind != kind || node->n > key->max_items) {
        mismatch(f, key, node, NULL);
        return JOUST_OK;
    }
    const joust_section *section = key->section;
    char *elements = joust_calloc(node->n, section->size);
    if (!elements)
        return out_of_memory(f);
    *(void **)((char *)base + key->offset) = elements;
    *(uint32_t *)((char *)base + key->count_offset) = node->n;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; !st && i < node->n; i++) {
        const joust_yaml_entry *entry = &node->entries[i];
        char *element = elements + i * section->size;
        if (section->set_defaults)
            section->set_defaults(element);
        if (entry->key)
            st = put_text(f, entry->key, (char **)(element + section->name_offset));
        size_t n = push(f, entry->key, i);
        if (!st)
            st = fill_section(f, section, entry->value, element);
        pop(f, n);
    }
    return st;
}

/* ---- stages ---- */

static joust_declared stage_kind(const char *name)
{
    uint32_t n;
    const char *const *names = joust_stage_names(&n);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return (joust_declared)(i + 1);
    return 0;
}

static void unknown_stage(filler *f, const joust_yaml_node *node, joust_place place,
                          const char *name)
{
    uint32_t n;
    const char *const *names = joust_stage_names(&n);
    const char *nearest = name ? joust_text_nearest(name, names, n) : NULL;
    joust_buf found = {0};
    describe(node, &found);
    joust_problem_add(f->problems, place,
                      "%s: expected a stage (generate, judge, pair, train, evaluate, promote, or "
                      "{train: {...}}); %s%s%s%s",
                      f->path,
                      name                   ? "found "
                      : joust_buf_ok(&found) ? (char *)found.data
                                             : "?",
                      name ? name : "", nearest ? "; did you mean " : "", nearest ? nearest : "");
    joust_buf_fini(&found);
}

/* train: settings start as a copy of the job's. */
static joust_status copy_train(filler *f, joust_job_train *to)
{
    const joust_job_train *from = &f->draft->job.train;
    *to = *from;
    to->model = NULL;
    to->data = NULL;
    to->external.command = NULL;
    to->critic.model = NULL;
    to->reference_model = NULL;
    joust_status st = from->model ? put_text(f, from->model, &to->model) : JOUST_OK;
    if (!st && from->data)
        st = put_text(f, from->data, &to->data);
    if (!st && from->external.command)
        st = put_text(f, from->external.command, &to->external.command);
    if (!st && from->reference_model)
        st = put_text(f, from->reference_model, &to->reference_model);
    if (!st && from->critic.model)
        st = put_text(f, from->critic.model, &to->critic.model);
    return st;
}

static joust_status fill_stage(filler *f, const joust_key *key, const joust_yaml_node *node,
                               joust_job_stage *stage)
{
    if (node->kind == JOUST_YAML_TEXT) {
        stage->kind = stage_kind(node->text);
        if (!stage->kind)
            unknown_stage(f, node, node->place, node->text);
        return JOUST_OK;
    }
    if (node->kind != JOUST_YAML_MAP || node->n != 1) {
        unknown_stage(f, node, node->place, NULL);
        return JOUST_OK;
    }
    const joust_yaml_entry *entry = &node->entries[0];
    stage->kind = stage_kind(entry->key);
    if (stage->kind != JOUST_DECLARED_TRAIN) {
        if (stage->kind)
            joust_problem_add(f->problems, entry->key_place,
                              "%s: only train has settings of its own; write %s alone", f->path,
                              entry->key);
        else
            unknown_stage(f, node, entry->key_place, entry->key);
        return JOUST_OK;
    }
    stage->has_train = true;
    joust_status st = copy_train(f, &stage->train);
    size_t n = push(f, entry->key, 0);
    if (!st)
        st = fill_section(f, key->section, entry->value, &stage->train);
    pop(f, n);
    return st;
}

static joust_status fill_stages(filler *f, const joust_key *key, const joust_yaml_node *node)
{
    if (node->kind != JOUST_YAML_LIST || node->n > key->max_items) {
        mismatch(f, key, node, NULL);
        return JOUST_OK;
    }
    joust_job *job = &f->draft->job;
    job->stages = joust_calloc(node->n, sizeof(job->stages[0]));
    if (!job->stages)
        return out_of_memory(f);
    job->n_stages = node->n;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; !st && i < node->n; i++) {
        size_t n = push(f, NULL, i);
        st = fill_stage(f, key, node->entries[i].value, &job->stages[i]);
        pop(f, n);
    }
    return st;
}

/* ---- sections ---- */

static joust_status fill_key(filler *f, const joust_key *key, const joust_yaml_node *node,
                             void *base)
{
    void *to = (char *)base + key->offset;
    if (key->present)
        *(bool *)((char *)base + key->present) = true;
    switch (key->kind) {
    case JOUST_KEY_U32:
    case JOUST_KEY_U64:
        fill_integer(f, key, node, to);
        return JOUST_OK;
    case JOUST_KEY_DOUBLE:
    case JOUST_KEY_FLOAT:
        fill_number(f, key, node, to);
        return JOUST_OK;
    case JOUST_KEY_BOOL:
        fill_bool(f, key, node, to);
        return JOUST_OK;
    case JOUST_KEY_CHOICE: {
        const joust_choice *choice = choose(f, key, node);
        if (choice)
            *(int *)to = choice->value; /* enums of the job are as wide as int: checked below */
        return JOUST_OK;
    }
    case JOUST_KEY_CHOICES:
        fill_choices(f, key, node, to);
        return JOUST_OK;
    case JOUST_KEY_TEXT:
        return fill_text(f, key, node, to);
    case JOUST_KEY_CONTENT:
        return fill_content(f, key, node, to);
    case JOUST_KEY_FILE:
    case JOUST_KEY_FOLDER:
        return fill_path(f, key, node, to);
    case JOUST_KEY_TEXTS:
        return fill_texts(f, key, node, base);
    case JOUST_KEY_SECTION:
        return fill_section(f, key->section, node, to);
    case JOUST_KEY_LIST:
    case JOUST_KEY_MAP:
        return fill_elements(f, key, node, base);
    case JOUST_KEY_STAGES:
        return fill_stages(f, key, node);
    }
    return JOUST_OK;
}
_Static_assert(sizeof(joust_loss) == sizeof(int) && sizeof(joust_order) == sizeof(int),
               "choices are stored as int");

static void unknown_key(filler *f, const joust_section *section, const joust_yaml_entry *entry)
{
    const char *names[JOUST_MAX_SECTION_KEYS];
    for (uint32_t i = 0; i < section->n_keys; i++)
        names[i] = section->keys[i].name;
    const char *nearest = joust_text_nearest(entry->key, names, section->n_keys);
    char elsewhere[128];
    size_t n = push(f, entry->key, 0);
    if (nearest) {
        joust_problem_add(f->problems, entry->key_place, "%s: unknown key; did you mean '%s'?",
                          f->path, nearest);
    } else if (joust_key_whereabouts(entry->key, elsewhere)) {
        joust_problem_add(f->problems, entry->key_place, "%s: unknown key here; did you mean '%s'?",
                          f->path, elsewhere);
    } else {
        joust_buf known = {0};
        for (uint32_t i = 0; i < section->n_keys; i++)
            joust_buf_format(&known, "%s%s", i ? ", " : "", names[i]);
        joust_problem_add(f->problems, entry->key_place, "%s: unknown key; known here: %s", f->path,
                          joust_buf_ok(&known) ? (char *)known.data : "?");
        joust_buf_fini(&known);
    }
    pop(f, n);
}

/* The key that entry means, by its own name or an alias (which is reported); NULL after a problem. */
static const joust_key *recognise(filler *f, const joust_section *section,
                                  const joust_yaml_entry *entry)
{
    const joust_key *key = joust_section_find(section, entry->key);
    if (key)
        return key;
    const joust_key_alias *alias =
        section->name ? joust_alias_find(section->name, entry->key) : NULL;
    if (!alias) {
        unknown_key(f, section, entry);
        return NULL;
    }
    if (!alias->key) {
        joust_warning_add(f->problems, entry->key_place, "%s %s", alias->name, alias->why);
        return NULL;
    }
    joust_warning_add(f->problems, entry->key_place, "%s is %s.%s here", alias->name,
                      alias->section, alias->key);
    return joust_section_find(section, alias->key);
}

static joust_status fill_section(filler *f, const joust_section *section,
                                 const joust_yaml_node *node, void *base)
{
    const joust_yaml_entry *given[JOUST_MAX_SECTION_KEYS] = {NULL};
    if (node->kind != JOUST_YAML_MAP) {
        joust_problem_add(f->problems, node->place, "%s: expected a mapping of keys; found %s",
                          f->path, joust_yaml_kind_name(node->kind));
        return JOUST_OK;
    }
    for (uint32_t i = 0; i < node->n; i++) {
        const joust_yaml_entry *entry = &node->entries[i];
        const joust_key *key = recognise(f, section, entry);
        if (!key)
            continue;
        size_t at = (size_t)(key - section->keys);
        if (given[at])
            joust_problem_add(f->problems, entry->key_place, "%s: given twice, as %s in line %u",
                              entry->key, given[at]->key, given[at]->key_place.line);
        else
            given[at] = entry;
    }
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; !st && i < section->n_keys; i++) { /* in the table's order */
        const joust_key *key = &section->keys[i];
        size_t n = push(f, key->name, 0);
        if (given[i])
            st = fill_key(f, key, given[i]->value, base);
        else if (key->required && !(key->unless && joust_yaml_find(node, key->unless)))
            joust_problem_add(f->problems, node->place, "%s: missing (%s)", f->path, key->help);
        pop(f, n);
    }
    return st;
}

joust_status joust_job_fill(const joust_yaml_node *root, const char *folder, joust_job_draft *draft,
                            joust_problems *problems, joust_error *err)
{
    filler f = {.folder = folder, .draft = draft, .problems = problems, .err = err};
    return fill_section(&f, joust_job_section(), root, draft);
}

joust_status joust_job_draft_init(joust_job_draft *draft, joust_error *err)
{
    *draft = (joust_job_draft){0};
    joust_status st = joust_job_init(&draft->job, err);
    if (st)
        return st;
    joust_free(draft->job.train.model); /* the first of models: */
    draft->job.train.model = NULL;
    draft->job.evaluate.sampling.max_tokens = 0; /* as in rollout: */
    draft->prompts.order = JOUST_ORDER_FILE;
    draft->not_worse_than = 1;
    draft->against = (draft->job.evaluate.against_base ? JOUST_AGAINST_BASE : 0u) |
                     (draft->job.evaluate.against_previous ? JOUST_AGAINST_PREVIOUS : 0u);
    return JOUST_OK;
}

void joust_job_draft_fini(joust_job_draft *draft)
{
    joust_job_fini(&draft->job);
    joust_free(draft->prompts.name);
    joust_free(draft->prompts.path);
    joust_free(draft->promote_prompts);
    joust_free(draft->evaluate_prompts);
    joust_free(draft->status_endpoint);
    joust_free(draft->notify_command);
    *draft = (joust_job_draft){0};
}
