/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTPS client; see http_client.h. Each struct http drives one easy handle by a multi handle
 * of its own, because curl_multi_wakeup() is the one thing of libcurl that another thread may
 * call: an abort takes effect at once, not at the next progress tick.
 */
#include "host/http_client.h"
#include "base/must.h"
#include "host/http_internal.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECT_TIMEOUT_MS = 5000,
    QUIET_DEFAULT_MS = 15000,
    POLL_MS = 1000,
    BODY_MAX_DEFAULT = 16 * 1024 * 1024,
    JSON_MAX = 64 * 1024 * 1024, /* a job of 100,000 parts is half of it */
    ERROR_BODY_MAX = 64 * 1024,
    EXPECT_BYTES = 1024 * 1024, /* above this the server may refuse before it gets the body */
};

/* One request under way. */
struct exchange {
    struct http *h;
    const struct http_request *request;
    struct http_response *response;
    int failed;        /* first error of a callback */
    uint64_t sent;     /* bytes of the body handed to libcurl */
    uint64_t moved;    /* bytes seen by libcurl in both directions */
    uint64_t moved_ms; /* when `moved` last changed */
    uint64_t start_ms;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void global_init(void)
{
    MUST(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
}

static char *dup_or_null(const char *s)
{
    return s ? xstrdup(s) : NULL;
}

struct http *http_new(const struct http_config *config)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct http *h = xcalloc(1, sizeof *h);

    MUST(pthread_once(&once, global_init) == 0);
    h->easy = curl_easy_init();
    h->multi = curl_multi_init();
    MUST(h->easy && h->multi);
    h->ca_file = dup_or_null(config->ca_file);
    h->cert_file = dup_or_null(config->cert_file);
    h->key_file = dup_or_null(config->key_file);
    h->bearer = dup_or_null(config->bearer);
    h->unverified = config->unverified;
    return h;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    curl_easy_cleanup(h->easy);
    curl_multi_cleanup(h->multi);
    free(h->ca_file);
    free(h->cert_file);
    free(h->key_file);
    free(h->bearer);
    free(h);
}

void http_abort(struct http *h)
{
    atomic_store(&h->aborted, true);
    curl_multi_wakeup(h->multi);
}

void http_rearm(struct http *h)
{
    atomic_store(&h->aborted, false);
}

void http_response_deinit(struct http_response *r)
{
    buf_deinit(&r->body);
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    const struct http_request *q = x->request;
    size_t len = size * count;
    long status = 0;
    bool good, whole;

    curl_easy_getinfo(x->h->easy, CURLINFO_RESPONSE_CODE, &status);
    good = status >= 200 && status < 300;
    whole = good && q->range_bytes && status != 206;
    if (whole) {
        x->failed = -EPROTO; /* a server without ranges: its bytes are not those asked for */
        return 0;
    }
    if (good && q->sink) {
        x->failed = q->sink(q->sink_arg, data, len);
        return x->failed ? 0 : len;
    }
    if (!good && x->response->body.len + len > ERROR_BODY_MAX)
        return len; /* an error's text is not worth more */
    if (good && x->response->body.len + len > (q->body_max ? q->body_max : BODY_MAX_DEFAULT)) {
        x->failed = -EMSGSIZE;
        return 0;
    }
    buf_put(&x->response->body, data, len);
    return len;
}

/* One header line, or the status line, which has no colon before its first space. */
static size_t on_header(char *line, size_t size, size_t count, void *arg)
{
    const struct http_request *q = ((struct exchange *)arg)->request;
    size_t len = size * count;
    char *text = xstrndup(line, len), *colon = strchr(text, ':'), *value;

    text[strcspn(text, "\r\n")] = 0;
    if (colon && memchr(text, ' ', (size_t)(colon - text)) == NULL) {
        *colon = 0;
        for (char *p = text; *p; p++)
            *p = (char)tolower((unsigned char)*p);
        value = colon + 1 + strspn(colon + 1, " \t");
        q->header(q->header_arg, text, value);
    }
    free(text);
    return len;
}

__attribute__((format(printf, 2, 3))) static void add_header(struct curl_slist **list,
                                                             const char *fmt, ...)
{
    char *line;
    va_list ap;

    va_start(ap, fmt);
    line = xvasprintf(fmt, ap);
    va_end(ap);
    *list = curl_slist_append(*list, line);
    free(line);
}

static size_t send_made(struct exchange *x, char *to, size_t len)
{
    ssize_t n = x->request->body_read(x->request->body_arg, x->sent, to, len);

    if (n < 0) {
        x->failed = (int)n;
        return CURL_READFUNC_ABORT;
    }
    x->sent += (uint64_t)n;
    return (size_t)n;
}

static int on_trailer(struct curl_slist **list, void *arg)
{
    const struct http_request *q = ((struct exchange *)arg)->request;

    add_header(list, "%s: %s", q->body_trailer.name, q->body_trailer.value(q->body_arg));
    return CURL_TRAILERFUNC_OK;
}

static size_t on_send(char *to, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    const struct http_request *q = x->request;

    if (q->body_read)
        return send_made(x, to, size * count);

    uint64_t left = q->body_bytes - x->sent;
    size_t len = size * count < left ? size * count : (size_t)left;
    ssize_t n = (ssize_t)len;

    if (len && q->body_file) {
        do
            n = pread(q->body_fd, to, len, (off_t)(q->body_offset + x->sent));
        while (n < 0 && errno == EINTR);
        if (n <= 0) { /* an error, or the file is shorter than was said */
            x->failed = -EIO;
            return CURL_READFUNC_ABORT;
        }
        if (q->body_filter)
            q->body_filter(q->body_filter_arg, q->body_offset + x->sent, to, (size_t)n);
    } else if (len) {
        memcpy(to, (const char *)q->body + x->sent, len);
    }
    x->sent += (uint64_t)n;
    if (q->progress)
        q->progress(q->progress_arg, x->sent);
    return (size_t)n;
}

/* A kept connection may turn out dead after the first bytes were sent on it. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct exchange *x = arg;

    if (origin != SEEK_SET || offset < 0 ||
        (!x->request->body_read && (uint64_t)offset > x->request->body_bytes))
        return CURL_SEEKFUNC_FAIL;
    x->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    struct exchange *x = arg;
    uint64_t moved = (uint64_t)down + (uint64_t)up;

    if (moved != x->moved) {
        x->moved = moved;
        x->moved_ms = now_ms();
    }
    return 0;
}

static void set_security(struct http *h)
{
    CURL *e = h->easy;

    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, h->unverified ? 0L : 1L);
    curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, h->unverified ? 0L : 2L);
    curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
    if (h->ca_file)
        curl_easy_setopt(e, CURLOPT_CAINFO, h->ca_file);
    if (h->cert_file) {
        curl_easy_setopt(e, CURLOPT_SSLCERT, h->cert_file);
        curl_easy_setopt(e, CURLOPT_SSLKEY, h->key_file);
    }
}

static void set_body(struct http *h, const struct http_request *q, struct exchange *x)
{
    CURL *e = h->easy;

    if (strcmp(q->method, "HEAD") == 0) {
        curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
        return;
    }
    if (strcmp(q->method, "PUT") == 0 || strcmp(q->method, "POST") == 0) {
        curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE,
                         q->body_read ? (curl_off_t)-1 : (curl_off_t)q->body_bytes);
        curl_easy_setopt(e, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(e, CURLOPT_READDATA, x);
        curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(e, CURLOPT_SEEKDATA, x);
        curl_easy_setopt(e, CURLOPT_UPLOAD_BUFFERSIZE, 512L * 1024);
    }
    if (q->body_read) {
        curl_easy_setopt(e, CURLOPT_TRAILERFUNCTION, on_trailer);
        curl_easy_setopt(e, CURLOPT_TRAILERDATA, x);
    }
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, q->method);
}

static struct curl_slist *make_headers(struct http *h, const struct http_request *q)
{
    struct curl_slist *list = NULL;

    if (h->bearer)
        add_header(&list, "Authorization: Bearer %s", h->bearer);
    if (q->idempotency_key)
        add_header(&list, "Idempotency-Key: %s", q->idempotency_key);
    if (q->range_bytes)
        add_header(&list, "Range: bytes=%llu-%llu", (unsigned long long)q->range_offset,
                   (unsigned long long)(q->range_offset + q->range_bytes - 1));
    if (q->body || q->body_file || q->body_read)
        add_header(&list, "Content-Type: %s",
                   q->content_type ? q->content_type : "application/octet-stream");
    if (q->body_read)
        add_header(&list, "Trailer: %s", q->body_trailer.name);
    else if (q->body_bytes < EXPECT_BYTES)
        list = curl_slist_append(list, "Expect:");
    return list;
}

static void set_request(struct http *h, const struct http_request *q, struct exchange *x,
                        struct curl_slist *headers)
{
    CURL *e = h->easy;

    curl_easy_reset(e); /* keeps connections and sessions */
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, h->error);
    curl_easy_setopt(e, CURLOPT_URL, q->url);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "yado/" YADO_VERSION);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 256L * 1024);
    set_security(h);
    set_body(h, q, x);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
    if (q->header) {
        curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
        curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
    }
    curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(e, CURLOPT_XFERINFODATA, x);
}

