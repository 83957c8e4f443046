/* Log lines: `time level module key value key value …`, or JSON lines. One sink a process (standard
 * error by default). Thread: any; a line is written whole.
 *   error  work was lost or refused, or the process ends     warn   something a person should know
 *   info   a stage, a peer, a promotion                      debug  every lease and commit
 *   trace  every message */
#ifndef JOUST_PROTO_BASE_LOG_H
#define JOUST_PROTO_BASE_LOG_H

#include <stdbool.h>

#include "proto/base/status.h"

typedef enum joust_log_level {
    JOUST_LOG_ERROR,
    JOUST_LOG_WARN,
    JOUST_LOG_INFO,
    JOUST_LOG_DEBUG,
    JOUST_LOG_TRACE
} joust_log_level;

void joust_log_set_level(joust_log_level level);
/* "error" … "trace"; false and no change if unknown. */
bool joust_log_set_level_name(const char *name);
void joust_log_set_json(bool json);
/* Who writes (role and number, "worker-2"); copied, at most 31 bytes. */
void joust_log_set_role(const char *role);
/* Lines go to this descriptor from now on (not closed by us). */
void joust_log_set_fd(int fd);
bool joust_log_on(joust_log_level level);
/* module is one word; text is `key value …` or a sentence, without a newline. */
void joust_log_write(joust_log_level level, const char *module, const char *format, ...)
    JOUST_PRINTF(3, 4);

#define joust_log_error(module, ...) joust_log_write(JOUST_LOG_ERROR, module, __VA_ARGS__)
#define joust_log_warn(module, ...)  joust_log_write(JOUST_LOG_WARN, module, __VA_ARGS__)
#define joust_log_info(module, ...)  joust_log_write(JOUST_LOG_INFO, module, __VA_ARGS__)
#define joust_log_debug(module, ...)                                                               \
    do {                                                                                           \
        if (joust_log_on(JOUST_LOG_DEBUG))                                                         \
            joust_log_write(JOUST_LOG_DEBUG, module, __VA_ARGS__);                                 \
    } while (0)

#endif
