/* SPDX-License-Identifier: Apache-2.0
 *
 * A process's own command line, for one that hears only later what it is there for.
 */
#ifndef YADO_BASE_TITLE_H
#define YADO_BASE_TITLE_H

/* From now on the process's arguments behind argv[0] (the command's name) are seen as `text`, cut
 * to the room that they had, by people and by those who look for a process by its command line.
 * argv is main's, its strings in one piece, as the kernel lays them. */
void title_set(int argc, char **argv, const char *text);

#endif