/* How long the loop may sleep, or a negative errno when a limit has passed. */
static int check_limits(const struct exchange *x)
{
    const struct http_request *q = x->request;
    uint64_t now = now_ms();
    uint64_t quiet = q->quiet_ms ? q->quiet_ms : QUIET_DEFAULT_MS;
    uint64_t until = x->moved_ms + quiet;

    if (atomic_load(&x->h->aborted))
        return -ECANCELED;
    if (q->timeout_ms && x->start_ms + q->timeout_ms < until)
        until = x->start_ms + q->timeout_ms;
    if (now >= until)
        return -ETIMEDOUT;
    return until - now < POLL_MS ? (int)(until - now) : POLL_MS;
}

/* Runs the request; 0 with libcurl's verdict, or a negative errno of ours. */
static int drive(struct http *h, struct exchange *x, CURLcode *ret_code)
{
    for (;;) {
        int running = 0, left = 0, wait_ms;
        CURLMsg *msg;

        if (curl_multi_perform(h->multi, &running) != CURLM_OK)
            return -EPROTO;
        while ((msg = curl_multi_info_read(h->multi, &left)))
            if (msg->msg == CURLMSG_DONE) {
                *ret_code = msg->data.result;
                return 0;
            }
        wait_ms = check_limits(x);
        if (wait_ms < 0)
            return wait_ms;
        if (curl_multi_poll(h->multi, NULL, 0, wait_ms, NULL) != CURLM_OK)
            return -EPROTO;
    }
}

