/* Lines of trainers, taken apart. */
#include <jansson.h>
#include <math.h> /* isfinite alone */
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/external.h"

#define NAME_BYTES 128u
#define LINE_BYTES 65536u

/* What Python's json writes for numbers that JSON doesn't have becomes something of the same length that is no number. */
static void drop_infinities(char *text)
{
    static const struct {
        const char *word, *instead;
    } words[] = {{"-Infinity", "null     "}, {"Infinity", "null    "}, {"NaN", "[ ]"}};
    bool quoted = false;
    for (char *at = text; *at; at++) {
        if (*at == '\\' && quoted && at[1])
            at++;
        else if (*at == '"')
            quoted = !quoted;
        for (size_t i = 0; !quoted && i < sizeof(words) / sizeof(*words); i++)
            if (strncmp(at, words[i].word, strlen(words[i].word)) == 0)
                memcpy(at, words[i].instead, strlen(words[i].word));
    }
}

static bool get(const json_t *root, const char *const *names, double *ret)
{
    for (; *names; names++) {
        const json_t *value = json_object_get(root, *names);
        if (!value)
            continue;
        double number = json_is_number(value) ? json_number_value(value) : NAN;
        *ret = isfinite(number) ? number : 0;
        return true;
    }
    return false;
}

static joust_trainer_line read_checkpoint(const json_t *value, char ret_name[128])
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    const char *name = json_string_value(value);
    if (!name || !*name || *name == '.' || strlen(name) >= NAME_BYTES || name[strspn(name, plain)])
        return JOUST_LINE_BAD_NAME;
    memcpy(ret_name, name, strlen(name) + 1);
    return JOUST_LINE_CHECKPOINT;
}

static joust_trainer_line read_root(const json_t *root, joust_train_step *s, char ret_name[128])
{
    static const char *const loss[] = {"loss", NULL},
                             *const norm[] = {"grad_norm", "gradient_norm", NULL},
                             *const rate[] = {"learning_rate", "lr", NULL},
                             *const accuracy[] = {"rewards/accuracies", "accuracy", NULL},
                             *const chosen[] = {"rewards/chosen", "chosen_reward", NULL},
                             *const rejected[] = {"rewards/rejected", "rejected_reward", NULL};
    const json_t *checkpoint = json_object_get(root, "checkpoint");
    if (checkpoint)
        return read_checkpoint(checkpoint, ret_name);
    if (!get(root, loss, &s->loss))
        return JOUST_LINE_TEXT;
    if (!json_is_number(json_object_get(root, "loss")) ||
        !isfinite(json_number_value(json_object_get(root, "loss"))))
        return JOUST_LINE_NOT_FINITE;
    get(root, norm, &s->gradient_norm);
    get(root, rate, &s->learning_rate);
    get(root, accuracy, &s->accuracy);
    get(root, chosen, &s->chosen_reward);
    get(root, rejected, &s->rejected_reward);
    return JOUST_LINE_STEP;
}

joust_trainer_line joust_trainer_line_read(const char *line, joust_train_step *ret_step,
                                           char ret_name[128])
{
    line += strspn(line, " \t\r");
    size_t n = strlen(line);
    if (*line != '{' || n > LINE_BYTES)
        return JOUST_LINE_TEXT;
    char *copy = joust_strdup(line);
    if (!copy)
        return JOUST_LINE_TEXT;
    drop_infinities(copy);
    json_t *root = json_loads(copy, 0, NULL);
    joust_trainer_line kind =
        json_is_object(root) ? read_root(root, ret_step, ret_name) : JOUST_LINE_TEXT;
    json_decref(root);
    joust_free(copy);
    return kind;
}
