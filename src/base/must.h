/* SPDX-License-Identifier: Apache-2.0
 *
 * MUST(): an invariant of our own. It is never compiled out and never used on input from
 * network, disk, guest or user; those get an error.
 */
#ifndef YADO_BASE_MUST_H
#define YADO_BASE_MUST_H

/* Prints file, line and expression to stderr and aborts. */
_Noreturn void must_fail(const char *file, int line, const char *expr);

#define MUST(expr) ((expr) ? (void)0 : must_fail(__FILE__, __LINE__, #expr))

#endif