int http_errno_of(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_OPERATION_TIMEDOUT: /* of the connection; all else is timed by check_limits() */
        return -EHOSTUNREACH;
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
        return -ECONNREFUSED;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
        return -ECONNRESET;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
        return -EACCES;
    default:
        return -EPROTO;
    }
}

static int explain(struct http *h, const struct exchange *x, int result, CURLcode code,
                   struct err *ret_err)
{
    const char *url = x->request->url;
    uint64_t passed = now_ms() - x->start_ms;

    if (result == 0 && x->failed)
        result = x->failed;
    if (result == -ECANCELED)
        return err_set(ret_err, result, "%s: given up", url);
    if (result == -ETIMEDOUT)
        return err_set(ret_err, result, "%s: no answer after %.1f s", url, (double)passed / 1000);
    if (result == -EMSGSIZE)
        return err_set(ret_err, result, "%s: the answer is too long", url);
    if (result == -EPROTO && x->failed)
        return err_set(ret_err, result, "%s: the server answered a range request with the whole",
                       url);
    if (result)
        return err_set(ret_err, result, "%s: %s", url, strerror(-result));
    return err_set(ret_err, http_errno_of(code), "%s: %s", url,
                   h->error[0] ? h->error : curl_easy_strerror(code));
}

static int64_t date_of(CURL *easy)
{
    struct curl_header *date;

    if (curl_easy_header(easy, "Date", 0, CURLH_HEADER, -1, &date) != CURLHE_OK)
        return 0;
    int64_t t = curl_getdate(date->value, NULL);
    return t < 0 ? 0 : t;
}

