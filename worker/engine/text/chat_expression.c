/* Expressions of chat templates: Jinja's grammar, level by level. */
#include <string.h>

#include "chat_internal.h"

static joust_status parse_or(chat_compiling *c, chat_node **ret);
static joust_status parse_unary(chat_compiling *c, bool filters, chat_node **ret);

/* A node over `left`, which it replaces. */
static joust_status wrap(chat_compiling *c, chat_node_kind kind, chat_node **left, chat_node **ret)
{
    chat_node *node = NULL;
    joust_status st = joust_chat_node(c, kind, &node);
    if (st != JOUST_OK)
        return st;
    node->a = *left;
    node->line = (*left)->line;
    *left = node;
    if (ret)
        *ret = node;
    return JOUST_OK;
}

static bool skip_operator(chat_compiling *c, const char *text)
{
    return joust_chat_skip(c, CHAT_OPERATOR, text);
}

static bool skip_word(chat_compiling *c, const char *word)
{
    return joust_chat_skip(c, CHAT_NAME, word);
}

/* Arguments in parentheses, as a list of nodes; keyword arguments are CHAT_KEYWORD. */
static joust_status parse_arguments(chat_compiling *c, chat_node **ret)
{
    chat_node **end = ret;
    uint32_t n = 0;
    bool named = false;
    joust_status st = joust_chat_expect(c, CHAT_OPERATOR, "(");
    while (st == JOUST_OK && !skip_operator(c, ")")) {
        if (n++ > 0)
            st = joust_chat_expect(c, CHAT_OPERATOR, ",");
        if (st != JOUST_OK || (n > 1 && skip_operator(c, ")")))
            break;
        uint32_t line = c->lexemes[c->at].line;
        if (n > JOUST_CHAT_MAX_ARGS)
            return joust_chat_refuse(c->name, line, c->err, JOUST_UNSUPPORTED,
                                     "more than %u arguments", JOUST_CHAT_MAX_ARGS);
        if (joust_chat_at(c, CHAT_OPERATOR, "*") || joust_chat_at(c, CHAT_OPERATOR, "**"))
            return joust_chat_refuse(c->name, line, c->err, JOUST_UNSUPPORTED,
                                     "arguments unpacked by * or **");
        const chat_lexeme *name = &c->lexemes[c->at];
        if (name->kind == CHAT_NAME && name[1].kind == CHAT_OPERATOR &&
            strcmp(name[1].text, "=") == 0) {
            named = true;
            c->at += 2;
            st = joust_chat_node(c, CHAT_KEYWORD, end);
            if (st == JOUST_OK) {
                (*end)->name = name->text;
                st = joust_chat_parse_expression(c, false, true, &(*end)->a);
            }
        } else if (named) {
            return joust_chat_unexpected(c, "a keyword argument");
        } else {
            st = joust_chat_parse_expression(c, false, true, end);
        }
        if (st == JOUST_OK)
            end = &(*end)->next;
    }
    return st;
}

static joust_status parse_list(chat_compiling *c, chat_node **ret)
{
    joust_status st = joust_chat_node(c, CHAT_LIST, ret);
    chat_node **end = st == JOUST_OK ? &(*ret)->kids : NULL;
    bool first = true;
    c->at++;
    while (st == JOUST_OK && !skip_operator(c, "]")) {
        if (!first)
            st = joust_chat_expect(c, CHAT_OPERATOR, ",");
        if (st != JOUST_OK || (!first && skip_operator(c, "]")))
            break;
        first = false;
        st = joust_chat_parse_expression(c, false, true, end);
        if (st == JOUST_OK)
            end = &(*end)->next;
    }
    return st;
}

static joust_status parse_dict(chat_compiling *c, chat_node **ret)
{
    joust_status st = joust_chat_node(c, CHAT_DICT, ret);
    chat_node **end = st == JOUST_OK ? &(*ret)->kids : NULL;
    bool first = true;
    c->at++;
    while (st == JOUST_OK && !skip_operator(c, "}")) {
        if (!first)
            st = joust_chat_expect(c, CHAT_OPERATOR, ",");
        if (st != JOUST_OK || (!first && skip_operator(c, "}")))
            break;
        first = false;
        st = joust_chat_parse_expression(c, false, true, end);
        if (st == JOUST_OK)
            st = joust_chat_expect(c, CHAT_OPERATOR, ":");
        if (st == JOUST_OK)
            st = joust_chat_parse_expression(c, false, true, &(*end)->next);
        if (st == JOUST_OK)
            end = &(*end)->next->next;
    }
    return st;
}

