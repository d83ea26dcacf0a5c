/* SPDX-License-Identifier: Apache-2.0
 *
 * Digests between hexadecimal text (wire, paths) and bytes (core, depot).
 */
#ifndef YADO_MASTER_DIGESTS_H
#define YADO_MASTER_DIGESTS_H

#include "base/str.h"
#include "grid/grid.h"

#include <errno.h>
#include <string.h>

enum { DIGEST_TEXT_MAX = 65 };

/* "" for no digest. */
static inline const char *digest_text(const struct grid_digest *d, char out[DIGEST_TEXT_MAX])
{
    if (grid_digest_is_none(d))
        out[0] = '\0';
    else
        str_hex(d->bytes, sizeof d->bytes, out);
    return out;
}

/* "" gives none. -EINVAL for anything that is not 64 digits. */
static inline int digest_parse(const char *text, struct grid_digest *ret)
{
    if (text[0] == '\0') {
        memset(ret, 0, sizeof *ret);
        return 0;
    }
    return strlen(text) == 2 * sizeof ret->bytes ? str_unhex(text, ret->bytes, sizeof ret->bytes)
                                                 : -EINVAL;
}

#endif
