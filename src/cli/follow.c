/* SPDX-License-Identifier: Apache-2.0
 *
 * Following a job; see follow.h. The log is a stream of records (docs/formats/guest.md,
 * "Output"); it is read by offset, so an interrupted answer is simply asked for again. It may be
 * cut, and have grown beyond our offset again before we ask: so each question says how many cuts
 * we know of, and we learn (416) from where on what we have read is void. Cuts are made between
 * records.
 */
#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RECORD_HEADER_BYTES = 5, RECORD_BYTES_MAX = 32768, HOLD_MS = 10000, RETRY_MS = 500 };

struct log_reader {
    uint64_t offset;    /* of the next byte to ask for */
    uint64_t cuts;      /* how often the log had been cut when offset was reached */
    struct buf pending; /* an unfinished record */
    unsigned streams;
    bool tty[3];
    struct text_filter filters[3];
    /* As the last answer said: */
    uint64_t end; /* the log's length */
    uint64_t said_cuts, said_valid;
    bool final; /* the part has ended: nothing will be added */
    int write_error;
    bool bad; /* no record where one should begin */
};

static void put_record(struct log_reader *l, unsigned stream, const void *data, size_t len)
{
    FILE *f = stream == 1 ? stdout : stderr;
    AUTO_BUF struct buf clean = {0};

    if (!(l->streams & (stream == 1 ? FOLLOW_OUT : FOLLOW_ERR)))
        return;
    if (l->tty[stream]) {
        text_filter_put(&l->filters[stream], data, len, &clean);
        data = clean.data;
        len = clean.len;
    }
    /* Flushed at each record, so that the two streams interleave as the program wrote them. */
    if (len && (fwrite(data, 1, len, f) != len || fflush(f) != 0))
        l->write_error = errno ? -errno : -EIO;
}

static int on_bytes(void *arg, const void *data, size_t len)
{
    struct log_reader *l = arg;
    size_t at = 0;

    l->cuts = l->said_cuts;
    buf_put(&l->pending, data, len);
    l->offset += len;
    while (l->pending.len - at >= RECORD_HEADER_BYTES && !l->write_error) {
        const uint8_t *p = l->pending.data + at;
        uint32_t bytes = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];

        if ((p[0] != 1 && p[0] != 2) || bytes < 1 || bytes > RECORD_BYTES_MAX) {
            l->bad = true;
            return -EBADMSG;
        }
        if (l->pending.len - at < RECORD_HEADER_BYTES + bytes)
            break;
        put_record(l, p[0], p + RECORD_HEADER_BYTES, bytes);
        at += RECORD_HEADER_BYTES + bytes;
    }
    buf_consume(&l->pending, at);
    return l->write_error;
}

static void on_header(void *arg, const char *name, const char *value)
{
    struct log_reader *l = arg;

    if (strcmp(name, "yado-log-end") == 0)
        (void)num_parse_u64(value, INT64_MAX, &l->end);
    else if (strcmp(name, "yado-log-cuts") == 0)
        (void)num_parse_u64(value, INT64_MAX, &l->said_cuts);
    else if (strcmp(name, "yado-log-valid") == 0)
        (void)num_parse_u64(value, INT64_MAX, &l->said_valid);
    else if (strcmp(name, "yado-log-final") == 0)
        l->final = strcmp(value, "1") == 0;
}

/* The log was cut: the part went back to an earlier state and writes on from there. */
static void go_back(struct log_reader *l)
{
    uint64_t shown = l->offset - l->pending.len;

    fflush(stdout);
    if (shown > l->said_valid)
        fprintf(stderr,
                "yado: logs: the part went back to an earlier state; the last %" PRIu64
                " bytes above are void\n",
                shown - l->said_valid);
    l->offset = l->said_valid;
    l->cuts = l->said_cuts;
    buf_clear(&l->pending);
    memset(l->filters, 0, sizeof l->filters);
}

