/* What both test servers know of a request: its name, and its body as it comes in pieces. */
#ifndef JOUST_TESTS_ENDPOINT_REQUEST_H
#define JOUST_TESTS_ENDPOINT_REQUEST_H

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_MAX_BODY (1u << 20)

typedef struct http_request {
    char *body; /* NUL-terminated; NULL: none */
    size_t n_body;
    char id[80]; /* X-Joust-Request, or "-" */
} http_request;

static inline void request_begin(http_request *r, struct MHD_Connection *c)
{
    const char *id = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "X-Joust-Request");
    *r = (http_request){0};
    snprintf(r->id, sizeof(r->id), "%s", id ? id : "-");
}

/* Takes all of the piece, or refuses a body that is too long. */
static inline enum MHD_Result request_add(http_request *r, const char *data, size_t *n)
{
    if (r->n_body + *n > REQUEST_MAX_BODY)
        return MHD_NO;
    r->body = realloc(r->body, r->n_body + *n + 1);
    memcpy(r->body + r->n_body, data, *n);
    r->body[r->n_body += *n] = '\0';
    *n = 0;
    return MHD_YES;
}

static inline void request_fini(http_request *r)
{
    free(r->body);
    *r = (http_request){0};
}

#endif
