/* Writes seeds for the corpora of message, record and job: fuzz_seeds DIR. */
#include <stdio.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/fill.h"
#include "proto/messages.h"

/* prefix: the first byte of the input, or -1. */
static int write_seed(const char *dir, const char *corpus, const char *name, int prefix,
                      const joust_record_type *type, uint64_t seed)
{
    joust_error err = {0};
    char path[1024];
    joust_buf bytes = {0};
    fill_source s = fill_source_open(seed);
    void *record = joust_calloc(1, type->size);
    fill_record(&s, type, record);
    if (prefix >= 0)
        joust_buf_u8(&bytes, (uint8_t)prefix);
    snprintf(path, sizeof(path), "%s/%s", dir, corpus);
    joust_status st = joust_record_encode(type, record, &bytes, &err);
    if (st == JOUST_OK)
        st = joust_dir_make(path, &err);
    snprintf(path, sizeof(path), "%s/%s/%s-%u", dir, corpus, name, (unsigned)seed);
    if (st == JOUST_OK)
        st = joust_file_write(path, bytes.data, bytes.n, &err);
    if (st != JOUST_OK)
        fprintf(stderr, "%s\n", err.text);
    joust_record_fini(type, record);
    joust_free(record);
    joust_buf_fini(&bytes);
    return st != JOUST_OK;
}

int main(int argc, char **argv)
{
    int bad = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    for (uint64_t seed = 1; seed <= 2; seed++) {
        for (uint32_t type = 1; joust_message_record_type(type); type++)
            bad |= write_seed(argv[1], "message", joust_message_name((joust_message_type)type),
                              (int)type, joust_message_record_type(type), seed);
        for (size_t i = 0; i < fill_n_types; i++)
            bad |=
                write_seed(argv[1], "record", fill_types[i].name, (int)i, fill_types[i].type, seed);
        bad |= write_seed(argv[1], "job", "job", -1, &joust_job_type, seed);
    }
    return bad;
}
