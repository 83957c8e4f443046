/* Inside the tokenizer. A text's way through it:
 *   added tokens cut it into segments -> normalizer steps -> pre-tokenizer steps -> words -> model -> ids
 * and back: ids -> pieces -> decoder steps -> text.
 * Normalizer, pre-tokenizer and decoder are lists of steps, each of which rewrites a list of pieces. */
#ifndef JOUST_WORKER_ENGINE_TEXT_TOKENIZER_INTERNAL_H
#define JOUST_WORKER_ENGINE_TEXT_TOKENIZER_INTERNAL_H

#include <stdatomic.h>

#include "json_internal.h"
#include "unicode_internal.h"
#include "worker/engine/masks/regex_internal.h"
#include "worker/engine/text/tokenizer.h"

#define JOUST_MAX_TOKENIZER_BYTES (64u << 20)
#define JOUST_MAX_TOKEN_ID        (1u << 21) /* ids are below it */
#define JOUST_MAX_STEPS           32u
#define JOUST_NO_TOKEN            UINT32_MAX

/* Where a piece of text stands: prefixes ("▁", a space) are added at begins only. */
typedef enum joust_place {
    JOUST_PLACE_START,   /* begins the whole text */
    JOUST_PLACE_SEGMENT, /* begins after an added token, or after a cut of a pre-tokenizer */
    JOUST_PLACE_INSIDE   /* goes on where other text was */
} joust_place;

/* A list of pieces of text: consecutive ranges of one buffer. Zero-initialise. */
typedef struct joust_piece {
    size_t begin, end;
    joust_place place;
} joust_piece;

typedef struct joust_pieces {
    joust_buf text;
    joust_piece *items;
    size_t n, capacity;
} joust_pieces;

void joust_pieces_fini(joust_pieces *p);
void joust_pieces_clear(joust_pieces *p);
/* Ends the piece that began at byte `begin` of p->text; an empty one is dropped. */
JOUST_MUST_USE joust_status joust_pieces_end(joust_pieces *p, size_t begin, joust_place place,
                                             joust_error *err);
/* Appends a copy of text as one piece; an empty one is dropped. */
JOUST_MUST_USE joust_status joust_pieces_add(joust_pieces *p, const void *text, size_t n,
                                             joust_place place, joust_error *err);

typedef enum joust_step_kind {
    /* normalizers */
    JOUST_STEP_PREPEND, /* text */
    JOUST_STEP_REPLACE, /* regex by text; also a decoder */
    JOUST_STEP_TRIM,    /* white space at left and right */
    JOUST_STEP_COMPOSE, /* Unicode's normal form `form` */
    JOUST_STEP_LOWER,
    JOUST_STEP_UNMARK, /* combining marks go */
    /* pre-tokenizers */
    JOUST_STEP_SPLIT,       /* regex, behavior, invert */
    JOUST_STEP_SPACE_FIRST, /* a space before a piece that has none */
    JOUST_STEP_BYTES,       /* each byte becomes a printable letter (GPT-2's table) */
    JOUST_STEP_METASPACE, /* spaces become text, with a prefix by scheme; regex (or NULL) splits */
    /* decoders */
    JOUST_STEP_UNBYTES,       /* the way back */
    JOUST_STEP_BYTE_FALLBACK, /* runs of <0xNN> become text */
    JOUST_STEP_FUSE,          /* all pieces become one */
    JOUST_STEP_STRIP,         /* text: at most n_left and n_right times at the ends of each piece */
    JOUST_STEP_UNMETASPACE    /* text becomes a space, and nothing in the first piece */
} joust_step_kind;

typedef enum joust_split_behavior {
    JOUST_SPLIT_REMOVED,
    JOUST_SPLIT_ISOLATED,
    JOUST_SPLIT_MERGED_WITH_PREVIOUS,
    JOUST_SPLIT_MERGED_WITH_NEXT,
    JOUST_SPLIT_CONTIGUOUS
} joust_split_behavior;

typedef enum joust_prefix_scheme {
    JOUST_PREFIX_NEVER,
    JOUST_PREFIX_FIRST,
    JOUST_PREFIX_ALWAYS
} joust_prefix_scheme;

typedef struct joust_step {
    joust_step_kind kind;
    joust_regex *regex;
    char *text;
    size_t n_text;
    joust_split_behavior behavior;
    bool invert;
    bool left, right;
    bool whole; /* a decoder that gets all the text as one piece */
    joust_prefix_scheme scheme;
    joust_normal_form form;
    uint32_t n_left, n_right;
} joust_step;

typedef struct joust_steps {
    joust_step items[JOUST_MAX_STEPS];
    uint32_t n;
} joust_steps;

void joust_steps_fini(joust_steps *s);

