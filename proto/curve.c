/* Key pairs and their files (proto/socket.h). */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/file.h"
#include "proto/socket.h"

joust_status joust_curve_new(joust_curve *ret, joust_error *err)
{
    joust_curve curve = {0};
    if (zmq_curve_keypair(curve.public_key, curve.secret_key) != 0)
        return joust_fail(err, JOUST_UNSUPPORTED, "keys: %s: this libzmq is without CURVE",
                          zmq_strerror(zmq_errno()));
    *ret = curve;
    return JOUST_OK;
}

joust_status joust_curve_write(const joust_curve *curve, const char *path, joust_error *err)
{
    char text[256];
    int n = snprintf(text, sizeof(text), "public %s\nsecret %s\n", curve->public_key,
                     curve->secret_key);
    if (curve->server_key[0])
        n += snprintf(text + n, sizeof(text) - (size_t)n, "server %s\n", curve->server_key);
    mode_t before = umask(077);
    joust_status st = joust_file_write(path, text, (uint64_t)n, err);
    umask(before);
    return st;
}

/* Copies the key of a line "name key" into to. */
static bool read_key(const char *text, const char *name, char to[41])
{
    uint8_t raw[32];
    size_t n = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) != 0 || line[n] != ' ')
            continue;
        const char *key = line + n + 1;
        if (strcspn(key, "\n") != 40)
            return false;
        memcpy(to, key, 40);
        to[40] = '\0';
        return zmq_z85_decode(raw, to) != NULL;
    }
    return false;
}

joust_status joust_curve_read(const char *path, bool server, joust_curve *ret, joust_error *err)
{
    joust_curve curve = {.server = server};
    joust_buf text = {0};
    struct stat info;
    joust_status st = joust_file_read(path, 4096, &text, err);
    if (st != JOUST_OK)
        goto out;
    if (stat(path, &info) != 0 || (info.st_mode & 077) != 0) {
        st = joust_fail(err, JOUST_DENIED, "%s: others can read these keys (chmod 600)", path);
        goto out;
    }
    const char *lines = text.data ? (const char *)text.data : "";
    if (!read_key(lines, "public", curve.public_key) ||
        !read_key(lines, "secret", curve.secret_key) ||
        (!server && !read_key(lines, "server", curve.server_key))) {
        st = joust_fail(err, JOUST_MALFORMED,
                        "%s: expected lines 'public KEY', 'secret KEY'%s of 40 characters", path,
                        server ? "" : ", 'server KEY'");
        goto out;
    }
    *ret = curve;
out:
    joust_buf_fini(&text);
    return st;
}