static int ask(struct client *c, struct log_reader *l, uint64_t job, uint64_t part, bool follow,
               struct http_response *answer, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("/v1/jobs/%" PRIu64 "/parts/%" PRIu64 "/log?offset=%" PRIu64
                                     "&cuts=%" PRIu64 "&wait=%d",
                                     job, part, l->offset, l->cuts, follow ? HOLD_MS : 0);
    struct http_request q = {.method = "GET",
                             .url = path,
                             .sink = on_bytes,
                             .sink_arg = l,
                             .header = on_header,
                             .header_arg = l,
                             .quiet_ms = 3 * HOLD_MS};

    l->final = false;
    return client_do(c, &q, answer, ret_err);
}

int follow_log(struct client *c, uint64_t job, uint64_t part, unsigned streams, bool follow,
               struct err *ret_err)
{
    struct log_reader l = {.streams = streams,
                           .tty = {false, isatty(STDOUT_FILENO), isatty(STDERR_FILENO)}};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    bool answered = false, told = false;
    int r;

    for (;;) {
        uint64_t before = l.offset;

        r = ask(c, &l, job, part, follow, &answer, ret_err);
        if (l.write_error || l.bad)
            break;
        if ((r || answer.status >= 500) && answered && follow && client_may_retry(c)) {
            if (!told)
                fprintf(stderr, "yado: logs: the master does not answer; waiting for it\n");
            told = true;
            cli_pause_ms(RETRY_MS);
            continue;
        }
        if (r)
            break;
        answered = true;
        told = false;
        if (answer.status == 416) {
            go_back(&l);
            continue;
        }
        if (answer.status < 200 || answer.status > 299) {
            r = client_refusal(c, &answer, ret_err);
            break;
        }
        l.cuts = l.said_cuts; /* also where it had no bytes */
        if (l.offset >= l.end && (l.final || !follow))
            break;
        if (l.offset == before && !follow)
            break; /* no master says so: not to ask it for ever */
    }
    buf_deinit(&l.pending);
    if (r == 0 && !follow && l.end == 0)
        fprintf(stderr, "yado: logs: nothing is written%s\n",
                l.final ? "" : " yet; `yado job` shows how it is");
    if (l.write_error)
        return err_set(ret_err, l.write_error, "writing: %s", strerror(-l.write_error));
    if (l.bad)
        return err_set(ret_err, -EBADMSG, "the log is damaged at byte %" PRIu64, l.offset);
    return r;
}

/* ---- states ---------------------------------------------------------------------------------- */

static bool is_final(const char *state)
{
    return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 ||
           strcmp(state, "cancelled") == 0;
}

/* What a shell would have got: the first failed part's own status. */
static int status_of(const json_t *job)
{
    const json_t *part;
    size_t i;

    if (strcmp(cli_text(job, "state"), "done") == 0)
        return 0;
    json_array_foreach(json_object_get(job, "parts_list"), i, part)
    {
        int status = (int)cli_int(part, "exit_status");

        if (strcmp(cli_text(part, "state"), "failed") == 0 && status > 0)
            return WIFEXITED(status)     ? WEXITSTATUS(status)
                   : WIFSIGNALED(status) ? 128 + WTERMSIG(status)
                                         : 1;
    }
    return 1;
}

int follow_job(struct client *c, uint64_t job, int *ret_status, struct err *ret_err)
{
    char last[32] = "";

    for (;;) {
        AUTO_JSON json_t *reply = NULL;
        int r = client_get(c, &reply, ret_err, "/v1/jobs/%" PRIu64, job);
        uint64_t then = (uint64_t)cli_int(reply, "then_job");
        const char *state = cli_text(reply, "state");

        if (r && !(*last && client_may_retry(c)))
            return r;
        if (r == 0 && strcmp(last, state) != 0) {
            AUTO_FREE char *clean = text_clean(state);

            fprintf(stderr, "yado: job %" PRIu64 ": %s\n", job, clean);
            snprintf(last, sizeof last, "%s", state);
        }
        if (r == 0 && is_final(state) && (strcmp(state, "done") != 0 || !then)) {
            *ret_status = status_of(reply);
            return 0;
        }
        if (r == 0 && is_final(state)) {
            job = then;
            last[0] = 0;
        } else {
            cli_pause_ms(RETRY_MS);
        }
    }
}
