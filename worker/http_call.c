#include "worker/http_call.h"

#include <curl/curl.h>
#include <jansson.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "worker/endpoint/wire.h"

#define ANSWER_BYTES 65536u /* what is read of an answer */

struct joust_http_call {
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    joust_buf received;
    char problem[CURL_ERROR_SIZE];
};

static size_t receive(char *data, size_t size, size_t n, void *arg)
{
    joust_http_call *c = arg;
    size_t room = ANSWER_BYTES - c->received.n;
    joust_buf_add(&c->received, data, size * n < room ? size * n : room);
    return size * n;
}

void joust_http_call_free(joust_http_call **call)
{
    joust_http_call *c = *call;
    if (!c)
        return;
    if (c->multi && c->easy)
        curl_multi_remove_handle(c->multi, c->easy);
    curl_easy_cleanup(c->easy);
    curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->headers);
    joust_buf_fini(&c->received);
    joust_free(c);
    *call = NULL;
}

joust_status joust_http_call_begin(const char *url, const char *body, uint32_t timeout_ms,
                                   joust_http_call **ret, joust_error *err)
{
    joust_http_call *c = joust_calloc(1, sizeof(*c));
    if (c && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) {
        c->multi = curl_multi_init();
        c->easy = curl_easy_init();
        c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    }
    if (!c || !c->multi || !c->easy || !c->headers) {
        joust_http_call_free(&c);
        return joust_fail(err, JOUST_NOMEM, "call: out of memory");
    }
    curl_easy_setopt(c->easy, CURLOPT_URL, url);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, (void *)c);
    curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, c->problem);
    curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->easy, CURLOPT_NOPROXY, "*"); /* it is on this node */
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    if (body)
        curl_easy_setopt(c->easy, CURLOPT_COPYPOSTFIELDS, body);
    if (curl_multi_add_handle(c->multi, c->easy) != CURLM_OK) {
        joust_http_call_free(&c);
        return joust_fail(err, JOUST_NOMEM, "call: out of memory");
    }
    *ret = c;
    return JOUST_OK;
}

/* Some servers answer 200 with {"success": false}. */
static bool says_no(const joust_buf *answer)
{
    json_t *root = answer->n ? json_loadb((const char *)answer->data, answer->n, 0, NULL) : NULL;
    bool no = json_is_false(json_object_get(root, "success"));
    json_decref(root);
    return no;
}

static joust_status judge(const joust_http_call *c, CURLcode code, joust_error *err)
{
    long status = 0;
    char text[256];
    if (code != CURLE_OK)
        return joust_fail(err, JOUST_IO, "%s",
                          c->problem[0] ? c->problem : curl_easy_strerror(code));
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200 && !says_no(&c->received))
        return JOUST_OK;
    joust_endpoint_error_text(c->received.data, c->received.n, text);
    return joust_fail(err, JOUST_IO, "HTTP status %ld: %s", status, text);
}

joust_status joust_http_call_turn(joust_http_call *c, joust_error *err)
{
    int n;
    CURLMcode code = curl_multi_perform(c->multi, &n);
    if (code != CURLM_OK)
        return joust_fail(err, JOUST_IO, "%s", curl_multi_strerror(code));
    CURLMsg *m = curl_multi_info_read(c->multi, &n);
    if (!m || m->msg != CURLMSG_DONE)
        return JOUST_AGAIN;
    return judge(c, m->data.result, err);
}
