/* joust store check */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ops/cli.h"
#include "ops/record_view.h"
#include "ops/verbs.h"
#include "storage/check.h"
#include "storage/json.h"

static void print_report(const joust_check_report *report)
{
    for (int i = 0; i < JOUST_FAMILY_N; i++)
        printf("%-13s %12" PRIu64 " records\n", joust_family_name((joust_family)i),
               report->n_records[i]);
    printf("%-13s %12" PRIu64 " files\n", "blobs", report->n_blobs);
    if (report->n_bad == 0)
        printf("sound\n");
    else
        printf("%" PRIu64 " bad; the first: %s\n", report->n_bad, report->first_bad);
}

static void print_report_json(const joust_check_report *report)
{
    joust_buf line = {0};
    joust_json_open(&line, '{');
    joust_json_add_bool(&line, "sound", report->n_bad == 0);
    joust_json_add_count(&line, "bad", report->n_bad);
    joust_json_add_text(&line, "first_bad", report->n_bad ? report->first_bad : NULL);
    joust_json_key(&line, "records");
    joust_json_open(&line, '{');
    for (int i = 0; i < JOUST_FAMILY_N; i++)
        joust_json_add_count(&line, joust_family_name((joust_family)i), report->n_records[i]);
    joust_json_close(&line, '}');
    joust_json_add_count(&line, "blobs", report->n_blobs);
    joust_json_close(&line, '}');
    if (joust_buf_ok(&line))
        printf("%s\n", (const char *)line.data);
    joust_buf_fini(&line);
}

static int check(const char *dir, bool json)
{
    joust_error err = {0};
    joust_store *store;
    joust_check_report report;
    int status = joust_view_open("store check", dir, &store);
    if (status >= 0)
        return status;
    joust_status st = joust_store_check(store, &report, &err);
    joust_store_close(&store);
    if (st != JOUST_OK)
        return joust_cli_fail("store check", &err);
    json ? print_report_json(&report) : print_report(&report);
    return report.n_bad == 0 ? JOUST_EXIT_OK : JOUST_EXIT_FAILED;
}

int joust_verb_store(int argc, char **argv)
{
    const char *dir = NULL;
    bool json = false;
    if (argc < 2 || strcmp(argv[1], "check") != 0) {
        bool asked = argc >= 2 && strcmp(argv[1], "--help") == 0;
        fprintf(asked ? stdout : stderr,
                "usage: joust store check --store DIR [--json] [--help]\n");
        return asked ? JOUST_EXIT_OK : JOUST_EXIT_USAGE;
    }
    const joust_option options[] = {
        {"--store", JOUST_OPTION_TEXT, &dir, "DIR", "the job's store; it may be live"},
        {"--json", JOUST_OPTION_FLAG, &json, NULL, "the report as JSON"},
    };
    joust_usage usage = {
        .verb = "store check",
        .synopsis = "joust store check --store DIR [--json]",
        .about =
            "Reads everything in a store: checksums, encodings, references between records, the\n"
            "event log, checkpoints. Exit status 0 if it is sound, 1 if not: the first bad record\n"
            "is named by its key.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options)};
    const char *none;
    int n_positional = 0;
    int status = joust_cli_parse(&usage, argc - 1, argv + 1, &none, &n_positional);
    return status >= 0 ? status : check(dir, json);
}
