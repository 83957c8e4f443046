/* llama2.c's tokenizer as a tokenizer.json. It joins, again and again, the neighbouring pair whose union has the best
 * score; so every way to cut a piece in two pieces of the vocabulary is a merge, ranked by the piece's score. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "worker/engine/files/llama2c.h"
#include "worker/engine/text/tokenizer_internal.h"
#include "worker/engine/text/unicode_internal.h"

#define MAX_FILE_BYTES  (64u << 20)
#define MAX_PIECE_BYTES 1024u
#define N_SPECIAL       3u /* <unk>, <s>, </s> */
#define SPACE_MARK      "\xe2\x96\x81"

typedef struct candidate {
    float score;
    uint32_t left, right, id;
} candidate;

typedef struct conversion {
    const char *name;
    joust_vocabulary vocabulary;
    float *scores; /* by id */
    candidate *merges;
    size_t n_merges, capacity;
    joust_error *err;
} conversion;

/* The piece as tokenizer.json has it: spaces are marks, <s> and </s> without the line breaks around them. */
static joust_status add_piece(conversion *c, uint32_t id, const uint8_t *text, size_t n)
{
    static const char *const special[N_SPECIAL] = {"<unk>", "<s>", "</s>"};
    joust_buf piece = {0};
    if (id < N_SPECIAL) {
        joust_buf_text(&piece, special[id]);
        n = 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ')
            joust_buf_text(&piece, SPACE_MARK);
        else
            joust_buf_u8(&piece, text[i]);
    }
    joust_status st = joust_buf_status(&piece, c->err);
    if (st == JOUST_OK && piece.n == 0)
        st = joust_fail(c->err, JOUST_MALFORMED, "empty");
    if (st == JOUST_OK &&
        (memchr(piece.data, 0, piece.n) || !joust_text_is_utf8(piece.data, piece.n, NULL)))
        st = joust_fail(c->err, JOUST_MALFORMED, "not text in UTF-8");
    if (st == JOUST_OK)
        st = joust_vocabulary_add(&c->vocabulary, (const char *)piece.data, piece.n, id, c->err);
    joust_buf_fini(&piece);
    return st == JOUST_OK ? st : joust_blame(c->err, st, "%s: token %u", c->name, id);
}

static joust_status read_pieces(conversion *c, joust_reader *r, uint32_t vocab_size)
{
    joust_read_le32(r); /* the longest piece, which nobody needs */
    for (uint32_t id = 0; id < vocab_size; id++) {
        uint32_t bits = joust_read_le32(r), n = joust_read_le32(r);
        const uint8_t *text = n <= MAX_PIECE_BYTES ? joust_read_bytes(r, n) : NULL;
        memcpy(&c->scores[id], &bits, sizeof(bits));
        if (!text || r->failed)
            return joust_fail(c->err, JOUST_MALFORMED, "%s: token %u of %u: %s", c->name, id,
                              vocab_size,
                              n > MAX_PIECE_BYTES ? "too long; no llama2.c tokenizer"
                                                  : "the file ends here; truncated");
        if (c->scores[id] != c->scores[id])
            return joust_fail(c->err, JOUST_MALFORMED, "%s: token %u: its score is no number",
                              c->name, id);
        joust_status st = add_piece(c, id, text, n);
        if (st != JOUST_OK)
            return st;
    }
    if (r->at != r->n)
        return joust_fail(c->err, JOUST_MALFORMED,
                          "%s: more than the %u tokens of the model's vocabulary", c->name,
                          vocab_size);
    return JOUST_OK;
}

static joust_status add_merge(conversion *c, candidate merge)
{
    if (c->n_merges == c->capacity) {
        size_t capacity = c->capacity ? c->capacity * 2 : 1024;
        void *merges = joust_realloc_array(c->merges, capacity, sizeof(*c->merges));
        if (!merges)
            return joust_fail(c->err, JOUST_NOMEM, "%s: out of memory", c->name);
        c->merges = merges;
        c->capacity = capacity;
    }
    c->merges[c->n_merges++] = merge;
    return JOUST_OK;
}

static bool is_byte(const conversion *c, uint32_t id)
{
    size_t n = 0;
    const uint8_t *text = joust_vocabulary_piece(&c->vocabulary, id, &n);
    return n == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>';
}

/* All ways to cut piece id in two. */
static joust_status cut_piece(conversion *c, uint32_t id)
{
    size_t n = 0, at = 0;
    uint32_t code;
    joust_status st = JOUST_OK;
    const uint8_t *text = joust_vocabulary_piece(&c->vocabulary, id, &n);
    for (at = n ? joust_utf8_next(text, n, &code) : n; st == JOUST_OK && at < n;
         at += joust_utf8_next(text + at, n - at, &code)) {
        candidate merge = {.score = c->scores[id],
                           .left = joust_vocabulary_find(&c->vocabulary, text, at),
                           .right = joust_vocabulary_find(&c->vocabulary, text + at, n - at),
                           .id = id};
        if (merge.left != JOUST_NO_TOKEN && merge.right != JOUST_NO_TOKEN)
            st = add_merge(c, merge);
    }
    return st;
}

