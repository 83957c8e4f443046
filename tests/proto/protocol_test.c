/* PROTOCOL.md says what the program does: the table of states and the list of messages. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/file.h"
#include "proto/codec_internal.h"
#include "proto/messages.h"
#include "proto/session.h"

static joust_buf read_document(void)
{
    joust_error err = {0};
    joust_buf text = {0};
    check_ok(joust_file_read(JOUST_SOURCE_DIR "/proto/PROTOCOL.md", 1u << 20, &text, &err));
    return text;
}

static void require_line(const joust_buf *document, const char *line)
{
    if (!strstr((const char *)document->data, line))
        fail_msg("PROTOCOL.md lacks: %s", line);
}

static void test_states(void **state)
{
    (void)state;
    joust_buf document = read_document();
    for (int from = 0; from < JOUST_SESSION_STATE_N; from++) {
        joust_buf line = {0};
        joust_buf_format(&line, "| %s |", joust_session_state_name((joust_session_state)from));
        for (int event = 0; event < JOUST_SESSION_EVENT_N; event++) {
            joust_session_state to =
                joust_session_table((joust_session_state)from, (joust_session_event)event);
            joust_buf_format(&line, " %s |",
                             to == JOUST_SESSION_STATE_N ? "–" : joust_session_state_name(to));
        }
        require_line(&document, (const char *)line.data);
        joust_buf_fini(&line);
    }
    joust_buf_fini(&document);
}

static void test_messages(void **state)
{
    (void)state;
    joust_buf document = read_document();
    uint32_t type = 1;
    for (; joust_message_record_type(type); type++) {
        char cell[64];
        snprintf(cell, sizeof(cell), "\n| %u | %s |", type,
                 joust_message_name((joust_message_type)type));
        require_line(&document, cell);
    }
    assert_int_equal(type, JOUST_MSG_PROGRESS_ACK + 1);
    joust_buf_fini(&document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
