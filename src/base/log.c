/* SPDX-License-Identifier: Apache-2.0
 *
 * Logging to stderr; see log.h. Any thread may log; a line is one write(2) and so not torn.
 */
#include "base/log.h"
#include "base/must.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char name_[64];
static int level_ = -1;
static int journal_ = -1;

void must_fail(const char *file, int line, const char *expr)
{
    fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, expr);
    abort();
}

void log_set_name(const char *name)
{
    snprintf(name_, sizeof name_, "%s", name);
}

void log_set_level(enum log_level level)
{
    level_ = (int)level;
}

static int level_from_env(void)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    const char *env = getenv("YADO_LOG");

    for (int i = 0; env && i < 4; i++)
        if (strcmp(env, names[i]) == 0)
            return i;
    return LOG_LEVEL_INFO;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    static const char *const words[] = {"error: ", "warning: ", "", "debug: "};
    static const int priorities[] = {3, 4, 6, 7};
    char line[4096];
    size_t n = 0;
    va_list ap;

    if (level_ < 0)
        level_ = level_from_env();
    if ((int)level > level_)
        return;
    if (journal_ < 0)
        journal_ = getenv("JOURNAL_STREAM") != NULL;
    if (journal_) {
        n = (size_t)snprintf(line, sizeof line, "<%d>", priorities[level]);
    } else {
        struct timespec ts;
        struct tm tm;

        clock_gettime(CLOCK_REALTIME, &ts);
        localtime_r(&ts.tv_sec, &tm);
        n = strftime(line, sizeof line, "%H:%M:%S", &tm);
        n += (size_t)snprintf(line + n, sizeof line - n, ".%03ld ", ts.tv_nsec / 1000000);
    }
    n += (size_t)snprintf(line + n, sizeof line - n, "%s%s%s", name_, name_[0] ? ": " : "",
                          words[level]);
    va_start(ap, fmt);
    int k = vsnprintf(line + n, sizeof line - n, fmt, ap);
    va_end(ap);
    if (k > 0)
        n += (size_t)k;
    if (n > sizeof line - 1)
        n = sizeof line - 1;
    line[n++] = '\n';
    /* A log line that cannot be written has nowhere else to go. */
    if (write(STDERR_FILENO, line, n) < 0)
        return;
}
