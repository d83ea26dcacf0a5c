/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs that show mail have in common: ring, heat, farm and blocks, each of which
 * checks its own result and ends with status 1 when it is wrong. They behave the same again when
 * they are run again, as `mail: immediate` asks for.
 */
#ifndef YADO_APPS_TALK_H
#define YADO_APPS_TALK_H

#include "yado.h"

#include <stddef.h>
#include <stdint.h>

_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *allocate(size_t count, size_t size);
uint64_t now_us(void);
void pause_ms(uint64_t ms);

/* `--NAME VALUE` of the command line, a number up to max; what is not given keeps its value. */
struct option_number {
    const char *name;
    uint64_t *value;
    uint64_t min, max;
};
void read_options(int argc, char **argv, const struct option_number *options, size_t count);

/* Mail or death; the program stops when something fails. */
struct yado *talk_open(void);
void talk_send(struct yado *y, unsigned to, const void *data, size_t len);
/* Of that rank (or YADO_ANY), of exactly so many bytes; returns the sender. */
unsigned talk_recv(struct yado *y, int from, void *data, size_t len);
/* The same for any length: in as many messages as it takes. */
void talk_send_large(struct yado *y, unsigned to, const void *data, size_t len);
void talk_recv_large(struct yado *y, unsigned from, void *data, size_t len);

/* FNV-1a, to compare results bit for bit. */
uint64_t digest(uint64_t start, const void *data, size_t len);
enum { DIGEST_START = 1469598103 };

/* The rows of n that a rank of `ranks` has: [first, first + returned). */
size_t share_of(size_t n, unsigned rank, unsigned ranks, size_t *ret_first);

#endif
