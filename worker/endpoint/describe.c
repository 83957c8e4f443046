/* How servers are doing, in words. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/text.h"
#include "worker/endpoint/endpoint_internal.h"

static const char *state_of(const joust_endpoint *e, uint32_t server)
{
    const joust_endpoint_server_state *s = &e->servers[server];
    const int64_t at = joust_endpoint_pool_look_at(e->pool, server);
    const bool rests = at != INT64_MAX && at > joust_clock_ms();
    switch (s->look) {
    case JOUST_LOOK_READY:
        return rests ? "resting" : "ready";
    case JOUST_LOOK_DUE:
        return s->unfit ? "unfit" : rests ? "resting" : "unknown";
    case JOUST_LOOK_MODELS:
    case JOUST_LOOK_TEXT:
    case JOUST_LOOK_SCORE:
    case JOUST_LOOK_HELD:
        return "probed";
    case JOUST_LOOK_DOWN:
        return s->lost ? "lost" : "down";
    }
    return "unknown";
}

/* What came of the last look. */
static void probe_of(const joust_endpoint *e, uint32_t server, char to[320])
{
    const joust_endpoint_server_state *s = &e->servers[server];
    char hex[JOUST_DIGEST_HEX];
    if (s->unfit)
        snprintf(to, 320, "unfit: %.300s", s->why);
    else if (s->look == JOUST_LOOK_READY && e->proof)
        snprintf(to, 320, "proved");
    else if (s->look == JOUST_LOOK_READY && e->has_reference)
        snprintf(to, 320, "fingerprint %.12s", joust_digest_hex(&e->reference_name, hex));
}

/* A text that was cut may end within a character. */
static void cut_to_text(char *text)
{
    size_t bad;
    if (!joust_text_is_utf8(text, strlen(text), &bad))
        text[bad] = '\0';
}

void joust_endpoint_describe_server(const joust_endpoint *e, uint32_t server, const char *model,
                                    joust_server_status *ret)
{
    const joust_endpoint_server_state *s = &e->servers[server];
    *ret = (joust_server_status){.ready = s->look == JOUST_LOOK_READY,
                                 .in_flight = joust_endpoint_pool_outstanding(e->pool, server),
                                 .answers = s->n_answers,
                                 .failures = s->n_failures};
    snprintf(ret->model, sizeof(ret->model), "%s", model);
    snprintf(ret->url, sizeof(ret->url), "%s", s->url);
    snprintf(ret->state, sizeof(ret->state), "%s", state_of(e, server));
    snprintf(ret->last_error, sizeof(ret->last_error), "%s", s->why);
    probe_of(e, server, ret->probe);
    cut_to_text(ret->probe);
    cut_to_text(ret->last_error);
}

joust_status joust_endpoint_describe(const joust_endpoint *e, const char *model,
                                     joust_server_status **list, uint32_t *n, joust_error *err)
{
    const uint32_t n_urls = e->settings->n_urls;
    joust_server_status *longer = joust_realloc_array(*list, *n + n_urls, sizeof(*longer));
    if (!longer)
        return joust_fail(err, JOUST_NOMEM, "endpoint: %u servers", n_urls);
    *list = longer;
    for (uint32_t i = 0; i < n_urls; i++)
        joust_endpoint_describe_server(e, i, model, &longer[(*n)++]);
    return JOUST_OK;
}
