#include "ops/job_keys.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const joust_key *joust_section_find(const joust_section *section, const char *name)
{
    for (uint32_t i = 0; i < section->n_keys; i++)
        if (strcmp(section->keys[i].name, name) == 0)
            return &section->keys[i];
    return NULL;
}

const joust_key_alias *joust_alias_find(const char *section, const char *name)
{
    uint32_t n;
    const joust_key_alias *aliases = joust_aliases(&n);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(aliases[i].name, name) == 0 &&
            (!section || strcmp(aliases[i].section, section) == 0))
            return &aliases[i];
    return NULL;
}

const char *joust_key_whereabouts(const char *name, char to[128])
{
    const joust_section *whole = joust_job_section();
    for (uint32_t i = 0; i < whole->n_keys; i++) {
        const joust_key *outer = &whole->keys[i];
        if (outer->section && joust_section_find(outer->section, name)) {
            snprintf(to, 128, "%s.%s", outer->name, name);
            return to;
        }
    }
    return NULL;
}

static void add_choices(const joust_choice *choices, joust_buf *to)
{
    for (const joust_choice *c = choices; c->name; c++)
        if (!c->synonym)
            joust_buf_format(to, "%s%s", c == choices ? "" : ", ", c->name);
}

static void add_range(const joust_key *key, const char *what, joust_buf *to)
{
    joust_buf_text(to, what);
    if (key->low == 0 && key->high == 0)
        return;
    if (isinf(key->high))
        joust_buf_format(to, key->low_open ? " above %.15g" : " of at least %.15g", key->low);
    else if (key->low_open)
        joust_buf_format(to, " above %.15g, at most %.15g", key->low, key->high);
    else
        joust_buf_format(to, " from %.15g to %.15g", key->low, key->high);
}

void joust_key_expectation(const joust_key *key, joust_buf *to)
{
    switch (key->kind) {
    case JOUST_KEY_U32:
    case JOUST_KEY_U64:
        add_range(key, key->high ? "a whole number" : "a whole number, 0 or more", to);
        break;
    case JOUST_KEY_DOUBLE:
    case JOUST_KEY_FLOAT:
        add_range(key, "a number", to);
        break;
    case JOUST_KEY_BOOL:
        joust_buf_text(to, "true or false");
        break;
    case JOUST_KEY_TEXT:
        joust_buf_text(to, key->choices ? "one of " : "text");
        if (key->choices)
            add_choices(key->choices, to);
        break;
    case JOUST_KEY_FILE:
    case JOUST_KEY_CONTENT:
        joust_buf_text(to, "the path of a file");
        break;
    case JOUST_KEY_FOLDER:
        joust_buf_text(to, "the path of a folder, or owner/name in the hub's cache");
        break;
    case JOUST_KEY_CHOICE:
        joust_buf_text(to, key->choices[1].name ? "one of " : "");
        add_choices(key->choices, to);
        break;
    case JOUST_KEY_CHOICES:
        joust_buf_text(to, "a list of ");
        add_choices(key->choices, to);
        break;
    case JOUST_KEY_TEXTS:
        joust_buf_format(to, "a list of at most %u texts", key->max_items);
        break;
    case JOUST_KEY_SECTION:
        joust_buf_text(to, "a mapping of keys");
        break;
    case JOUST_KEY_LIST:
        joust_buf_format(to, "a list of at most %u mappings", key->max_items);
        break;
    case JOUST_KEY_MAP:
        joust_buf_format(to, "a mapping of at most %u names", key->max_items);
        break;
    case JOUST_KEY_STAGES:
        joust_buf_format(to, "a list of at most %u stages", key->max_items);
        break;
    }
}