/* String literals that follow one another are one. */
static joust_status parse_string(chat_compiling *c, chat_node **ret)
{
    const chat_lexeme *first = &c->lexemes[c->at];
    size_t n = 0, count = 0;
    for (; first[count].kind == CHAT_STRING; count++)
        n += first[count].n;
    joust_status st = joust_chat_node(c, CHAT_CONSTANT, ret);
    uint8_t *bytes = st == JOUST_OK ? joust_chat_alloc(c->arena, n + 1) : NULL;
    if (st == JOUST_OK && !bytes)
        st = joust_chat_refuse(c->name, first->line, c->err, JOUST_NOMEM, "out of memory");
    if (st != JOUST_OK)
        return st;
    n = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(bytes + n, first[i].text, first[i].n);
        n += first[i].n;
    }
    c->at += count;
    (*ret)->value = (chat_value){.kind = CHAT_STR, .trusted = true};
    (*ret)->value.as.text.bytes = bytes;
    (*ret)->value.as.text.n = n;
    return JOUST_OK;
}

static joust_status parse_name(chat_compiling *c, chat_node **ret)
{
    const char *name = c->lexemes[c->at++].text;
    joust_status st = joust_chat_node(c, CHAT_CONSTANT, ret);
    if (st != JOUST_OK)
        return st;
    if (strcmp(name, "true") == 0 || strcmp(name, "True") == 0) {
        (*ret)->value = joust_chat_boolean(true);
    } else if (strcmp(name, "false") == 0 || strcmp(name, "False") == 0) {
        (*ret)->value = joust_chat_boolean(false);
    } else if (strcmp(name, "none") == 0 || strcmp(name, "None") == 0) {
        (*ret)->value.kind = CHAT_NONE;
    } else {
        (*ret)->kind = CHAT_VARIABLE;
        (*ret)->name = name;
    }
    return JOUST_OK;
}

static bool at_tuple_end(const chat_compiling *c)
{
    chat_lexeme_kind kind = c->lexemes[c->at].kind;
    return kind == CHAT_PRINT_END || kind == CHAT_BLOCK_END ||
           joust_chat_at(c, CHAT_OPERATOR, ")") || joust_chat_at(c, CHAT_NAME, "in");
}

static joust_status parse_tuple(chat_compiling *c, bool conditional, bool parentheses,
                                chat_node **ret)
{
    chat_node *first = NULL, **end = &first;
    bool tuple = false;
    joust_status st = JOUST_OK;
    while (st == JOUST_OK && !at_tuple_end(c)) {
        st = joust_chat_parse_expression(c, false, conditional, end);
        if (st != JOUST_OK || !skip_operator(c, ","))
            break;
        tuple = true;
        end = &(*end)->next;
    }
    if (st != JOUST_OK)
        return st;
    if (!tuple && first) {
        *ret = first;
        return JOUST_OK;
    }
    if (!first && !parentheses)
        return joust_chat_unexpected(c, "an expression");
    st = joust_chat_node(c, CHAT_TUPLE, ret);
    if (st == JOUST_OK)
        (*ret)->kids = first;
    return st;
}

static joust_status parse_primary(chat_compiling *c, chat_node **ret)
{
    const chat_lexeme *l = &c->lexemes[c->at];
    joust_status st;
    switch (l->kind) {
    case CHAT_NAME:
        return parse_name(c, ret);
    case CHAT_STRING:
        return parse_string(c, ret);
    case CHAT_INTEGER:
    case CHAT_FLOAT:
        c->at++;
        st = joust_chat_node(c, CHAT_CONSTANT, ret);
        if (st != JOUST_OK)
            return st;
        (*ret)->value.kind = l->kind == CHAT_INTEGER ? CHAT_WHOLE : CHAT_REAL;
        if (l->kind == CHAT_INTEGER)
            (*ret)->value.as.whole = l->integer;
        else
            (*ret)->value.as.real = l->real;
        return JOUST_OK;
    case CHAT_OPERATOR:
        if (strcmp(l->text, "[") == 0)
            return parse_list(c, ret);
        if (strcmp(l->text, "{") == 0)
            return parse_dict(c, ret);
        if (skip_operator(c, "(")) {
            st = parse_tuple(c, true, true, ret);
            return st == JOUST_OK ? joust_chat_expect(c, CHAT_OPERATOR, ")") : st;
        }
        break;
    default:
        break;
    }
    return joust_chat_unexpected(c, "an expression");
}

