/* Runs a fuzz target over the files of its corpus: fuzz_NAME_replay CORPUS. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"

static int replay(const char *folder, const char *name)
{
    joust_error err;
    joust_buf bytes = {0};
    char *path = joust_path_join(folder, name);
    int bad = !path || joust_file_read(path, 64u << 20, &bytes, &err) != JOUST_OK;
    if (bad) {
        fprintf(stderr, "%s/%s: can't read\n", folder, name);
    } else {
        /* an exact block, so that a sanitizer sees a read past the end */
        uint8_t *exact = joust_memdup(bytes.data, bytes.n);
        LLVMFuzzerTestOneInput(exact, bytes.n);
        joust_free(exact);
    }
    joust_buf_fini(&bytes);
    joust_free(path);
    return bad;
}

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (!dir) {
        fprintf(stderr, "usage: %s CORPUS (an existing folder)\n", argv[0]);
        return 2;
    }
    int bad = 0, n = 0;
    const struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        bad |= replay(argv[1], entry->d_name);
        n++;
    }
    closedir(dir);
    printf("%d inputs\n", n);
    return bad || n == 0; /* an empty corpus proves nothing */
}
