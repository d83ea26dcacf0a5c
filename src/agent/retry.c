/* SPDX-License-Identifier: Apache-2.0
 *
 * See retry.h.
 */
#include "agent/retry.h"
#include "base/log.h"
#include "host/blob_cache.h"

#include <errno.h>

enum { RETRY_MIN_MS = 100, RETRY_MAX_MS = 2000, BAD_MAX = 3 };

int retry_until(const struct retry *retry, int (*attempt)(void *arg, struct err *ret_err),
                void *arg, struct err *ret_err)
{
    uint32_t pause_ms = RETRY_MIN_MS;
    int bad = 0;

    for (;;) {
        int r = attempt(arg, ret_err);

        if (r == 0 || (!blob_may_retry(r) && !(r == -EBADMSG && bad++ < BAD_MAX)))
            return r;
        log_info("%s; trying again", ret_err->text);
        if (!retry->pause(retry->arg, pause_ms))
            return -ECANCELED;
        pause_ms = 2 * pause_ms < RETRY_MAX_MS ? 2 * pause_ms : RETRY_MAX_MS;
    }
}