static joust_status parse_subscript(chat_compiling *c, chat_node **target)
{
    chat_node *node = NULL;
    joust_status st = wrap(c, CHAT_ITEM, target, &node);
    if (st == JOUST_OK && !joust_chat_at(c, CHAT_OPERATOR, ":"))
        st = joust_chat_parse_expression(c, false, true, &node->b);
    if (st == JOUST_OK && skip_operator(c, ":")) {
        node->kind = CHAT_SLICE;
        if (!joust_chat_at(c, CHAT_OPERATOR, ":") && !joust_chat_at(c, CHAT_OPERATOR, "]"))
            st = joust_chat_parse_expression(c, false, true, &node->c);
        if (st == JOUST_OK && skip_operator(c, ":") && !joust_chat_at(c, CHAT_OPERATOR, "]"))
            st = joust_chat_parse_expression(c, false, true, &node->d);
    }
    return st == JOUST_OK ? joust_chat_expect(c, CHAT_OPERATOR, "]") : st;
}

static joust_status parse_attribute(chat_compiling *c, chat_node **target)
{
    chat_node *node = NULL;
    const chat_lexeme *l = &c->lexemes[c->at];
    if (l->kind != CHAT_NAME && l->kind != CHAT_INTEGER)
        return joust_chat_unexpected(c, "a name after .");
    joust_status st = wrap(c, CHAT_ATTRIBUTE, target, &node);
    if (st != JOUST_OK)
        return st;
    c->at++;
    node->name = l->text;
    if (l->kind == CHAT_INTEGER) {
        node->kind = CHAT_ITEM;
        st = joust_chat_node(c, CHAT_CONSTANT, &node->b);
        if (st == JOUST_OK)
            node->b->value = joust_chat_whole(l->integer);
    }
    return st;
}

static joust_status parse_call(chat_compiling *c, chat_node **target)
{
    chat_node *node = NULL;
    joust_status st = wrap(c, CHAT_CALL, target, &node);
    if (st == JOUST_OK)
        node->line = c->lexemes[c->at].line;
    return st == JOUST_OK ? parse_arguments(c, &node->kids) : st;
}

static joust_status parse_postfix(chat_compiling *c, chat_node **target)
{
    joust_status st = JOUST_OK;
    while (st == JOUST_OK) {
        if (skip_operator(c, "."))
            st = parse_attribute(c, target);
        else if (skip_operator(c, "["))
            st = parse_subscript(c, target);
        else if (joust_chat_at(c, CHAT_OPERATOR, "("))
            st = parse_call(c, target);
        else
            break;
    }
    return st;
}

static joust_status parse_filter(chat_compiling *c, chat_node **target)
{
    const chat_lexeme *name = &c->lexemes[c->at];
    chat_node *node = NULL;
    if (name->kind != CHAT_NAME)
        return joust_chat_unexpected(c, "a filter's name after |");
    joust_status st = wrap(c, CHAT_FILTER, target, &node);
    if (st != JOUST_OK)
        return st;
    c->at++;
    node->line = name->line;
    node->name = name->text;
    node->index = joust_chat_filter_find(name->text);
    if (node->index == UINT32_MAX)
        return joust_chat_refuse(c->name, name->line, c->err, JOUST_UNSUPPORTED, "filter '%.40s'",
                                 name->text);
    return joust_chat_at(c, CHAT_OPERATOR, "(") ? parse_arguments(c, &node->kids) : st;
}

joust_status joust_chat_parse_filters(chat_compiling *c, chat_node **target)
{
    joust_status st = JOUST_OK;
    while (st == JOUST_OK && skip_operator(c, "|"))
        st = parse_filter(c, target);
    return st;
}

/* Whether a test's one argument follows without parentheses: "is divisibleby 3". */
static bool at_bare_argument(const chat_compiling *c)
{
    const chat_lexeme *l = &c->lexemes[c->at];
    if (l->kind == CHAT_NAME)
        return strcmp(l->text, "else") != 0 && strcmp(l->text, "or") != 0 &&
               strcmp(l->text, "and") != 0 && strcmp(l->text, "if") != 0 &&
               strcmp(l->text, "in") != 0 && strcmp(l->text, "is") != 0;
    return l->kind == CHAT_STRING || l->kind == CHAT_INTEGER || l->kind == CHAT_FLOAT ||
           joust_chat_at(c, CHAT_OPERATOR, "[") || joust_chat_at(c, CHAT_OPERATOR, "{");
}

