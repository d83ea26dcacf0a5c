/* SPDX-License-Identifier: Apache-2.0
 *
 * Getting something from the master until it is there or cannot be got.
 */
#ifndef YADO_AGENT_RETRY_H
#define YADO_AGENT_RETRY_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct retry {
    /* Sleeps; false: give up. */
    bool (*pause)(void *arg, uint32_t ms);
    void *arg;
};

/* A source that is away is asked again for ever; one that sends what is not the blob (-EBADMSG) a
 * few times more, since the damage may be on the way. What the last attempt returned, or
 * -ECANCELED. */
int retry_until(const struct retry *retry, int (*attempt)(void *arg, struct err *ret_err),
                void *arg, struct err *ret_err);

#endif