int http_do(struct http *h, const struct http_request *request, struct http_response *ret,
            struct err *ret_err)
{
    struct exchange x = {.h = h, .request = request, .response = ret};
    struct curl_slist *headers = make_headers(h, request);
    CURLcode code = CURLE_OK;
    long status = 0;
    int r;

    buf_clear(&ret->body);
    ret->status = 0;
    h->error[0] = 0;
    x.start_ms = x.moved_ms = now_ms();
    set_request(h, request, &x, headers);
    MUST(curl_multi_add_handle(h->multi, h->easy) == CURLM_OK);
    r = drive(h, &x, &code);
    curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_multi_remove_handle(h->multi, h->easy);
    if (r || code != CURLE_OK)
        r = explain(h, &x, r, code, ret_err);
    else
        ret->status = (int)status;
    ret->date_s = date_of(h->easy);
    curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return r;
}

int http_connect(struct http *h, const char *url, struct err *ret_err)
{
    struct http_request q = {.method = "GET", .url = url};
    struct exchange x = {.h = h, .request = &q};
    CURLcode code = CURLE_OK;
    int r;

    h->error[0] = 0;
    x.start_ms = x.moved_ms = now_ms();
    set_request(h, &q, &x, NULL);
    curl_easy_setopt(h->easy, CURLOPT_CONNECT_ONLY, 1L);
    MUST(curl_multi_add_handle(h->multi, h->easy) == CURLM_OK);
    r = drive(h, &x, &code);
    curl_easy_setopt(h->easy, CURLOPT_NOPROGRESS, 1L); /* its argument ends with us */
    return r || code != CURLE_OK ? explain(h, &x, r, code, ret_err) : 0;
}

bool http_may_retry(int result, int status)
{
    if (result)
        return result == -ETIMEDOUT || result == -ECONNREFUSED || result == -EHOSTUNREACH ||
               result == -ECONNRESET;
    return status >= 500 || status == 429;
}

void http_error_text(const struct http_response *r, struct err *ret_err)
{
    json_t *root = json_loadb((const char *)r->body.data, r->body.len, 0, NULL);
    const char *message =
        json_string_value(json_object_get(json_object_get(root, "error"), "message"));

    if (message)
        str_sanitize(message, ret_err->text, sizeof ret_err->text);
    else
        err_format(ret_err, "HTTP status %d", r->status);
    json_decref(root);
}

int http_json(struct http *h, const struct http_request *request, const json_t *json,
              json_t **ret_json, int *ret_status, struct err *ret_err)
{
    struct http_request q = {.method = request->method,
                             .url = request->url,
                             .timeout_ms = request->timeout_ms,
                             .quiet_ms = request->timeout_ms,
                             .idempotency_key = request->idempotency_key,
                             .body_max = JSON_MAX,
                             .content_type = "application/json"};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_t *root = NULL;
    int r;

    if (text) {
        q.body = text;
        q.body_bytes = strlen(text);
    }
    r = http_do(h, &q, &answer, ret_err);
    free(text);
    if (ret_status)
        *ret_status = answer.status;
    if (r)
        return r;
    if (answer.status < 200 || answer.status > 299) {
        if (ret_err)
            http_error_text(&answer, ret_err);
        return -EREMOTEIO;
    }
    if (answer.body.len) {
        json_error_t e;

        root =
            json_loadb((const char *)answer.body.data, answer.body.len, JSON_REJECT_DUPLICATES, &e);
        if (!root)
            return err_set(ret_err, -EPROTO, "%s: the answer is not JSON: %s", q.url, e.text);
    }
    if (ret_json)
        *ret_json = root;
    else
        json_decref(root);
    return 0;
}