static int by_score(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    if (a->left != b->left)
        return a->left < b->left ? -1 : 1;
    return (a->right > b->right) - (a->right < b->right);
}

static void add_text(const conversion *c, uint32_t id, joust_buf *to)
{
    size_t n = 0;
    const uint8_t *text = joust_vocabulary_piece(&c->vocabulary, id, &n);
    joust_json_string(to, text, n);
}

static void write_json(const conversion *c, joust_buf *to)
{
    joust_buf_text(to, "{\n  \"version\": \"1.0\",\n  \"added_tokens\": [");
    for (uint32_t id = 0; id < N_SPECIAL && id < c->vocabulary.size; id++) {
        joust_buf_format(to, "%s\n    {\"id\": %u, \"content\": ", id ? "," : "", id);
        add_text(c, id, to);
        joust_buf_text(to, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                           "\"normalized\": false, \"special\": true}");
    }
    joust_buf_text(to,
                   "\n  ],\n"
                   "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [\n"
                   "    {\"type\": \"Prepend\", \"prepend\": \"" SPACE_MARK "\"},\n"
                   "    {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
                   "\"" SPACE_MARK "\"}]},\n"
                   "  \"pre_tokenizer\": null,\n"
                   "  \"post_processor\": {\"type\": \"TemplateProcessing\",\n"
                   "    \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, "
                   "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],\n"
                   "    \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                   "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}],\n"
                   "    \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [1], "
                   "\"tokens\": [\"<s>\"]}}},\n"
                   "  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [\n"
                   "    {\"type\": \"Replace\", \"pattern\": {\"String\": \"" SPACE_MARK "\"}, "
                   "\"content\": \" \"},\n"
                   "    {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"},\n"
                   "    {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}]},\n"
                   "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<unk>\",\n"
                   "    \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,\n"
                   "    \"fuse_unk\": true, \"byte_fallback\": true, \"vocab\": {");
    for (uint32_t id = 0; id < c->vocabulary.size; id++) {
        joust_buf_text(to, id ? ",\n      " : "\n      ");
        add_text(c, id, to);
        joust_buf_format(to, ": %u", id);
    }
    joust_buf_text(to, "\n    },\n    \"merges\": [");
    for (size_t i = 0; i < c->n_merges; i++) {
        joust_buf_text(to, i ? ",\n      [" : "\n      [");
        add_text(c, c->merges[i].left, to);
        joust_buf_text(to, ", ");
        add_text(c, c->merges[i].right, to);
        joust_buf_text(to, "]");
    }
    joust_buf_text(to, "\n    ]}\n}\n");
}

joust_status joust_llama2c_tokenizer_parse(const void *data, size_t n, const char *name,
                                           uint32_t vocab_size, joust_buf *to, joust_error *err)
{
    conversion c = {.name = name, .err = err};
    joust_reader reader = joust_reader_over(data, n);
    joust_status st = JOUST_OK;
    if (vocab_size < N_SPECIAL || vocab_size > JOUST_MAX_TOKEN_ID)
        return joust_fail(err, JOUST_INVALID, "%s: a vocabulary of %u tokens", name, vocab_size);
    c.scores = joust_calloc(vocab_size, sizeof(*c.scores));
    if (!c.scores)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
    if (st == JOUST_OK)
        st = read_pieces(&c, &reader, vocab_size);
    for (uint32_t id = N_SPECIAL; st == JOUST_OK && id < vocab_size; id++) {
        if (!is_byte(&c, id))
            st = cut_piece(&c, id);
    }
    if (st == JOUST_OK) {
        if (c.n_merges > 0)
            qsort(c.merges, c.n_merges, sizeof(*c.merges), by_score);
        write_json(&c, to);
        st = joust_buf_status(to, err);
    }
    joust_vocabulary_fini(&c.vocabulary);
    joust_free(c.scores);
    joust_free(c.merges);
    return st;
}

joust_status joust_llama2c_tokenizer(const char *path, uint32_t vocab_size, joust_buf *to,
                                     joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_file_read(path, MAX_FILE_BYTES, &bytes, err);
    if (st == JOUST_OK)
        st = joust_llama2c_tokenizer_parse(bytes.data, bytes.n, path, vocab_size, to, err);
    joust_buf_fini(&bytes);
    return st;
}
