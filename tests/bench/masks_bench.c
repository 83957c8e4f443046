/* What a mask costs a step, beside the step itself: the sampler's pass over a row of logits of the same vocabulary, in the
 * same run. Steps of all rules draw by the engine's sampler from seeded noise, so that a string holds any token: the hardest
 * text for a mask. tests/bench/masks_bench [--tokenizer FILE] [--synthetic N] [--steps N]; FILE is a tokenizer.json, else the
 * vocabulary is made up: N tokens (151644). */
#include <jansson.h>
#include <math.h> /* INFINITY */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/engine/masks/mask.h"
#include "worker/engine/sampler_internal.h"

enum { MAX_STEPS = 100000, MAX_TOKENS = 400, N_SAMPLES = 8 };

typedef struct bench {
    joust_tokenizer *tokenizer;
    joust_model_config config;
    joust_sampler sampler;
    float *logits;
    uint32_t n_steps, end;
    uint64_t random;
    double *masks, *draws; /* (n_steps) microseconds */
} bench;

static const struct {
    const char *name;
    joust_mask_rule rule;
} rules[] = {
    {"choices", {.choices = (const char *const[]){"yes", "no", "maybe"}, .n_choices = 3}},
    {"regex, digits", {.regex = "[0-9]{1,12}( [a-z]+){0,40}"}},
    {"regex, lines", {.regex = "(- .{1,30}\n)+"}},
    {"grammar, sums",
     {.grammar = "root ::= e\ne ::= t ([-+*/] t)*\nt ::= \"(\" e \")\" | [0-9]{1,9}\n"}},
    {"grammar, lines", {.grammar = "root ::= (\"- \" [^\\n]{1,120} \"\\n\"){1,20}\n"}},
    {"schema, flat",
     {.json_schema = "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\","
                     "\"maxLength\":200},\"n\":{\"type\":\"integer\"},\"tags\":{\"type\":\"array\","
                     "\"items\":{\"type\":\"string\"},\"maxItems\":8}},\"required\":[\"name\","
                     "\"n\",\"tags\"]}"}},
    {"schema, recursive",
     {.json_schema = "{\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"label\":{"
                     "\"type\":\"string\",\"maxLength\":60},\"kids\":{\"type\":\"array\","
                     "\"items\":{\"$ref\":\"#/$defs/tree\"}}},\"required\":[\"label\",\"kids\"]}},"
                     "\"$ref\":\"#/$defs/tree\"}"}},
    {"schema, any JSON", {.json_schema = "{}"}}};

static uint32_t next(bench *b)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(b->random >> 33);
}

/* ---- a vocabulary ---------------------------------------------------------------------------- */

/* A text as byte-level vocabularies spell it. */
static void spell(const char *text, char *to)
{
    for (; *text; text++) {
        const unsigned byte = (uint8_t)*text, c = byte <= ' '    ? 256 + byte
                                                  : byte < 0x7f  ? byte
                                                  : byte < 0xa1  ? 256 + 33 + byte - 0x7f
                                                  : byte == 0xad ? 256 + 67
                                                                 : byte;
        if (c >= 0x80)
            *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(c < 0x80 ? c : 0x80 | (c & 0x3f));
    }
    *to = 0;
}

/* Words of syllables, with a space before or none, numbers, runs of blanks and of marks, and words of three-byte characters: in
 * about the shares of real vocabularies of this size. */
static void make_text(bench *b, char *to)
{
    static const char *const syllables[] = {"a",  "be",  "con", "de", "er",  "in", "ing", "ist",
                                            "la", "mo",  "ne",  "on", "per", "re", "st",  "tion",
                                            "un", "ver", "y",   "zo", "é",   "ch", "Th",  "qu"};
    static const char marks[] = "\"\\{}[]:,.;()<>=+-*/_#\n";
    const uint32_t kind = next(b) % 100;
    *to = 0;
    if (kind < 70) {
        if (next(b) % 2)
            strcat(to, " ");
        for (uint32_t n = 1 + next(b) % 4; n > 0; n--)
            strcat(to, syllables[next(b) % (sizeof(syllables) / sizeof(*syllables))]);
    } else if (kind < 82) {
        for (uint32_t n = 1 + next(b) % 3; n > 0; n--) {
            char *end = to + strlen(to);
            end[0] = (char)0xe4;
            end[1] = (char)(0xb8 + next(b) % 8);
            end[2] = (char)(0x80 + next(b) % 64);
            end[3] = 0;
        }
    } else if (kind < 92) {
        for (uint32_t n = 1 + next(b) % 6; n > 0; n--)
            strncat(to, marks + next(b) % (sizeof(marks) - 1), 1);
        if (next(b) % 2)
            strcat(to, syllables[next(b) % (sizeof(syllables) / sizeof(*syllables))]);
    } else if (kind < 96) {
        for (uint32_t n = 1 + next(b) % 48; n > 0; n--)
            strcat(to, " ");
    } else {
        snprintf(to, 8, "%u", next(b) % 1000);
    }
}

