/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of a ring of events (docs/formats/ring.md): what a core was loaded from, and every
 * event that it took since, so that the same core can be made to go the same way again. For
 * diagnosis: nothing is ever recovered from it.
 *
 * Pure: bytes in, records out. Any bytes may be read; what a record says is checked as far as it
 * can be without a grid.
 */
#ifndef YADO_STATE_RING_H
#define YADO_STATE_RING_H

#include "base/buf.h"
#include "grid/grid.h"

enum { RING_VERSION = 2, RING_RECORD_MAX = 64 << 20 };

enum ring_kind {
    RING_CONFIG = 1, /* a grid begins: RING_ROWs follow, all of them */
    RING_ROW,
    RING_EVENT, /* written before it is taken */
    RING_RENEW, /* grid_renew() */
    RING_MARK,  /* the digest by now */
};

struct ring_record {
    enum ring_kind kind;
    union {
        struct grid_config config;
        struct grid_row row;
        struct grid_event event;
        struct {
            uint64_t pc, now_ms;
        } renew;
        struct {
            uint64_t step, digest;
        } mark;
    };
};

/* What a file begins with. */
void ring_put_header(struct buf *to);
void ring_put(struct buf *to, const struct ring_record *record);
/* The CONFIG of this grid, its rows and a mark. */
void ring_put_grid(struct buf *to, const struct grid_config *config, const struct grid *g);

struct ring_reader {
    const uint8_t *data;
    size_t len, at;
    void **owned; /* of the record that was read last */
    size_t count_owned, cap_owned;
};

/* Borrows the data. -EBADMSG, -EPROTONOSUPPORT with text: not such a file. */
int ring_open(struct ring_reader *r, const void *data, size_t len, struct err *ret_err);
void ring_close(struct ring_reader *r);

enum { RING_END = 0, RING_HAS = 1, RING_CUT = 2 };
/* RING_HAS: a record, valid until the next call; RING_END; RING_CUT: the file ends within one, as
 * when its writer was killed; -EBADMSG with text: damaged. */
int ring_next(struct ring_reader *r, struct ring_record *ret_record, struct err *ret_err);

#endif