static joust_status parse_test(chat_compiling *c, chat_node **target)
{
    chat_node *node = NULL;
    bool negated = skip_word(c, "not");
    const chat_lexeme *name = &c->lexemes[c->at];
    if (name->kind != CHAT_NAME)
        return joust_chat_unexpected(c, "a test's name after 'is'");
    joust_status st = wrap(c, CHAT_TEST, target, &node);
    if (st != JOUST_OK)
        return st;
    c->at++;
    node->line = name->line;
    node->name = name->text;
    node->index = joust_chat_test_find(name->text);
    if (node->index == UINT32_MAX)
        return joust_chat_refuse(c->name, name->line, c->err, JOUST_UNSUPPORTED, "test '%.40s'",
                                 name->text);
    if (joust_chat_at(c, CHAT_OPERATOR, "(")) {
        st = parse_arguments(c, &node->kids);
    } else if (at_bare_argument(c)) {
        st = parse_primary(c, &node->kids);
        if (st == JOUST_OK)
            st = parse_postfix(c, &node->kids);
    }
    return st == JOUST_OK && negated ? wrap(c, CHAT_NOT, target, NULL) : st;
}

static joust_status parse_unary_in(chat_compiling *c, bool filters, chat_node **ret)
{
    joust_status st;
    bool minus = skip_operator(c, "-");
    if (minus || skip_operator(c, "+")) {
        st = parse_unary(c, false, ret);
        if (st == JOUST_OK)
            st = wrap(c, minus ? CHAT_NEGATIVE : CHAT_POSITIVE, ret, NULL);
    } else {
        st = parse_primary(c, ret);
    }
    if (st == JOUST_OK)
        st = parse_postfix(c, ret);
    while (st == JOUST_OK && filters) {
        if (joust_chat_at(c, CHAT_OPERATOR, "|"))
            st = joust_chat_parse_filters(c, ret);
        else if (skip_word(c, "is"))
            st = parse_test(c, ret);
        else if (joust_chat_at(c, CHAT_OPERATOR, "("))
            st = parse_call(c, ret);
        else
            break;
    }
    return st;
}

static joust_status parse_unary(chat_compiling *c, bool filters, chat_node **ret)
{
    joust_status st = joust_chat_enter(c);
    if (st != JOUST_OK)
        return st;
    st = parse_unary_in(c, filters, ret);
    c->nesting--;
    return st;
}

typedef struct binary {
    const char *text;
    chat_operator op;
} binary;

/* Operators of one level, from the left. */
static joust_status parse_level(chat_compiling *c, const binary *operators, size_t n,
                                joust_status (*next)(chat_compiling *, chat_node **),
                                chat_node **ret)
{
    joust_status st = next(c, ret);
    for (size_t i = 0; st == JOUST_OK && i < n;) {
        if (!skip_operator(c, operators[i].text)) {
            i++;
            continue;
        }
        chat_node *node = NULL;
        st = wrap(c, CHAT_ARITHMETIC, ret, &node);
        if (st == JOUST_OK) {
            node->index = operators[i].op;
            st = next(c, &node->b);
        }
        i = 0;
    }
    return st;
}

static joust_status parse_filtered(chat_compiling *c, chat_node **ret)
{
    return parse_unary(c, true, ret);
}

static joust_status parse_power(chat_compiling *c, chat_node **ret)
{
    static const binary operators[] = {{"**", CHAT_POWER}};
    return parse_level(c, operators, 1, parse_filtered, ret);
}

static joust_status parse_product(chat_compiling *c, chat_node **ret)
{
    static const binary operators[] = {
        {"*", CHAT_MULTIPLY}, {"/", CHAT_DIVIDE}, {"//", CHAT_FLOOR_DIVIDE}, {"%", CHAT_REMAINDER}};
    return parse_level(c, operators, 4, parse_power, ret);
}

static joust_status parse_concat(chat_compiling *c, chat_node **ret)
{
    joust_status st = parse_product(c, ret);
    if (st != JOUST_OK || !joust_chat_at(c, CHAT_OPERATOR, "~"))
        return st;
    chat_node *node = NULL;
    st = joust_chat_node(c, CHAT_CONCAT, &node);
    if (st != JOUST_OK)
        return st;
    node->kids = *ret;
    *ret = node;
    for (chat_node **end = &node->kids->next; st == JOUST_OK && skip_operator(c, "~");) {
        st = parse_product(c, end);
        if (st == JOUST_OK)
            end = &(*end)->next;
    }
    return st;
}

