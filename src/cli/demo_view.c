/* SPDX-License-Identifier: Apache-2.0
 *
 * What `yado demo` shows; see demo_view.h. The live table is erased and drawn again whenever
 * its text differs or a line is to scroll above it; nothing else writes to the terminal then.
 */
#include "cli/demo_view.h"
#include "cli/cli.h"
#include "cli/listing.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *demo_view_after(struct demo_view *v)
{
    snprintf(v->after, sizeof v->after, "%" PRIu64, v->after_seq);
    return v->after;
}

static void erase(struct demo_view *v)
{
    if (v->drawn)
        printf("\033[%zuA\r\033[J", v->drawn); /* up, and clear to the end of the screen */
    v->drawn = 0;
}

static void draw(struct demo_view *v)
{
    if (!v->tty || !v->table)
        return;
    fputs(v->table, stdout);
    for (const char *p = v->table; *p; p++)
        v->drawn += *p == '\n';
    fflush(stdout);
}

static void put_line(struct demo_view *v, const char *text)
{
    erase(v);
    printf("%7.1f s  %s\n", (double)v->elapsed_ms / 1000, text);
    if (!v->tty)
        fflush(stdout);
}

void demo_view_say(struct demo_view *v, const char *fmt, ...)
{
    AUTO_FREE char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = xvasprintf(fmt, ap);
    va_end(ap);
    put_line(v, text);
    draw(v);
}

static void put_event(struct demo_view *v, const json_t *event)
{
    AUTO_FREE char *pc = text_clean(cli_text(event, "pc"));
    AUTO_FREE char *text = text_clean(cli_text(event, "text"));
    AUTO_FREE char *line = NULL;
    const json_t *part = json_object_get(event, "part");
    int64_t job = cli_int(event, "job");

    if (job && json_is_integer(part) && json_integer_value(part) >= 0)
        line = xasprintf("job %" PRId64 ".%" PRId64 ": %s%s%s", job,
                         (int64_t)json_integer_value(part), pc, *pc ? ": " : "", text);
    else if (job)
        line = xasprintf("job %" PRId64 ": %s", job, text);
    else
        line = xasprintf("%s%s%s", pc, *pc ? ": " : "", text);
    put_line(v, line);
}

static char *table_text(const struct demo_view *v, const json_t *vms)
{
    static const struct listing_column columns[] = {
        {"JOB", LISTING_RIGHT},   {"PART", LISTING_RIGHT},  {"PC", LISTING_SHRINK}, {"STATE", 0},
        {"EPOCH", LISTING_RIGHT}, {"MOVES", LISTING_RIGHT}, {"RUN", LISTING_RIGHT},
    };
    struct listing l = {.columns = columns, .count_columns = sizeof columns / sizeof *columns};
    char run[NUM_TEXT_MAX], *text = NULL;
    size_t size = 0, i;
    const json_t *vm;
    FILE *f = open_memstream(&text, &size);

    if (!f)
        return NULL;
    json_array_foreach(json_object_get(vms, "vms"), i, vm)
    {
        if (cli_int(vm, "job"))
            listing_add(&l, "%" PRId64, cli_int(vm, "job"));
        else
            listing_add(&l, "golden");
        listing_add(&l, "%" PRId64, cli_int(vm, "part"));
        listing_add(&l, "%s", *cli_text(vm, "pc") ? cli_text(vm, "pc") : "-");
        listing_add(&l, "%s", cli_text(vm, "state"));
        listing_add(&l, "%" PRId64, cli_int(vm, "epoch"));
        listing_add(&l, "%" PRId64, cli_int(vm, "moves"));
        listing_add(&l, "%s", num_format_duration((uint64_t)cli_int(vm, "run_ms"), run));
    }
    fprintf(f, "\n");
    listing_print(&l, f, listing_terminal_width(STDOUT_FILENO), listing_may_style(STDOUT_FILENO));
    fprintf(f, "%" PRIu64 " s\n", v->elapsed_ms / 1000);
    listing_deinit(&l);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

void demo_view_update(struct demo_view *v, uint64_t elapsed_ms, const json_t *vms,
                      const json_t *events)
{
    const json_t *event;
    size_t i;

    v->elapsed_ms = elapsed_ms;
    json_array_foreach(json_object_get(events, "events"), i, event)
    {
        uint64_t seq = (uint64_t)cli_int(event, "seq");

        if (seq > v->after_seq) {
            v->after_seq = seq;
            put_event(v, event);
        }
    }
    if (vms && v->tty) {
        free(v->table);
        v->table = table_text(v, vms);
    }
    erase(v);
    draw(v);
}

void demo_view_end(struct demo_view *v)
{
    free(v->table);
    v->table = NULL;
    v->drawn = 0;
}

void demo_view_moves(const json_t *moves)
{
    static const struct listing_column columns[] = {
        {"JOB", LISTING_RIGHT},
        {"PART", LISTING_RIGHT},
        {"REASON", 0},
        {"FROM", 0},
        {"TO", 0},
        {"STOP", LISTING_RIGHT},
        {"SAVE", LISTING_RIGHT},
        {"SEARCH", LISTING_RIGHT},
        {"RESUME", LISTING_RIGHT},
        {"TOTAL", LISTING_RIGHT},
        {"BYTES", LISTING_RIGHT},
    };
    static const char *const times[] = {"stop_ms", "save_ms", "search_ms", "resume_ms", "total_ms"};
    struct listing l = {.columns = columns, .count_columns = sizeof columns / sizeof *columns};
    char text[NUM_TEXT_MAX];
    const json_t *m;
    size_t i;

    json_array_foreach(moves, i, m)
    {
        listing_add(&l, "%" PRId64, cli_int(m, "job"));
        listing_add(&l, "%" PRId64, cli_int(m, "part"));
        listing_add(&l, "%s", cli_text(m, "reason"));
        listing_add(&l, "%s", cli_text(m, "from"));
        listing_add(&l, "%s", cli_text(m, "to"));
        for (size_t t = 0; t < sizeof times / sizeof *times; t++)
            listing_add(&l, "%s", num_format_duration((uint64_t)cli_int(m, times[t]), text));
        listing_add(&l, "%s", num_format_size((uint64_t)cli_int(m, "bytes"), text));
    }
    putchar('\n');
    listing_show(&l);
    listing_deinit(&l);
    puts("The paper's moves took 200 to 450 s (its table 4).");
    fflush(stdout);
}

char *demo_read_line(const char *path)
{
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    char line[4096];

    if (!f || !fgets(line, sizeof line, f))
        return NULL;
    line[strcspn(line, "\n")] = 0;
    return line[0] ? xstrdup(line) : NULL;
}
