#include "ops/job_overrides.h"

#include <stdio.h>
#include <string.h>

#include "ops/job_keys.h"
#include "proto/base/alloc.h"
#include "proto/base/text.h"

/* The node at key of map, whatever it is; an empty map is put there if there is none. View of map. */
static joust_status child_of(joust_yaml_node *map, const char *key, joust_place place,
                             joust_yaml_node **ret, joust_error *err)
{
    joust_yaml_entry *entry = joust_yaml_find(map, key);
    if (!entry) {
        joust_yaml_node *child = joust_yaml_map(place);
        if (!child)
            return joust_fail(err, JOUST_NOMEM, "job file: out of memory");
        joust_status st = joust_yaml_append(map, key, place, &child, err);
        joust_yaml_free(&child);
        if (st)
            return st;
        entry = &map->entries[map->n - 1];
    }
    *ret = entry->value;
    return JOUST_OK;
}

/* ---- names of the ecosystem ---- */

/* Renames entry, of a section, to the key that its alias means. Where that key is given too, both stay, and reading
 * the section says so. */
static joust_status rename_alias(const joust_key_alias *alias, const joust_yaml_node *section,
                                 joust_yaml_entry *entry, joust_problems *problems,
                                 joust_error *err)
{
    if (!alias->key || joust_yaml_find(section, alias->key))
        return JOUST_OK;
    char *key = joust_strdup(alias->key);
    if (!key)
        return joust_fail(err, JOUST_NOMEM, "job file: out of memory");
    joust_warning_add(problems, entry->key_place, "%s is %s.%s here", alias->name, alias->section,
                      alias->key);
    joust_free(entry->key);
    entry->key = key;
    return JOUST_OK;
}

static joust_status rename_in_section(const char *name, joust_yaml_node *section,
                                      joust_problems *problems, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; !st && section->kind == JOUST_YAML_MAP && i < section->n; i++) {
        joust_yaml_entry *entry = &section->entries[i];
        const joust_key_alias *alias = joust_alias_find(name, entry->key);
        if (alias)
            st = rename_alias(alias, section, entry, problems, err);
    }
    return st;
}

/* Moves entry, from the top level, into the section that its alias means; takes entry's value if it does. */
static joust_status move_to_section(joust_yaml_node *root, const joust_key_alias *alias,
                                    joust_yaml_entry *entry, joust_problems *problems,
                                    joust_error *err)
{
    joust_yaml_node *section = NULL;
    joust_status st = child_of(root, alias->section, entry->key_place, &section, err);
    if (st || section->kind != JOUST_YAML_MAP) /* reading the section says what is wrong */
        return st;
    const joust_yaml_entry *before = joust_yaml_find(section, entry->key);
    if (!before)
        return joust_yaml_append(section, entry->key, entry->key_place, &entry->value, err);
    joust_problem_add(problems, entry->key_place, "%s: given twice; also in line %u", entry->key,
                      before->key_place.line);
    return JOUST_OK;
}

joust_status joust_job_resolve_aliases(joust_yaml_node *root, joust_problems *problems,
                                       joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; !st && i < root->n;) {
        joust_yaml_entry entry = root->entries[i];
        const joust_key_alias *alias = joust_section_find(joust_job_section(), entry.key)
                                           ? NULL
                                           : joust_alias_find(NULL, entry.key);
        if (!alias) {
            i++;
            continue;
        }
        memmove(&root->entries[i], &root->entries[i + 1], (root->n - i - 1) * sizeof(entry));
        root->n--;
        st = move_to_section(root, alias, &entry, problems, err);
        joust_free(entry.key);
        joust_yaml_free(&entry.value);
    }
    for (uint32_t i = 0; !st && i < root->n; i++)
        st = rename_in_section(root->entries[i].key, root->entries[i].value, problems, err);
    return st;
}

/* ---- overrides ---- */

enum { MAX_COMPONENTS = 8 };

typedef struct key_path {
    char text[256];
    char *components[MAX_COMPONENTS];
    uint32_t n;
} key_path;

/* "judges[0].model" to judges, 0, model; false if it is empty, too long or has an empty component. */
static bool split_path(const char *key, size_t n, key_path *path)
{
    if (n >= sizeof(path->text))
        return false;
    char *to = path->text;
    path->n = 0;
    path->components[path->n++] = to;
    for (size_t i = 0; i < n; i++) {
        if (key[i] == ']' && (i + 1 == n || key[i + 1] == '.' || key[i + 1] == '['))
            continue;
        if (key[i] != '.' && key[i] != '[') {
            *to++ = key[i];
            continue;
        }
        *to++ = '\0';
        if (path->n == MAX_COMPONENTS)
            return false;
        path->components[path->n++] = to;
    }
    *to = '\0';
    for (uint32_t i = 0; i < path->n; i++)
        if (!*path->components[i])
            return false;
    return true;
}

