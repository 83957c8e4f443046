/* A job file's text, and behind each NUL byte an override: whatever they are, the job is valid or every problem is told
 * by a line, and nothing leaks. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "ops/jobfile.h"
#include "proto/base/alloc.h"

enum { MAX_SETS = 4 };

/* Every line that is printed names its place. */
static void require_places(const joust_buf *lines)
{
    const char *at = lines->n ? (const char *)lines->data : "";
    while (*at) {
        const char *end = strchr(at, '\n');
        fuzz_require(end != NULL);
        fuzz_require(strncmp(at, "f:", 2) == 0 || strncmp(at, "--set ", 6) == 0);
        at = end + 1;
    }
}

/* The text of n bytes, which holds no NUL byte, and its overrides. */
static void read_job(const char *text, size_t n, const joust_text_list *sets)
{
    joust_problems problems = {0};
    joust_jobfile file;
    joust_error err;
    joust_status st = joust_jobfile_parse(text, n, "f", NULL, sets, &file, &problems, &err);
    fuzz_require(st == JOUST_OK || st == JOUST_INVALID);
    fuzz_require((st == JOUST_OK) == (problems.n_errors == 0));
    joust_buf lines = {0};
    joust_problems_print(&problems, &lines);
    require_places(&lines);
    joust_buf_fini(&lines);
    joust_problems_fini(&problems);
    if (st)
        return;
    joust_digest digest;
    fuzz_require(joust_job_validate(&file.job, NULL, &err) == JOUST_OK);
    fuzz_require(joust_job_digest(&file.job, &digest, &err) == JOUST_OK);
    joust_jobfile_fini(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int64_t live = joust_alloc_live();
    char *text = joust_malloc(n + 1);
    joust_text_list sets = {0};
    if (!text)
        return 0;
    if (n)
        memcpy(text, data, n);
    text[n] = '\0';
    size_t length = strlen(text);
    for (size_t at = length; at < n && sets.n < MAX_SETS; at += 1 + strlen(text + at + 1))
        sets.items[sets.n++] = text + at + 1;
    read_job(text, length, &sets);
    joust_free(text);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