static joust_status parse_sum(chat_compiling *c, chat_node **ret)
{
    static const binary operators[] = {{"+", CHAT_ADD}, {"-", CHAT_SUBTRACT}};
    return parse_level(c, operators, 2, parse_concat, ret);
}

static bool skip_comparison(chat_compiling *c, chat_operator *ret)
{
    static const binary operators[] = {{"==", CHAT_EQUAL},      {"!=", CHAT_UNEQUAL},
                                       {"<=", CHAT_LESS_EQUAL}, {">=", CHAT_GREATER_EQUAL},
                                       {"<", CHAT_LESS},        {">", CHAT_GREATER}};
    for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++) {
        if (skip_operator(c, operators[i].text)) {
            *ret = operators[i].op;
            return true;
        }
    }
    if (skip_word(c, "in")) {
        *ret = CHAT_IN;
        return true;
    }
    const chat_lexeme *next = &c->lexemes[c->at];
    if (joust_chat_at(c, CHAT_NAME, "not") && next[1].kind == CHAT_NAME &&
        strcmp(next[1].text, "in") == 0) {
        c->at += 2;
        *ret = CHAT_NOT_IN;
        return true;
    }
    return false;
}

static joust_status parse_comparison(chat_compiling *c, chat_node **ret)
{
    chat_node *node = NULL, **end = NULL;
    chat_operator op;
    joust_status st = parse_sum(c, ret);
    while (st == JOUST_OK && skip_comparison(c, &op)) {
        if (!node) {
            st = wrap(c, CHAT_COMPARE, ret, &node);
            end = st == JOUST_OK ? &node->kids : NULL;
        }
        if (st == JOUST_OK)
            st = joust_chat_node(c, CHAT_OPERAND, end);
        if (st != JOUST_OK)
            break;
        (*end)->index = op;
        st = parse_sum(c, &(*end)->a);
        end = &(*end)->next;
    }
    return st;
}

static joust_status parse_not(chat_compiling *c, chat_node **ret)
{
    uint32_t n = 0;
    while (skip_word(c, "not"))
        n++;
    joust_status st = parse_comparison(c, ret);
    if (st == JOUST_OK && n > 0)
        st = wrap(c, CHAT_NOT, ret, NULL);
    if (st == JOUST_OK && n > 0 && n % 2 == 0)
        st = wrap(c, CHAT_NOT, ret, NULL);
    return st;
}

static joust_status parse_and(chat_compiling *c, chat_node **ret)
{
    joust_status st = parse_not(c, ret);
    while (st == JOUST_OK && skip_word(c, "and")) {
        chat_node *node = NULL;
        st = wrap(c, CHAT_AND, ret, &node);
        if (st == JOUST_OK)
            st = parse_not(c, &node->b);
    }
    return st;
}

static joust_status parse_or(chat_compiling *c, chat_node **ret)
{
    joust_status st = parse_and(c, ret);
    while (st == JOUST_OK && skip_word(c, "or")) {
        chat_node *node = NULL;
        st = wrap(c, CHAT_OR, ret, &node);
        if (st == JOUST_OK)
            st = parse_and(c, &node->b);
    }
    return st;
}

static joust_status parse_choice(chat_compiling *c, chat_node **ret)
{
    joust_status st = parse_or(c, ret);
    while (st == JOUST_OK && skip_word(c, "if")) {
        chat_node *node = NULL;
        st = wrap(c, CHAT_CHOICE, ret, &node);
        if (st == JOUST_OK)
            st = parse_or(c, &node->b);
        if (st == JOUST_OK && skip_word(c, "else"))
            st = joust_chat_parse_expression(c, false, true, &node->c);
    }
    return st;
}

joust_status joust_chat_parse_expression(chat_compiling *c, bool tuples, bool conditional,
                                         chat_node **ret)
{
    joust_status st = joust_chat_enter(c);
    if (st != JOUST_OK)
        return st;
    if (tuples)
        st = parse_tuple(c, conditional, false, ret);
    else
        st = conditional ? parse_choice(c, ret) : parse_or(c, ret);
    c->nesting--;
    return st;
}