/* Puts the canonical names where the path uses the ecosystem's: "num_generations" is rollout, samples. */
static void resolve_path(key_path *path, joust_place place, joust_problems *problems)
{
    const joust_key_alias *alias = NULL;
    if (path->n == 1 && !joust_section_find(joust_job_section(), path->components[0]))
        alias = joust_alias_find(NULL, path->components[0]);
    else if (path->n == 2)
        alias = joust_alias_find(path->components[0], path->components[1]);
    if (!alias || !alias->key)
        return;
    joust_warning_add(problems, place, "%s is %s.%s here", alias->name, alias->section, alias->key);
    snprintf(path->text, sizeof(path->text), "%s.%s", alias->section, alias->key);
    size_t n = strlen(alias->section);
    path->text[n] = '\0';
    path->components[0] = path->text;
    path->components[1] = path->text + n + 1;
    path->n = 2;
}

/* The element of a list that component means: its index, or the `name` of a mapping. */
static joust_yaml_entry *find_element(joust_yaml_node *list, const char *component)
{
    uint64_t index;
    if (joust_parse_u64(component, &index))
        return index < list->n ? &list->entries[index] : NULL;
    for (uint32_t i = 0; i < list->n; i++) {
        const joust_yaml_entry *name = joust_yaml_find(list->entries[i].value, "name");
        if (name && name->value->text && strcmp(name->value->text, component) == 0)
            return &list->entries[i];
    }
    return NULL;
}

static void no_such_place(const joust_yaml_node *node, const char *component, joust_place place,
                          joust_problems *problems)
{
    if (node->kind == JOUST_YAML_LIST)
        joust_problem_add(problems, place, "no element '%s' in this list of %u", component,
                          node->n);
    else
        joust_problem_add(problems, place, "nothing can be below a single value ('%s')", component);
}

/* The node that component of node leads to; NULL after a problem. */
static joust_status descend(joust_yaml_node *node, const char *component, joust_place place,
                            joust_problems *problems, joust_yaml_node **ret, joust_error *err)
{
    *ret = NULL;
    if (node->kind == JOUST_YAML_MAP)
        return child_of(node, component, place, ret, err);
    if (node->kind == JOUST_YAML_LIST) {
        joust_yaml_entry *entry = find_element(node, component);
        if (entry) {
            *ret = entry->value;
            return JOUST_OK;
        }
    }
    no_such_place(node, component, place, problems);
    return JOUST_OK;
}

/* Puts *value (taken) at the last component below node. */
static joust_status put_value(joust_yaml_node *node, const char *component, joust_place place,
                              joust_yaml_node **value, joust_problems *problems, joust_error *err)
{
    joust_yaml_entry *entry = NULL;
    if (node->kind == JOUST_YAML_MAP) {
        entry = joust_yaml_find(node, component);
        if (!entry)
            return joust_yaml_append(node, component, place, value, err);
    } else if (node->kind == JOUST_YAML_LIST) {
        entry = find_element(node, component);
    }
    if (!entry) {
        no_such_place(node, component, place, problems);
        return JOUST_OK;
    }
    joust_yaml_free(&entry->value);
    entry->value = *value;
    entry->key_place = place;
    *value = NULL;
    return JOUST_OK;
}

static joust_status apply(joust_yaml_node *root, const key_path *path, joust_place place,
                          joust_yaml_node **value, joust_problems *problems, joust_error *err)
{
    joust_yaml_node *at = root;
    for (uint32_t i = 0; i + 1 < path->n; i++) {
        joust_status st = descend(at, path->components[i], place, problems, &at, err);
        if (st || !at)
            return st;
    }
    return put_value(at, path->components[path->n - 1], place, value, problems, err);
}

joust_status joust_job_override(joust_yaml_node *root, const char *set, uint32_t number,
                                joust_problems *problems, joust_error *err)
{
    joust_place place = {.origin = number};
    const char *equals = strchr(set, '=');
    key_path path;
    if (!equals || !split_path(set, (size_t)(equals - set), &path)) {
        joust_problem_add(problems, place, "expected key=value, as in train.beta=0.2");
        return JOUST_OK;
    }
    resolve_path(&path, place, problems);
    joust_yaml_node *value = NULL;
    joust_status st =
        joust_yaml_parse(equals + 1, strlen(equals + 1), number, problems, &value, err);
    if (st == JOUST_INVALID) /* among the problems already */
        return JOUST_OK;
    if (!st && !value) {
        joust_problem_add(problems, place, "expected a value after '='");
        return JOUST_OK;
    }
    if (!st)
        st = apply(root, &path, place, &value, problems, err);
    joust_yaml_free(&value);
    return st;
}