static joust_status make_vocabulary(bench *b, uint32_t n, joust_error *err)
{
    static const char pattern[] =
        "{\"added_tokens\":[{\"id\":0,\"content\":\"</s>\",\"special\":true}],"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false},\"model\":{\"type\":\"BPE\",\"merges\":[]}}";
    json_t *root = json_loads(pattern, 0, NULL), *vocab = json_object();
    char text[256], spelled[512];
    uint32_t id = 0;
    json_object_set_new(vocab, "</s>", json_integer(id++));
    for (unsigned byte = 1; byte < 256; byte++) {
        spell((const char[]){(char)byte, 0}, spelled);
        json_object_set_new(vocab, spelled, json_integer(id++));
    }
    while (id < n) {
        make_text(b, text);
        spell(text, spelled);
        if (!json_object_get(vocab, spelled))
            json_object_set_new(vocab, spelled, json_integer(id++));
        else if (next(b) % 4 == 0) { /* taken: the word with a number */
            snprintf(text + strlen(text), 16, "%u", next(b) % 1000);
            spell(text, spelled);
            if (!json_object_get(vocab, spelled))
                json_object_set_new(vocab, spelled, json_integer(id++));
        }
    }
    json_object_set_new(json_object_get(root, "model"), "vocab", vocab);
    char *file = json_dumps(root, 0);
    joust_status st =
        file ? joust_tokenizer_parse(file, strlen(file), "synthetic", &b->tokenizer, err)
             : joust_fail(err, JOUST_NOMEM, "vocabulary: out of memory");
    free(file);
    json_decref(root);
    return st;
}

