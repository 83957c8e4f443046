/* llama2.c's files: sizes, order of the rows, every truncation; and its trained model, which must go on as the original
 * program does. */
#include "tests/check.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "files_fixture.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/engine/files/llama2c.h"
#include "worker/engine/generate.h"
#include "worker/engine/text/tokenizer.h"

static void add_le32(joust_buf *to, uint32_t v)
{
    for (int i = 0; i < 4; i++, v >>= 8)
        joust_buf_u8(to, (uint8_t)v);
}

static void add_float(joust_buf *to, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    add_le32(to, bits);
}

/* width 8, 2 heads of 4, 1 for keys; every weight is its own number in the file. */
static joust_buf make_checkpoint(bool tied)
{
    joust_buf file = {0};
    const uint32_t header[] = {8, 12, 2, 2, 1, tied ? 10 : 0u - 10, 16};
    for (int i = 0; i < 7; i++)
        add_le32(&file, header[i]);
    size_t layer = 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96;
    size_t n = 80 + 2 * layer + 8 + 16 * 4 + (tied ? 0 : 80);
    for (size_t i = 0; i < n; i++)
        add_float(&file, (float)i);
    assert_true(joust_buf_ok(&file));
    return file;
}

static const float *tensor(const joust_model *model, const char *name)
{
    uint32_t n;
    const joust_tensor *tensors = joust_model_tensors(model, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(tensors[i].name, name) == 0)
            return tensors[i].data;
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

static void test_layout(void **state)
{
    (void)state;
    char *dir = scratch_make(), *path = joust_path_join(dir, "m.bin");
    for (int tied = 0; tied < 2; tied++) {
        joust_error err = {0};
        joust_model *model = NULL;
        joust_buf file = make_checkpoint(tied);
        scratch_write(dir, "m.bin", file.data, file.n);
        assert_true(joust_llama2c_is(path));
        assert_false(joust_llama2c_is(dir));
        check_ok(joust_llama2c_load(path, &model, &err));
        const joust_model_config *c = joust_model_get_config(model);
        assert_int_equal(c->vocab_size, 10);
        assert_int_equal(c->tied, tied);
        assert_int_equal(c->bos_token, 1);
        assert_true(tensor(model, "model.embed_tokens.weight")[79] == 79);
        assert_true(tensor(model, "model.layers.1.input_layernorm.weight")[0] == 88);
        /* q of layer 0 begins at 96; rows 0 1 2 3 of a head become 0 2 1 3 */
        const float *q = tensor(model, "model.layers.0.self_attn.q_proj.weight");
        static const int rows[] = {0, 2, 1, 3, 4, 6, 5, 7};
        for (int row = 0; row < 8; row++)
            assert_true(q[row * 8] == (float)(96 + 8 * rows[row]));
        const float *v = tensor(model, "model.layers.0.self_attn.v_proj.weight");
        assert_true(v[8] == 96 + 128 + 64 + 8); /* not permuted */
        /* order of the kinds: w1 gate, w2 down, w3 up */
        float gate = 80 + 2 * (8 + 64 + 32 + 32 + 64 + 8);
        assert_true(tensor(model, "model.layers.0.mlp.gate_proj.weight")[0] == gate);
        assert_true(tensor(model, "model.layers.0.mlp.down_proj.weight")[0] == gate + 2 * 96);
        assert_true(tensor(model, "model.layers.0.mlp.up_proj.weight")[0] == gate + 4 * 96);
        assert_true(tensor(model, "model.norm.weight")[0] == gate + 6 * 96);
        if (!tied)
            assert_true(tensor(model, "lm_head.weight")[0] == gate + 6 * 96 + 8 + 64);
        joust_model_free(&model);
        joust_buf_fini(&file);
    }
    joust_free(path);
    scratch_remove(&dir);
}

static void test_wrong_checkpoints(void **state)
{
    (void)state;
    char *dir = scratch_make(), *path = joust_path_join(dir, "m.bin");
    joust_buf file = make_checkpoint(true);
    joust_error err = {0};
    joust_model *model = NULL;
    for (size_t n = 0; n < file.n; n += n < 64 ? 1 : 61) {
        scratch_write(dir, "m.bin", file.data, n);
        check_status(JOUST_MALFORMED, joust_llama2c_load(path, &model, &err));
        check_text(&err, "m.bin");
    }
    joust_buf_u8(&file, 0);
    scratch_write(dir, "m.bin", file.data, file.n);
    check_status(JOUST_MALFORMED, joust_llama2c_load(path, &model, &err));
    check_text(&err, "no llama2.c checkpoint");
    for (size_t i = 0; i < 7; i++) { /* any size that is 0 or huge */
        for (int huge = 0; huge < 2; huge++) {
            uint8_t kept[4];
            memcpy(kept, file.data + 4 * i, 4);
            memset(file.data + 4 * i, huge ? 0x7f : 0, 4);
            scratch_write(dir, "m.bin", file.data, file.n);
            assert_int_not_equal(joust_llama2c_load(path, &model, &err), JOUST_OK);
            check_text(&err, "m.bin");
            memcpy(file.data + 4 * i, kept, 4);
        }
    }
    memcpy(file.data, "24ka\1\0\0\0", 8);
    scratch_write(dir, "m.bin", file.data, file.n);
    check_status(JOUST_UNSUPPORTED, joust_llama2c_load(path, &model, &err));
    check_text(&err, "version 1");
    joust_buf_fini(&file);
    joust_free(path);
    scratch_remove(&dir);
}

static joust_buf make_tokenizer(void)
{
    static const struct {
        const char *text;
        float score;
    } pieces[] = {{"<unk>", 0}, {"\n<s>\n", 0}, {"\n</s>\n", 0}, {"<0x0A>", 0}, {" ", -1},
                  {"a", -2},    {"b", -3},      {"ab", -4},      {" ab", -5}};
    joust_buf file = {0};
    add_le32(&file, 6);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
        add_float(&file, pieces[i].score);
        add_le32(&file, (uint32_t)strlen(pieces[i].text));
        joust_buf_text(&file, pieces[i].text);
    }
    return file;
}

