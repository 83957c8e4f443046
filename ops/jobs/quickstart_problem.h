/* The problems of the quickstart and the ways to answer them; quickstart_data.c writes the files.
 *
 * A problem is decided by (seed, split, index) alone. A split keeps only problems whose text digest
 * falls into its share of the digests, so no problem text is in two splits, whatever the seeds:
 *
 *   digest mod 100   0..9 test    10..19 validation    20..39 rounds    40..99 base
 *
 * All functions are pure but for the stream they draw from. */
#ifndef JOUST_OPS_JOBS_QUICKSTART_PROBLEM_H
#define JOUST_OPS_JOBS_QUICKSTART_PROBLEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    QUICKSTART_MAX_STEPS = 3,
    QUICKSTART_MAX_NUMBER = 40, /* operands and results are 1..40 */
    QUICKSTART_MAX_TEXT = 256   /* bytes of a question or an answer, with its end */
};

/* A counter-based random stream: splitmix64 from a state that mixes (seed, purpose, index). */
typedef struct {
    uint64_t state;
} quickstart_stream;

/* Who draws from a stream. A problem's purpose has its split added. */
enum { PURPOSE_PROBLEM = 1, PURPOSE_ROW = 64, PURPOSE_DRILL = 65, PURPOSE_ORDER = 66 };

typedef enum { SPLIT_TEST, SPLIT_VALIDATION, SPLIT_ROUNDS, SPLIT_BASE, N_SPLITS } quickstart_split;

typedef struct {
    int left, right, result;
    char operation; /* + or - */
} quickstart_step;

typedef struct {
    quickstart_step steps[QUICKSTART_MAX_STEPS];
    int n_steps, final;
} quickstart_answer;

typedef struct {
    char text[QUICKSTART_MAX_TEXT];
    const char *operations; /* one of + and - per step */
    int numbers[QUICKSTART_MAX_STEPS + 1];
    quickstart_answer gold;
} quickstart_problem;

quickstart_stream quickstart_stream_make(long seed, unsigned purpose, long index);
uint64_t quickstart_stream_next(quickstart_stream *s);

/* Uniform in first..last, both included; the bias of taking the remainder is below 2^-50 here. */
int quickstart_draw(quickstart_stream *s, int first, int last);

/* Problem number index of a split. */
quickstart_problem quickstart_problem_make(long seed, quickstart_split part, long index);

/* Appends printf-style to a text of QUICKSTART_MAX_TEXT bytes; ends the program if that is full. */
void quickstart_append(char *text, const char *format, ...);

/* Writes "13+8=21; 21-9=12 #### 12" into a text of QUICKSTART_MAX_TEXT bytes. */
void quickstart_answer_text(const quickstart_answer *a, char *text);

/* The answer of an annotator who forgets the carry or borrow of a step that needs one in
 * slip_percent of 100 cases. Later steps go on from the slip. */
quickstart_answer quickstart_answer_sloppy(const quickstart_problem *p, long slip_percent,
                                           quickstart_stream *random);

/* An answer with one random error: a wrong result (50 %), a wrong operation (15 %), a wrong operand
 * (25 %; half of them a number from elsewhere in the problem), or a number miscopied from one step
 * to the next (10 %). Later steps go on from it. */
quickstart_answer quickstart_answer_wrong(const quickstart_problem *p, quickstart_stream *random);

/* A step's result without its carry or borrow; 0 if it needs none or the slip would leave 1..40. */
int quickstart_slip(const quickstart_step *s);

/* A wrong result in 1..40, near x or a ten away. */
int quickstart_perturb(int x, quickstart_stream *random);

/* Length of the token at the start of text, which must not start with a space: a run of letters, a
 * run of digits, ####, or one other character, as the regex in tokenizer.json. */
size_t quickstart_token_length(const char *text);

/* The texts that hold all words of the problems, one by one: templates (with places such as {N}),
 * names and pronouns, objects; NULL after the last. */
const char *quickstart_words(int i);

#endif