/* Buffers of one call of encode or decode. Zero-initialise. */
typedef struct joust_bpe_symbol {
    uint32_t id, previous, next; /* JOUST_NO_TOKEN: none; id JOUST_NO_TOKEN: merged away */
} joust_bpe_symbol;

typedef struct joust_bpe_merge {
    uint32_t rank, at, id; /* merges symbol `at` with the next into id */
} joust_bpe_merge;

typedef struct joust_tokenizer_scratch {
    joust_pieces pieces, other;
    bool raw;    /* decoders leave bytes that form no UTF-8 as they are */
    bool inside; /* the pieces go on from text that was decoded before */
    joust_regex_scratch *regex;
    struct joust_word_cache *cache; /* or NULL */
    joust_bpe_symbol *symbols;
    joust_bpe_merge *heap;
    size_t n_heap, symbols_capacity, heap_capacity;
} joust_tokenizer_scratch;

void joust_tokenizer_scratch_fini(joust_tokenizer_scratch *s);

/* Runs steps over s->pieces. Errors: JOUST_NOMEM, JOUST_TOO_LARGE. */
JOUST_MUST_USE joust_status joust_steps_run(const joust_steps *steps, joust_tokenizer_scratch *s,
                                            joust_error *err);
/* One decoder step (JOUST_STEP_UNBYTES and after): `in` is read, `to` (cleared before) is filled. */
JOUST_MUST_USE joust_status joust_step_decode(const joust_step *step,
                                              const joust_tokenizer_scratch *s,
                                              const joust_pieces *in, joust_pieces *to,
                                              joust_error *err);

/* GPT-2's table: byte -> code point that is printable, and back (-1: none). */
uint32_t joust_byte_letter(uint8_t byte);
int joust_letter_byte(uint32_t letter);

/* Hash table from text to id: the pieces themselves lie in the vocabulary. */
typedef struct joust_vocabulary {
    joust_buf text; /* all pieces, one after the other */
    struct {
        uint32_t at, n;
    } * pieces; /* by id; at = JOUST_NO_TOKEN: no such id */
    uint32_t size, capacity;
    uint32_t *slots; /* id + 1, or 0 */
    uint32_t n_slots, n_used;
} joust_vocabulary;

void joust_vocabulary_fini(joust_vocabulary *v);
/* Errors: JOUST_INVALID (id or text is taken, id too large), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_vocabulary_add(joust_vocabulary *v, const char *text, size_t n,
                                                 uint32_t id, joust_error *err);
uint32_t joust_vocabulary_find(const joust_vocabulary *v, const void *text, size_t n);
/* View; NULL if there is no such id. */
const uint8_t *joust_vocabulary_piece(const joust_vocabulary *v, uint32_t id, size_t *ret_n);

/* Merges of a BPE model, by pair. */
typedef struct joust_merge {
    uint32_t left, right, rank, id;
} joust_merge;

typedef struct joust_merges {
    joust_merge *slots; /* left = JOUST_NO_TOKEN: free */
    uint32_t n_slots;
} joust_merges;

/* Room for n merges. */
JOUST_MUST_USE joust_status joust_merges_init(joust_merges *m, size_t n, joust_error *err);
void joust_merges_fini(joust_merges *m);
/* A repeated pair keeps its first rank. */
void joust_merges_add(joust_merges *m, const joust_merge *merge);
const joust_merge *joust_merges_find(const joust_merges *m, uint32_t left, uint32_t right);

typedef enum joust_tokenizer_model {
    JOUST_TOKENIZER_WORD_LEVEL,
    JOUST_TOKENIZER_BPE
} joust_tokenizer_model;

/* A token that is cut out of the text before anything else. */
typedef struct joust_added {
    uint32_t id;
    bool special, single_word, left, right, normalized;
    bool trusted_only; /* stands in for a special token with `normalized` where trust is known */
    joust_buf text;    /* as it is matched: normalized if it is to be found in normalized text */
} joust_added;

/* Words met before and their ids: most of a text's words are. One call of encode has it at a time; others go without. */
#define JOUST_CACHED_WORDS      8192u
#define JOUST_CACHED_WORD_BYTES 30u
#define JOUST_CACHED_WORD_IDS   8u
typedef struct joust_word_cache {
    atomic_flag taken;
    struct joust_cached_word {
        uint8_t n, n_ids; /* n = 0: free */
        uint8_t word[JOUST_CACHED_WORD_BYTES];
        uint32_t ids[JOUST_CACHED_WORD_IDS];
    } words[JOUST_CACHED_WORDS];
} joust_word_cache;