static void test_tokenizer(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_buf file = make_tokenizer(), json = {0};
    joust_tokenizer *t = NULL;
    joust_tokens tokens = {0};
    check_ok(joust_llama2c_tokenizer_parse(file.data, file.n, "tok", 9, &json, &err));
    check_ok(joust_tokenizer_parse(json.data, json.n, "tok", &t, &err));
    check_ok(joust_tokenizer_encode(t, "abba\n", 5, true, &tokens, &err));
    assert_memory_equal(tokens.ids, ((uint32_t[]){8, 6, 5, 3}), 16);
    assert_int_equal(tokens.n, 4);
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
    for (size_t n = 0; n < file.n; n++) {
        joust_buf_clear(&json);
        check_status(JOUST_MALFORMED,
                     joust_llama2c_tokenizer_parse(file.data, n, "tok", 9, &json, &err));
        check_text(&err, "tok: token");
    }
    check_status(JOUST_MALFORMED,
                 joust_llama2c_tokenizer_parse(file.data, file.n, "tok", 8, &json, &err));
    check_text(&err, "more than the 8 tokens");
    /* what JSON can't hold as a key is refused here, not when the result is read */
    file.data[file.n - 1] = 0;
    check_status(JOUST_MALFORMED,
                 joust_llama2c_tokenizer_parse(file.data, file.n, "tok", 9, &json, &err));
    check_text(&err, "tok: token 8: not text");
    joust_buf_fini(&file);
    joust_buf_fini(&json);
}

static joust_status convert_tokenizer(void *context, joust_error *err)
{
    const joust_buf *file = context;
    joust_buf json = {0};
    joust_status st = joust_llama2c_tokenizer_parse(file->data, file->n, "tok", 9, &json, err);
    joust_buf_fini(&json);
    return st;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    joust_buf file = make_tokenizer();
    check_oom(convert_tokenizer, &file);
    joust_buf_fini(&file);
}

typedef struct greedy {
    const json_t *steps;
    bool done;
} greedy;

static joust_status compare(void *context, uint32_t request, uint32_t sample,
                            const joust_generated *result, joust_error *err)
{
    (void)request;
    (void)sample;
    (void)err;
    greedy *g = context;
    assert_int_equal(result->n, json_array_size(g->steps));
    for (uint32_t i = 0; i < result->n; i++) {
        const json_t *step = json_array_get(g->steps, i);
        double logp = json_number_value(json_object_get(step, "logprob_argmax"));
        assert_int_equal(result->tokens[i], json_integer_value(json_object_get(step, "argmax")));
        if (fabs(result->raw_logps[i] - logp) > 1e-4)
            fail_msg("step %u: log-probability %g, expected %g", i, (double)result->raw_logps[i],
                     logp);
    }
    g->done = true;
    return JOUST_OK;
}

/* Converted, saved, loaded: 200 greedy tokens from bos as the original program gives them. */
static void test_stories_greedy(void **state)
{
    (void)state;
    char *path = shared_data("ckpt-stories260K/stories260K.bin");
    char *expected = shared_data("ckpt-stories260K/expected_greedy_200.json");
    if (path && expected) {
        joust_error err = {0};
        json_error_t problem;
        joust_model *model = NULL, *back = NULL;
        joust_engine *engine = NULL;
        char *dir = scratch_make();
        json_t *oracle = json_load_file(expected, 0, &problem);
        greedy g = {.steps = json_object_get(oracle, "steps")};
        const uint32_t bos = 1;
        joust_stream stream = {{0}, {0}};
        joust_generate_request request = {.prompt = &bos,
                                          .n_prompt = 1,
                                          .n_samples = 1,
                                          .streams = &stream,
                                          .sampling = {.top_p = 1, .max_tokens = 200}};
        check_ok(joust_llama2c_load(path, &model, &err));
        check_ok(joust_model_save(model, NULL, dir, &err));
        check_ok(joust_model_load(dir, &back, &err));
        check_ok(joust_engine_create(NULL, &engine, &err));
        check_ok(joust_generate(engine, back, &request, 1, compare, NULL, &g, &err));
        assert_true(g.done);
        joust_model_free(&model);
        joust_model_free(&back);
        joust_engine_free(&engine);
        json_decref(oracle);
        scratch_remove(&dir);
    }
    joust_free(path);
    joust_free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout), cmocka_unit_test(test_wrong_checkpoints),
        cmocka_unit_test(test_tokenizer), cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_stories_greedy)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
