#include "tests/check.h"

#include "files_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"

char *scratch_make(void)
{
    char path[] = JOUST_BINARY_DIR "/files-test-XXXXXX";
    assert_non_null(mkdtemp(path));
    char *owned = joust_strdup(path);
    assert_non_null(owned);
    return owned;
}

void scratch_remove(char **dir)
{
    joust_error err = {0};
    check_ok(joust_dir_remove(*dir, &err));
    joust_free(*dir);
    *dir = NULL;
}

void scratch_write(const char *dir, const char *name, const void *data, size_t n)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

joust_buf scratch_read(const char *dir, const char *name)
{
    char path[4096];
    joust_error err = {0};
    joust_buf bytes = {0};
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    check_ok(joust_file_read(path, 1u << 30, &bytes, &err));
    return bytes;
}

char *shared_data(const char *name)
{
    char *path = joust_path_join(JOUST_SOURCE_DIR "/../shared/data", name);
    assert_non_null(path);
    if (joust_file_exists(path))
        return path;
    print_message("skipped: no %s\n", path);
    joust_free(path);
    return NULL;
}

joust_buf unpack(const char *path)
{
    char command[4200];
    joust_buf bytes = {0};
    snprintf(command, sizeof(command), "gzip -dc '%s'", path);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    char chunk[65536];
    for (size_t n; (n = fread(chunk, 1, sizeof(chunk), pipe)) > 0;)
        joust_buf_add(&bytes, chunk, n);
    assert_int_equal(pclose(pipe), 0);
    assert_true(joust_buf_ok(&bytes));
    return bytes;
}

void check_text(const joust_error *err, const char *part)
{
    if (!strstr(err->text, part))
        fail_msg("error '%s' doesn't say '%s'", err->text, part);
}

joust_model_config small_config(bool tied)
{
    return (joust_model_config){.architecture = "LlamaForCausalLM",
                                .n_layers = 2,
                                .d_model = 16,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .d_head = 4,
                                .d_ff = 24,
                                .vocab_size = 20,
                                .context = 32,
                                .norm_eps = 1e-5f,
                                .rope_theta = 10000.0f,
                                .tied = tied,
                                .bos_token = 1,
                                .n_end_tokens = 1,
                                .end_tokens = {2}};
}
