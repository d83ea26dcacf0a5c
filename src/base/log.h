/* SPDX-License-Identifier: Apache-2.0
 *
 * One line a message to stderr, written with a single write(2). Under systemd each line bears
 * the <N> priority prefix and no time of its own. Libraries log at debug only; wiring
 * (master, agent, cli) says the rest. The level comes from YADO_LOG (error, warn, info, debug).
 */
#ifndef YADO_BASE_LOG_H
#define YADO_BASE_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Sets the name that stands in front of each line ("master", "agent pc-1"). Copied. */
void log_set_name(const char *name);
void log_set_level(enum log_level level);
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
