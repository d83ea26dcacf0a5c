/* SPDX-License-Identifier: Apache-2.0
 *
 * The input watcher: a process of its own that sees the input devices and says only that
 * something moved. It gives up root (keeping the group that may read the devices), sets a seccomp
 * filter under which it can open files for reading only and write to its standard output only,
 * and forgets what it read before it reads on; key codes never leave it.
 *
 * It writes records of OWNER_WATCH_RECORD bytes to standard output: one byte of what, and eight
 * bytes (host order): for a movement the kernel's time of the event (CLOCK_MONOTONIC,
 * microseconds), for the devices their number. After a movement it is silent for a fifth of a
 * second. It ends when its standard input does.
 */
#ifndef YADO_HOST_OWNER_WATCH_H
#define YADO_HOST_OWNER_WATCH_H

enum { OWNER_WATCH_RECORD = 9, OWNER_WATCH_MOVED = 'm', OWNER_WATCH_DEVICES = 'd' };

/* dir: "/dev/input". Returns an exit status. */
int owner_watch_run(const char *dir);

#endif