struct joust_tokenizer {
    joust_digest digest;
    joust_word_cache *cache; /* of BPE models */
    joust_tokenizer_model model;
    joust_vocabulary vocabulary;
    uint8_t *special; /* (vocabulary.size) 1: an added token marked special */
    uint32_t unknown; /* or JOUST_NO_TOKEN */
    bool fuse_unknown, byte_fallback, ignore_merges;
    uint32_t bytes[256]; /* id of <0xNN>, or JOUST_NO_TOKEN */
    joust_merges merges;
    joust_added *added; /* sorted by `text` */
    uint32_t n_added;
    joust_steps normalizer, pre_tokenizer, decoder;
    bool begins[256];           /* whether an added token begins with this byte */
    joust_regex *word;          /* a character of a word; NULL if no added token asks */
    joust_tokens before, after; /* what the post-processor adds */
};

/* tokenizer.json's normalizer, pre_tokenizer or decoder as steps. Errors name the place and the component. */
typedef enum joust_steps_role {
    JOUST_STEPS_NORMALIZER,
    JOUST_STEPS_PRE_TOKENIZER,
    JOUST_STEPS_DECODER
} joust_steps_role;
JOUST_MUST_USE joust_status joust_steps_read(joust_steps *to, joust_steps_role role,
                                             const json_t *component, joust_error *err);

/* tokenizer.json's post_processor, as the tokens that it puts around a text; the vocabulary is read. Errors name the place. */
#define JOUST_MAX_FRAME_TOKENS 64u /* on each side */
JOUST_MUST_USE joust_status joust_tokenizer_read_frame(joust_tokenizer *t, const json_t *component,
                                                       joust_error *err);

/* Fills a zeroed tokenizer from the file's bytes. On failure it is left for joust_tokenizer_free. */
JOUST_MUST_USE joust_status joust_tokenizer_read(joust_tokenizer *t, const void *json, size_t n,
                                                 const char *name, joust_error *err);

/* Which added tokens count, and where: trust is NULL, or a flag for each byte of the text (then normalized is not set). */
typedef struct joust_added_rule {
    bool special;    /* special tokens too */
    bool normalized; /* those that are matched after normalization, else the others */
    const uint8_t *trust;
} joust_added_rule;
/* dir's vocab.json and merges.txt as the bytes of a tokenizer.json. */
JOUST_MUST_USE joust_status joust_tokenizer_read_merges(const char *dir, joust_buf *to,
                                                        joust_error *err);

/* Cuts text at added tokens: `each` is called for every segment (id = JOUST_NO_TOKEN) and token, in order. */
typedef joust_status joust_segment_fn(void *context, const uint8_t *text, size_t n, uint32_t id,
                                      joust_error *err);
JOUST_MUST_USE joust_status joust_added_cut(const joust_tokenizer *t, const uint8_t *text, size_t n,
                                            const joust_added_rule *rule,
                                            joust_regex_scratch *regex, joust_segment_fn *each,
                                            void *context, joust_error *err);

/* Appends the ids of one word, as the model has it. Errors: JOUST_INVALID quotes the word. */
JOUST_MUST_USE joust_status joust_bpe_encode(const joust_tokenizer *t, joust_tokenizer_scratch *s,
                                             const uint8_t *word, size_t n, joust_tokens *to,
                                             joust_error *err);

/* joust_tokenizer_encode of a text some of whose bytes may write special tokens: those whose flag in trust is set. A
 * special token is found where all its bytes are trusted, always in the text as it is (not in normalized text). */
JOUST_MUST_USE joust_status joust_tokenizer_encode_trusted(const joust_tokenizer *t,
                                                           const char *text, size_t n,
                                                           const uint8_t *trust, joust_tokens *to,
                                                           joust_error *err);
/* joust_tokenizer_encode for text that stands at `place` of a larger one. */
JOUST_MUST_USE joust_status joust_tokenizer_encode_at(const joust_tokenizer *t, const char *text,
                                                      size_t n, bool special, joust_place place,
                                                      joust_tokens *to, joust_error *err);
/* joust_tokenizer_decode as it is set up in s: its raw and inside. Appends to `to` without a check of its UTF-8 if raw. */
JOUST_MUST_USE joust_status joust_tokenizer_decode_in(const joust_tokenizer *t,
                                                      joust_tokenizer_scratch *s,
                                                      const uint32_t *ids, uint32_t n,
                                                      bool skip_special, joust_buf *to,
                                                      joust_error *err);
/* The place of text that follows tokens: START if there are none, SEGMENT after a special token. */
joust_place joust_tokenizer_place_after(const joust_tokenizer *t, const joust_tokens *before);
/* Fails with "'word' is not in the vocabulary, which has no unknown token". */
joust_status joust_tokenizer_fail_word(const uint8_t *word, size_t n, joust_error *err);

#endif
