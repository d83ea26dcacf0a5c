/* SPDX-License-Identifier: Apache-2.0
 *
 * A layer or a result to the master: asked first whether it is there already (an answer may have
 * been lost), sent whole, tried again for ever while the master is away or its disk is full.
 */
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RETRY_MIN_MS = 200, RETRY_MAX_MS = 5000, QUIET_MS = 60000 };

static int head(struct work *w, const char *url, struct err *ret_err)
{
    struct http_request q = {.method = "HEAD", .url = url};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    int r = http_do(w->http, &q, &answer, ret_err);

    if (r || (answer.status >= 200 && answer.status < 300))
        return r;
    return err_set(ret_err, blob_status_error(answer.status), "%s: HTTP status %d", url,
                   answer.status);
}

static int put(struct work *w, const char *url, int fd, uint64_t size, struct err *ret_err)
{
    struct http_request q = {.method = "PUT",
                             .url = url,
                             .body_file = true,
                             .body_fd = fd,
                             .body_bytes = size,
                             .quiet_ms = QUIET_MS};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct err why;
    int r = http_do(w->http, &q, &answer, ret_err);

    if (r || (answer.status >= 200 && answer.status < 300))
        return r;
    http_error_text(&answer, &why);
    return err_set(ret_err, blob_status_error(answer.status), "%s: %.300s", url, why.text);
}

static int upload(struct work *w, const char *url, int fd, uint64_t size, struct err *ret_err)
{
    int r = head(w, url, ret_err);

    return r == -ENOENT ? put(w, url, fd, size, ret_err) : r;
}

int task_upload(struct work *w, char *ret_reason, struct err *ret_err)
{
    struct sync_vm *v = &w->report;
    const struct sync_layer *layer = v->count_layers ? &v->layers[0] : NULL;
    AUTO_FREE char *path = xasprintf("%s/%s", w->dir, layer ? "layer" : "result.tar");
    AUTO_FREE char *url = xasprintf("%sblobs/%s", w->source.url, layer ? layer->digest : v->result);
    uint64_t size = layer ? layer->size : v->result_bytes;
    uint64_t start = clock_ms(CLOCK_MONOTONIC);
    uint32_t pause_ms = RETRY_MIN_MS;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r;

    if (!layer && !v->result[0])
        return 0; /* an empty /out */
    snprintf(ret_reason, WORK_REASON_MAX, "upload failed");
    if (fd < 0)
        return err_set(ret_err, -errno, "cannot open %s: %s", path, strerror(errno));
    while ((r = upload(w, url, fd, size, ret_err)) != 0) {
        if (atomic_load(&w->cancelled))
            return -ECANCELED;
        if (r == -ESTALE) {
            snprintf(ret_reason, WORK_REASON_MAX, "stale");
            return r;
        }
        if (!blob_may_retry(r))
            return r;
        log_info("upload waits: %s", ret_err->text);
        if (!work_pause(w, pause_ms))
            return -ECANCELED;
        pause_ms = 2 * pause_ms < RETRY_MAX_MS ? 2 * pause_ms : RETRY_MAX_MS;
    }
    v->upload_ms = (uint32_t)(clock_ms(CLOCK_MONOTONIC) - start);
    return 0;
}
