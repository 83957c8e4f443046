#include "proto/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/clock.h"

/* The only global state of the library: the sink. Set before threads start. */
static struct {
    atomic_int level;
    bool json;
    int fd;
    char role[32];
} sink = {.level = JOUST_LOG_INFO, .fd = 2, .role = "joust"};

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};

void joust_log_set_level(joust_log_level level)
{
    atomic_store(&sink.level, (int)level);
}

bool joust_log_set_level_name(const char *name)
{
    for (int i = 0; i < 5; i++) {
        if (!strcmp(name, level_names[i])) {
            joust_log_set_level((joust_log_level)i);
            return true;
        }
    }
    return false;
}

void joust_log_set_json(bool json)
{
    sink.json = json;
}

void joust_log_set_role(const char *role)
{
    snprintf(sink.role, sizeof(sink.role), "%s", role);
}

void joust_log_set_fd(int fd)
{
    sink.fd = fd;
}

bool joust_log_on(joust_log_level level)
{
    return (int)level <= atomic_load_explicit(&sink.level, memory_order_relaxed);
}

/* Text with control characters, quotes and backslashes escaped as in JSON; at most room - 1 bytes. */
static size_t escape(char *to, size_t room, const char *text)
{
    size_t n = 0;
    for (; *text && n + 7 < room; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            to[n++] = '\\';
            to[n++] = (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            n += (size_t)snprintf(to + n, room - n, "\\u%04x", c);
        } else {
            to[n++] = (char)c;
        }
    }
    to[n] = '\0';
    return n;
}

void joust_log_write(joust_log_level level, const char *module, const char *format, ...)
{
    if (!joust_log_on(level))
        return;
    char text[2048], line[4608], stamp[32];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);

    int64_t now = joust_clock_wall_ms();
    time_t seconds = (time_t)(now / 1000);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);

    int n;
    if (sink.json) {
        char safe[4200];
        escape(safe, sizeof(safe), text);
        n = snprintf(line, sizeof(line),
                     "{\"time\":\"%s.%03dZ\",\"level\":\"%s\",\"role\":\"%s\",\"module\":\"%s\","
                     "\"text\":\"%s\"}\n",
                     stamp, (int)(now % 1000), level_names[level], sink.role, module, safe);
    } else {
        for (char *c = text; *c; c++) /* a line from a model or a peer stays one line */
            if ((unsigned char)*c < 0x20 || *c == 0x7f)
                *c = ' ';
        n = snprintf(line, sizeof(line), "%s.%03dZ %-5s %s %s %s\n", stamp, (int)(now % 1000),
                     level_names[level], sink.role, module, text);
    }
    if (n > 0) {
        size_t left = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
        ssize_t written = write(sink.fd, line, left); /* one write: lines of processes don't mix */
        (void)written;                                /* a log that can't be written is lost */
    }
}
