/* quickstart_data: writes every file that the two quickstart jobs read.
 *
 * The problems, and the splits that keep them apart, are described in quickstart_problem.h.
 *
 * Files:
 *   tokenizer.json, config.json   Hugging Face word-level tokenizer, Llama configuration
 *   rounds.jsonl                  {"id":..,"prompt":..,"reference":..}: prompts of the rounds
 *   validation.jsonl, test.jsonl  the same form: the gate's problems and the figures' problems
 *   base-steps.jsonl              rows of the base's first stage, shuffled: drills
 *   base-problems.jsonl           rows of its second stage, shuffled: demos and verdicts
 *
 * A row is {"classes":["yes","no"],"parts":[PART, ...]}; its tokens are its parts' tokens in order:
 *   {"text":T}                        context only
 *   {"text":T,"learn":W}              each token of T is predicted from the tokens before it:
 *                                     W * cross-entropy
 *   {"text":T,"label":C,"weight":W}   after each token of T: W * cross-entropy of class C, softmax
 *                                     over the logits of the row's classes alone
 * "learn" and "label" may stand together; "weight" belongs to "label". A row's loss is the plain
 * sum of its terms, a batch's loss the mean of its rows.
 *
 * Three kinds of row:
 *   drill     one bare step, right or wrong, half and half. The model learns the right results, and
 *             to tell them from wrong ones.
 *   demo      a problem answered by an annotator who forgets the carry or borrow of a step that
 *             needs one in --slip of 100 cases. The policy learns the answer; the judge learns, at
 *             each token, whether the answer agrees with the right one so far, and the verdict at
 *             <judge>. This slip is the planted weakness which the preference rounds repair.
 *   verdict   a problem with the right answer or with one random error, half and half: for the
 *             judge only.
 */
#define _POSIX_C_SOURCE 200809L
#include "quickstart_problem.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/file.h"

/* Weights of a row's terms. What follows an error is labelled "no" as well, but says little. */
static const double demo_weight = 0.1, drill_weight = 0.5, label_weight = 0.2, after_weight = 0.05,
                    verdict_weight = 1;

typedef struct {
    const char *out;
    long seed, n_test, n_validation, n_rounds, n_drills, n_demos, n_verdicts, slip_percent;
} options;

/* ---- rows ---- */

/* Bytes of text up to the first token that differs from gold's; its whole length if none does. */
static size_t agreeing_bytes(const char *text, const char *gold)
{
    size_t i = 0;
    while (text[i]) {
        size_t space = text[i] == ' ', n = space + quickstart_token_length(text + i + space);
        if (strncmp(text + i, gold + i, n) != 0 ||
            n != space + quickstart_token_length(gold + i + space)) {
            break;
        }
        i += n;
    }
    return i;
}

static void write_part(FILE *f, const char *text, size_t n, const char *end, double learn,
                       const char *label, double weight)
{
    fprintf(f, "{\"text\":\"%.*s%s\"", (int)n, text, end);
    if (learn > 0) {
        fprintf(f, ",\"learn\":%g", learn);
    }
    if (label && weight > 0) {
        fprintf(f, ",\"label\":\"%s\",\"weight\":%g", label, weight);
    }
    fputc('}', f);
}

/* The common end of all rows: the answer with its labels, <eos>, and the verdict at <judge>. */
static void write_judged(FILE *f, const char *text, const char *gold, double learn)
{
    size_t n = strlen(text), agreeing = agreeing_bytes(text, gold);
    bool right = agreeing == n;
    if (agreeing > 0) {
        fputc(',', f);
        write_part(f, text, agreeing, right ? "<eos>" : "", learn, "yes", label_weight);
    }
    if (!right) {
        const char *rest = text + agreeing;
        size_t space = *rest == ' ', first = space + quickstart_token_length(rest + space);
        fputc(',', f);
        write_part(f, rest, first, "", learn, "no", label_weight);
        fputc(',', f);
        write_part(f, rest + first, strlen(rest + first), "<eos>", learn, "no", after_weight);
    }
    fputc(',', f);
    write_part(f, "<judge>", 7, "", 0, right ? "yes" : "no", verdict_weight);
    fputs("]}\n", f);
}

static void write_problem_row(FILE *f, const quickstart_problem *p, const quickstart_answer *a,
                              double learn)
{
    char text[QUICKSTART_MAX_TEXT], gold[QUICKSTART_MAX_TEXT];
    quickstart_answer_text(a, text);
    quickstart_answer_text(&p->gold, gold);
    fprintf(f, "{\"classes\":[\"yes\",\"no\"],\"parts\":[{\"text\":\"<bos>%s<ans>\"}", p->text);
    write_judged(f, text, gold, learn);
}

