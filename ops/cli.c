#include "ops/cli.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/text.h"

enum { MAX_OPTIONS = 64 };

static void print_option(const joust_option *option)
{
    char left[64];
    snprintf(left, sizeof(left), "%s%s%s", option->name, option->value ? " " : "",
             option->value ? option->value : "");
    printf("  %-24s %s\n", left, option->help ? option->help : "");
}

static void print_page(const joust_usage *usage)
{
    printf("usage: %s\n\n%s\n\noptions:\n", usage->synopsis, usage->about);
    for (size_t i = 0; i < usage->n_options; i++)
        print_option(&usage->options[i]);
    printf("  %-24s %s\n", "--help", "this page");
}

static int complain(const joust_usage *usage, const char *what, const char *about)
{
    fprintf(stderr, "joust %s: %s '%s'; `joust %s --help` explains\n", usage->verb, what, about,
            usage->verb);
    return JOUST_EXIT_USAGE;
}

static int unknown_option(const joust_usage *usage, const char *name)
{
    const char *names[MAX_OPTIONS + 1] = {"--help"};
    size_t n = 1;
    for (size_t i = 0; i < usage->n_options && i < MAX_OPTIONS; i++)
        names[n++] = usage->options[i].name;
    const char *nearest = joust_text_nearest(name, names, n);
    fprintf(stderr, "joust %s: no option '%s'", usage->verb, name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?", nearest);
    fprintf(stderr, "\n`joust %s --help` lists them\n", usage->verb);
    return JOUST_EXIT_USAGE;
}

static int bad_value(const joust_usage *usage, const joust_option *option, const char *value,
                     const char *expected)
{
    fprintf(stderr, "joust %s: %s: expected %s, not '%s'\n", usage->verb, option->name, expected,
            value);
    return JOUST_EXIT_USAGE;
}

static int store_value(const joust_usage *usage, const joust_option *option, const char *value)
{
    uint64_t number;
    switch (option->kind) {
    case JOUST_OPTION_FLAG:
        *(bool *)option->to = true;
        return -1;
    case JOUST_OPTION_TEXT:
        *(const char **)option->to = value;
        return -1;
    case JOUST_OPTION_U32:
        if (!joust_parse_u64(value, &number) || number > UINT32_MAX)
            return bad_value(usage, option, value, "a whole number from 0 to 4294967295");
        *(uint32_t *)option->to = (uint32_t)number;
        return -1;
    case JOUST_OPTION_U64:
        if (!joust_parse_u64(value, &number))
            return bad_value(usage, option, value, "a whole number from 0 to 2^64 - 1");
        *(uint64_t *)option->to = number;
        return -1;
    case JOUST_OPTION_DOUBLE:
        if (!joust_parse_double(value, option->to))
            return bad_value(usage, option, value, "a number");
        return -1;
    case JOUST_OPTION_LIST: {
        joust_text_list *list = option->to;
        if (list->n == sizeof(list->items) / sizeof(list->items[0]))
            return bad_value(usage, option, value, "at most 64 of it");
        list->items[list->n++] = value;
        return -1;
    }
    }
    return JOUST_EXIT_USAGE;
}

/* Length of the option's name in argument: up to '=', or all of it. */
static size_t name_length(const char *argument)
{
    return strcspn(argument, "=");
}

static const joust_option *find_option(const joust_usage *usage, const char *argument)
{
    size_t n = name_length(argument);
    for (size_t i = 0; i < usage->n_options; i++)
        if (strncmp(usage->options[i].name, argument, n) == 0 && !usage->options[i].name[n])
            return &usage->options[i];
    return NULL;
}

/* Takes the option at argv[*at] and its value; -1 to go on. */
static int take_option(const joust_usage *usage, int argc, char **argv, int *at)
{
    const char *argument = argv[*at];
    const joust_option *option = find_option(usage, argument);
    if (!option) {
        char name[64];
        snprintf(name, sizeof(name), "%.*s", (int)name_length(argument), argument);
        return unknown_option(usage, name);
    }
    const char *equals = strchr(argument, '=');
    if (option->kind == JOUST_OPTION_FLAG)
        return equals ? complain(usage, "no value is wanted by", option->name)
                      : store_value(usage, option, NULL);
    if (equals)
        return store_value(usage, option, equals + 1);
    if (*at + 1 >= argc)
        return complain(usage, "a value is missing after", option->name);
    return store_value(usage, option, argv[++*at]);
}

int joust_cli_parse(const joust_usage *usage, int argc, char **argv, const char **positional,
                    int *ret_n_positional)
{
    int n = 0;
    bool options_end = false;
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        if (!options_end && strcmp(argument, "--") == 0) {
            options_end = true;
        } else if (!options_end && (!strcmp(argument, "--help") || !strcmp(argument, "-h"))) {
            print_page(usage);
            return JOUST_EXIT_OK;
        } else if (!options_end && argument[0] == '-' && argument[1]) {
            int status = take_option(usage, argc, argv, &i);
            if (status >= 0)
                return status;
        } else if (n == usage->max_positional) {
            return complain(usage,
                            "nothing more is expected after the arguments given, but there is",
                            argument);
        } else {
            positional[n++] = argument;
        }
    }
    if (n < usage->min_positional) {
        fprintf(stderr, "joust %s: something is missing; usage: %s\n", usage->verb,
                usage->synopsis);
        return JOUST_EXIT_USAGE;
    }
    if (ret_n_positional)
        *ret_n_positional = n;
    return -1;
}

static int exit_status(joust_status status)
{
    switch (status) {
    case JOUST_OK:
        return JOUST_EXIT_OK;
    case JOUST_INVALID:
    case JOUST_MALFORMED:
    case JOUST_TOO_LARGE:
    case JOUST_UNSUPPORTED:
    case JOUST_CONFLICT: /* a store of another job */
        return JOUST_EXIT_USAGE;
    case JOUST_UNREACHABLE:
    case JOUST_LOCKED:
    case JOUST_TIMEOUT:
        return JOUST_EXIT_UNREACHABLE;
    case JOUST_INTERRUPTED:
        return JOUST_EXIT_INTERRUPTED;
    default:
        return JOUST_EXIT_FAILED;
    }
}

int joust_cli_fail(const char *verb, const joust_error *err)
{
    fprintf(stderr, "joust %s: %s\n", verb, err->text);
    return exit_status(err->status);
}
