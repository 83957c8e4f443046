/* Tokenizers: Hugging Face tokenizer.json with word-level or BPE models. Text is UTF-8. Thread: any (immutable). */
#ifndef JOUST_WORKER_ENGINE_TEXT_TOKENIZER_H
#define JOUST_WORKER_ENGINE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/base/digest.h"

typedef struct joust_tokenizer joust_tokenizer;

/* Growable list of token ids; zero-initialise, free `ids` by joust_tokens_fini. */
typedef struct joust_tokens {
    uint32_t *ids;
    uint32_t n, capacity;
} joust_tokens;
void joust_tokens_fini(joust_tokens *t);
JOUST_MUST_USE joust_status joust_tokens_add(joust_tokens *t, const uint32_t *ids, uint32_t n,
                                             joust_error *err);

/* Reads dir/tokenizer.json or, where there is none, GPT-2's vocab.json and merges.txt. Errors name file and place;
 * JOUST_UNSUPPORTED names the component. */
JOUST_MUST_USE joust_status joust_tokenizer_load(const char *dir, joust_tokenizer **ret,
                                                 joust_error *err);
/* The same from the file's bytes; name stands for it in errors. */
JOUST_MUST_USE joust_status joust_tokenizer_parse(const void *json, size_t n, const char *name,
                                                  joust_tokenizer **ret, joust_error *err);
void joust_tokenizer_free(joust_tokenizer **t);
/* Appends to `to` the tokenizer.json that says what GPT-2's vocab.json and merges.txt (their bytes) say. */
JOUST_MUST_USE joust_status joust_tokenizer_convert_merges(const void *vocabulary,
                                                           size_t n_vocabulary, const void *merges,
                                                           size_t n_merges, joust_buf *to,
                                                           joust_error *err);

/* Appends the tokens of text. special: added tokens written in the text ("<eos>") are recognised; without it they
 * are ordinary text (so that text from a model or a user can't forge them). No bos or eos is added.
 * Errors: JOUST_INVALID (not UTF-8, or a word outside a vocabulary without an unknown token: err quotes it). */
JOUST_MUST_USE joust_status joust_tokenizer_encode(const joust_tokenizer *t, const char *text,
                                                   size_t n, bool special, joust_tokens *to,
                                                   joust_error *err);
/* The special tokens that the file's post-processor puts before and after a text of its own (bos, [CLS] … [SEP]): views,
 * valid until the tokenizer is freed; none without a post-processor. */
typedef struct joust_token_frame {
    const uint32_t *before, *after;
    uint32_t n_before, n_after;
} joust_token_frame;
joust_token_frame joust_tokenizer_frame(const joust_tokenizer *t);
/* joust_tokenizer_encode within that frame: what the ecosystem makes of a prompt of its own. */
JOUST_MUST_USE joust_status joust_tokenizer_encode_framed(const joust_tokenizer *t,
                                                          const char *text, size_t n, bool special,
                                                          joust_tokens *to, joust_error *err);
/* Appends the text of ids, as decode(skip_special_tokens) of the ecosystem gives it. Bytes that form no UTF-8 become U+FFFD. */
JOUST_MUST_USE joust_status joust_tokenizer_decode(const joust_tokenizer *t, const uint32_t *ids,
                                                   uint32_t n, bool skip_special, joust_buf *to,
                                                   joust_error *err);

/* Decoding token by token: what each token completes is appended at once, and bytes of a character that isn't whole yet
 * are held back. All that was appended, with what the end adds, is joust_tokenizer_decode's text of the same tokens; only
 * where byte tokens (<0xNN>) form no UTF-8 the number of U+FFFD may differ. Borrows t until it is freed.
 * Errors: JOUST_UNSUPPORTED (a decoder that must see the whole text), JOUST_NOMEM. Thread: one a decoding. */
typedef struct joust_decoding joust_decoding;
JOUST_MUST_USE joust_status joust_decoding_create(const joust_tokenizer *t, bool skip_special,
                                                  joust_decoding **ret, joust_error *err);
JOUST_MUST_USE joust_status joust_decoding_add(joust_decoding *d, uint32_t id, joust_buf *to,
                                               joust_error *err);
/* Appends U+FFFD for what was never completed; the decoding begins anew. */
JOUST_MUST_USE joust_status joust_decoding_end(joust_decoding *d, joust_buf *to, joust_error *err);
void joust_decoding_free(joust_decoding **d);

uint32_t joust_tokenizer_size(const joust_tokenizer *t); /* ids are below it */
uint32_t joust_tokenizer_unknown(
    const joust_tokenizer *t); /* what unknown words become; UINT32_MAX: nothing */
bool joust_tokenizer_find(const joust_tokenizer *t, const char *token,
                          uint32_t *ret);                      /* exact piece */
joust_digest joust_tokenizer_digest(const joust_tokenizer *t); /* of the file's bytes */

/* A template: literal text (its special tokens count) with {named} slots, compiled once, substituted in one pass: what
 * fills a slot can never open another or become a special token. "{{" and "}}" stand for braces. */
typedef struct joust_template joust_template;
typedef struct joust_slot {
    const char *name;
    const char *text;       /* filled by text … */
    const uint32_t *tokens; /* … or by token ids, if not NULL */
    uint32_t n_tokens;
} joust_slot;
/* t NULL: it renders text alone. Errors: JOUST_INVALID: an unclosed brace, a slot that is not among allowed[] (nearest name given), text that can't be encoded. */
JOUST_MUST_USE joust_status joust_template_compile(const joust_tokenizer *t, const char *text,
                                                   const char *const *allowed, uint32_t n_allowed,
                                                   joust_template **ret, joust_error *err);
/* Appends the rendered token ids. Errors: JOUST_INVALID if a slot that the template uses is missing. */
JOUST_MUST_USE joust_status joust_template_render(const joust_template *t, const joust_slot *slots,
                                                  uint32_t n_slots, joust_tokens *to,
                                                  joust_error *err);
/* Appends the text, of a template without a tokenizer. Errors: JOUST_INVALID if a slot that it uses is missing, or has no text. */
JOUST_MUST_USE joust_status joust_template_render_text(const joust_template *t,
                                                       const joust_slot *slots, uint32_t n_slots,
                                                       joust_buf *to, joust_error *err);
joust_digest joust_template_digest(const joust_template *t); /* of its text */
void joust_template_free(joust_template **t);

#endif