static void write_drill(FILE *f, const quickstart_problem *p, quickstart_stream *random)
{
    const quickstart_step *s = &p->gold.steps[quickstart_draw(random, 0, p->gold.n_steps - 1)];
    char text[QUICKSTART_MAX_TEXT] = "", gold[QUICKSTART_MAX_TEXT] = "";
    int x = s->result;
    if (quickstart_draw(random, 0, 1)) {
        x = quickstart_slip(s) && quickstart_draw(random, 0, 1) ? quickstart_slip(s)
                                                                : quickstart_perturb(x, random);
    }
    quickstart_append(text, "%d", x);
    quickstart_append(gold, "%d", s->result);
    fprintf(f, "{\"classes\":[\"yes\",\"no\"],\"parts\":[{\"text\":\"<bos>%d%c%d=\"}", s->left,
            s->operation, s->right);
    write_judged(f, text, gold, x == s->result ? drill_weight : 0);
}

/* Row i of base-steps.jsonl; its randomness is its own. */
static void write_steps(FILE *f, const options *o)
{
    for (long i = 0; i < o->n_drills; i++) {
        quickstart_problem p = quickstart_problem_make(o->seed, SPLIT_BASE, i);
        quickstart_stream random = quickstart_stream_make(o->seed, PURPOSE_DRILL, i);
        write_drill(f, &p, &random);
    }
}

/* Demos and verdicts in random order: drawing without replacement shuffles them. */
static void write_problems(FILE *f, const options *o)
{
    long demos = o->n_demos, total = o->n_demos + o->n_verdicts;
    quickstart_stream order = quickstart_stream_make(o->seed, PURPOSE_ORDER, 0);
    for (long i = 0; total > 0; i++, total--) {
        bool demo = (long)(quickstart_stream_next(&order) % (uint64_t)total) < demos;
        demos -= demo;
        quickstart_problem p = quickstart_problem_make(o->seed, SPLIT_BASE, i);
        quickstart_stream random = quickstart_stream_make(o->seed, PURPOSE_ROW, i);
        quickstart_answer a = p.gold;
        if (demo) {
            a = quickstart_answer_sloppy(&p, o->slip_percent, &random);
        } else if (quickstart_draw(&random, 0, 1)) {
            a = quickstart_answer_wrong(&p, &random);
        }
        write_problem_row(f, &p, &a, demo ? demo_weight : 0);
    }
}

static void write_prompts(FILE *f, const options *o, quickstart_split part, const char *name,
                          long n)
{
    for (long i = 0; i < n; i++) {
        quickstart_problem p = quickstart_problem_make(o->seed, part, i);
        char gold[QUICKSTART_MAX_TEXT];
        quickstart_answer_text(&p.gold, gold);
        fprintf(f, "{\"id\":\"%s-%ld\",\"prompt\":\"%s\",\"reference\":\"%s\"}\n", name, i, p.text,
                gold);
    }
}

/* ---- tokenizer and configuration ---- */

static const char *const special[] = {"<pad>", "<unk>", "<bos>", "<eos>", "<ans>", "<judge>"};
enum { N_SPECIAL = sizeof(special) / sizeof(special[0]) };

typedef struct {
    char words[256][16];
    int n;
} vocabulary;

static void add_words(vocabulary *v, const char *text)
{
    while (*text) {
        if (*text == ' ' || *text == '{') { /* {x} is a place in a template */
            text += *text == ' ' ? 1 : 3;
            continue;
        }
        size_t n = quickstart_token_length(text);
        char word[16] = "";
        strncat(word, text, n < sizeof(word) ? n : sizeof(word) - 1);
        text += n;
        int i = 0;
        while (i < v->n && strcmp(v->words[i], word) != 0) {
            i++;
        }
        if (i == v->n) {
            strcpy(v->words[v->n++], word);
        }
    }
}

static vocabulary make_vocabulary(void)
{
    vocabulary v = {.n = 0};
    char number[16];
    for (int i = 0; i < N_SPECIAL; i++) {
        strcpy(v.words[v.n++], special[i]);
    }
    add_words(&v, "yes no + - = ; ####");
    for (int i = 0; i <= QUICKSTART_MAX_NUMBER; i++) {
        snprintf(number, sizeof(number), "%d", i);
        add_words(&v, number);
    }
    for (int i = 0; quickstart_words(i); i++) {
        add_words(&v, quickstart_words(i));
    }
    return v;
}

/* clang-format off */
static void write_tokenizer(FILE *f, const options *o)
{
    (void)o;
    vocabulary v = make_vocabulary();
    fputs("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
          "  \"added_tokens\": [\n", f);
    for (int i = 0; i < N_SPECIAL; i++) {
        fprintf(f, "    {\"id\": %d, \"content\": \"%s\", \"single_word\": false,"
                " \"lstrip\": false, \"rstrip\": false, \"normalized\": false,"
                " \"special\": true}%s\n",
                i, special[i], i + 1 < N_SPECIAL ? "," : "");
    }
    fputs("  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Split\","
          " \"pattern\": {\"Regex\": \"[A-Za-z]+|[0-9]+|####|[^\\\\sA-Za-z0-9]\"},\n"
          "    \"behavior\": \"Removed\", \"invert\": true},\n"
          "  \"post_processor\": null,\n  \"decoder\": null,\n"
          "  \"model\": {\"type\": \"WordLevel\", \"unk_token\": \"<unk>\", \"vocab\": {\n", f);
    for (int i = 0; i < v.n; i++) {
        fprintf(f, "    \"%s\": %d%s\n", v.words[i], i, i + 1 < v.n ? "," : "");
    }
    fputs("  }}\n}\n", f);
}