static joust_status read_vocabulary(bench *b, const char *path, joust_error *err)
{
    joust_buf text = {0};
    joust_status st = joust_file_read(path, (size_t)1 << 28, &text, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_parse((const char *)text.data, text.n, path, &b->tokenizer, err);
    joust_buf_fini(&text);
    return st;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void make_noise(bench *b)
{
    for (uint32_t i = 0; i < b->config.vocab_size; i++)
        b->logits[i] = (float)(next(b) >> 8) * 0x1p-22f;
}

/* A response of the rule, or its beginning; *at: steps so far. */
static joust_status draw_response(bench *b, joust_mask *mask, uint32_t sample, uint32_t *at,
                                  joust_error *err)
{
    const joust_sampling sampling = {.temperature = 1, .top_p = 1, .max_tokens = MAX_TOKENS};
    uint32_t tokens[MAX_TOKENS];
    for (uint32_t n = 0; n < MAX_TOKENS && *at < b->n_steps; n++) {
        joust_draw draw = {0};
        make_noise(b);
        const float uniform = (float)(next(b) >> 8) * 0x1p-24f;
        int64_t from = joust_clock_ns();
        joust_status st =
            joust_sampler_draw(&b->sampler, b->logits, NULL, &sampling, uniform, &draw, err);
        b->draws[*at] = (double)(joust_clock_ns() - from) / 1e3;
        from = joust_clock_ns();
        if (st == JOUST_OK)
            st = joust_mask_guide(mask, 0, sample, tokens, n, b->logits, b->config.vocab_size, err);
        b->masks[(*at)++] = (double)(joust_clock_ns() - from) / 1e3;
        const joust_draw_rules open = {.n_banned = 0};
        if (st == JOUST_OK)
            st = joust_sampler_draw(&b->sampler, b->logits, &open, &sampling, uniform, &draw, err);
        if (st != JOUST_OK)
            return st;
        if (draw.none)
            return joust_fail(err, JOUST_INVALID, "a dead end after %u tokens", n);
        tokens[n] = draw.token;
        if (draw.token == b->end)
            break;
    }
    return JOUST_OK;
}

static const joust_kernels *fast_kernels(void)
{
    const joust_kernels *k = joust_kernels_avx512();
    k = k ? k : joust_kernels_avx2();
    return k ? k : joust_kernels_portable();
}

static int in_order(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double share_of(const double *sorted, uint32_t n, double share)
{
    return sorted[(uint32_t)(share * (n - 1))];
}

static joust_status run_rule(bench *b, const char *name, const joust_mask_rule *rule,
                             joust_error *err)
{
    joust_mask *mask = NULL;
    uint32_t n = 0;
    int64_t from = joust_clock_ns();
    joust_status st = joust_mask_create(b->tokenizer, &b->config, rule, &mask, err);
    const double made_ms = (double)(joust_clock_ns() - from) / 1e6;
    for (uint32_t sample = 0; st == JOUST_OK && n < b->n_steps; sample++)
        st = draw_response(b, mask, sample % N_SAMPLES, &n, err);
    joust_mask_free(&mask);
    if (st != JOUST_OK)
        return joust_blame(err, st, "%s", name);
    qsort(b->masks, n, sizeof(*b->masks), in_order);
    qsort(b->draws, n, sizeof(*b->draws), in_order);
    const double draw = share_of(b->draws, n, 0.5), median = share_of(b->masks, n, 0.5),
                 p99 = share_of(b->masks, n, 0.99);
    printf("%-18s %6u %8.0f %8.1f %8.1f %8.1f %9.1f %8.1f %7.3f %7.2f\n", name, n, made_ms, median,
           share_of(b->masks, n, 0.9), p99, b->masks[n - 1], draw, median / draw, p99 / draw);
    return JOUST_OK;
}

static joust_status run(bench *b, joust_error *err)
{
    const uint32_t n = (uint32_t)joust_tokenizer_size(b->tokenizer);
    b->config = (joust_model_config){.vocab_size = n, .n_end_tokens = 1, .end_tokens = {b->end}};
    b->logits = joust_calloc_aligned(joust_lanes_up(n), sizeof(*b->logits));
    b->masks = joust_calloc(b->n_steps, sizeof(*b->masks));
    b->draws = joust_calloc(b->n_steps, sizeof(*b->draws));
    joust_status st = b->logits && b->masks && b->draws
                          ? joust_sampler_init(&b->sampler, fast_kernels(), n, err)
                          : joust_fail(err, JOUST_NOMEM, "out of memory");
    if (st == JOUST_OK)
        printf("%u tokens; microseconds a step, one thread; draw: the sampler without mask\n"
               "%-18s %6s %8s %8s %8s %8s %9s %8s %7s %7s\n",
               n, "rule", "steps", "made ms", "median", "p90", "p99", "worst", "draw", "med/drw",
               "p99/drw");
    for (size_t i = 0; st == JOUST_OK && i < sizeof(rules) / sizeof(*rules); i++)
        st = run_rule(b, rules[i].name, &rules[i].rule, err);
    joust_sampler_fini(&b->sampler);
    joust_free_aligned(b->logits);
    joust_free(b->masks);
    joust_free(b->draws);
    return st;
}

int main(int argc, char **argv)
{
    bench b = {.n_steps = 2000, .random = 7};
    const char *path = NULL;
    unsigned long n_synthetic = 151644;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--tokenizer") == 0)
            path = argv[i + 1];
        else if (strcmp(argv[i], "--synthetic") == 0)
            n_synthetic = strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--steps") == 0)
            b.n_steps = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else
            argc = 0;
    }
    if (argc % 2 == 0 || n_synthetic < 300 || n_synthetic > 400000 || b.n_steps < 1 ||
        b.n_steps > MAX_STEPS) {
        fprintf(stderr, "masks_bench [--tokenizer FILE] [--synthetic 300..400000] [--steps N]\n");
        return 2;
    }
    joust_error err = {0};
    joust_status st =
        path ? read_vocabulary(&b, path, &err) : make_vocabulary(&b, (uint32_t)n_synthetic, &err);
    if (st == JOUST_OK && path && !joust_tokenizer_find(b.tokenizer, "<|endoftext|>", &b.end))
        st = joust_fail(&err, JOUST_UNSUPPORTED, "%s: no token <|endoftext|>", path);
    if (st == JOUST_OK)
        st = run(&b, &err);
    joust_tokenizer_free(&b.tokenizer);
    if (st != JOUST_OK)
        fprintf(stderr, "masks_bench: %s\n", err.text);
    return st == JOUST_OK ? 0 : 1;
}