static void write_config(FILE *f, const options *o)
{
    (void)o;
    fprintf(f,
        "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n"
        "  \"vocab_size\": %d,\n"
        "  \"hidden_size\": 96,\n  \"intermediate_size\": 192,\n  \"num_hidden_layers\": 3,\n"
        "  \"num_attention_heads\": 4,\n  \"num_key_value_heads\": 4,\n  \"head_dim\": 24,\n"
        "  \"hidden_act\": \"silu\",\n  \"rms_norm_eps\": 1e-05,\n  \"rope_theta\": 10000.0,\n"
        "  \"max_position_embeddings\": 64,\n  \"attention_bias\": false,\n  \"mlp_bias\": false,\n"
        "  \"tie_word_embeddings\": false,\n  \"bos_token_id\": 2,\n  \"eos_token_id\": 3,\n"
        "  \"pad_token_id\": 0,\n  \"torch_dtype\": \"float32\"\n}\n",
        make_vocabulary().n);
}
/* clang-format on */

/* ---- program ---- */

static void write_test(FILE *f, const options *o)
{
    write_prompts(f, o, SPLIT_TEST, "test", o->n_test);
}

static void write_validation(FILE *f, const options *o)
{
    write_prompts(f, o, SPLIT_VALIDATION, "validation", o->n_validation);
}

static void write_rounds(FILE *f, const options *o)
{
    write_prompts(f, o, SPLIT_ROUNDS, "rounds", o->n_rounds);
}

static void write_file(const options *o, const char *name, void (*write)(FILE *, const options *))
{
    char path[4096];
    int n = snprintf(path, sizeof(path), "%s/%s", o->out, name);
    FILE *f = n > 0 && (size_t)n < sizeof(path) ? fopen(path, "wb") : NULL;
    if (!f) {
        fprintf(stderr, "quickstart_data: cannot write %s/%s: %s\n", o->out, name, strerror(errno));
        exit(1);
    }
    write(f, o);
    bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed) {
        fprintf(stderr, "quickstart_data: writing %s failed: %s\n", path, strerror(errno));
        exit(1);
    }
}

static const char usage[] =
    "usage: quickstart_data --out DIR [--seed 2] [--test 2000] [--validation 2000]\n"
    "         [--rounds 4000] [--drills 80000] [--demos 60000] [--verdicts 30000]\n"
    "         [--slip 75 (percent)]\n";

static void parse_options(int argc, char **argv, options *o)
{
    enum { MOST = 100000000 };
    const struct {
        const char *name;
        long *value, most;
    } known[] = {
        {"--seed", &o->seed, MOST},           {"--test", &o->n_test, MOST},
        {"--rounds", &o->n_rounds, MOST},     {"--validation", &o->n_validation, MOST},
        {"--drills", &o->n_drills, MOST},     {"--demos", &o->n_demos, MOST},
        {"--verdicts", &o->n_verdicts, MOST}, {"--slip", &o->slip_percent, 100},
    };
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool good = false;
        if (strcmp(argv[i], "--out") == 0) {
            o->out = value;
            good = *value != '\0';
        }
        for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
            if (strcmp(argv[i], known[k].name) == 0) {
                char *end = NULL;
                long x = *known[k].value = strtol(value, &end, 10);
                good = isdigit((unsigned char)*value) && !*end && x <= known[k].most;
            }
        }
        if (!good) {
            fprintf(stderr, "quickstart_data: unknown option or bad value: %s %s\n%s", argv[i],
                    value, usage);
            exit(2);
        }
    }
    if (!o->out) {
        fprintf(stderr, "quickstart_data: --out DIR is missing\n%s", usage);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    options o = {.seed = 2,
                 .n_test = 2000,
                 .n_validation = 2000,
                 .n_rounds = 4000,
                 .n_drills = 80000,
                 .n_demos = 60000,
                 .n_verdicts = 30000,
                 .slip_percent = 75};
    parse_options(argc, argv, &o);
    joust_error err;
    if (joust_dir_make(o.out, &err) != JOUST_OK) {
        fprintf(stderr, "quickstart_data: %s\n", err.text);
        return 1;
    }
    write_file(&o, "tokenizer.json", write_tokenizer);
    write_file(&o, "config.json", write_config);
    write_file(&o, "test.jsonl", write_test);
    write_file(&o, "validation.jsonl", write_validation);
    write_file(&o, "rounds.jsonl", write_rounds);
    write_file(&o, "base-steps.jsonl", write_steps);
    write_file(&o, "base-problems.jsonl", write_problems);
    return 0;
}
