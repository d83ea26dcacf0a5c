/* SPDX-License-Identifier: Apache-2.0
 *
 * yado results: fetches what a job left in /out. Everything is fetched and unpacked into a
 * temporary folder beside the wanted one, which takes its name only when all of it is there.
 */
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/tarball.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SIZE_LIMIT_DEFAULT (100ull << 30)

struct results {
    const struct command *cmd;
    struct client *client;
    uint64_t job;
    uint64_t part; /* when one_part */
    bool one_part;
    uint64_t max_bytes;
    const char *dir; /* or the tar file */
};

/* ---- fetching -------------------------------------------------------------------------------- */

static int to_file(void *arg, const void *data, size_t len)
{
    const char *p = data;

    while (len) {
        ssize_t n = write(*(int *)arg, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return errno ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int fetch(struct results *q, uint64_t part, int fd, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("/v1/jobs/%" PRIu64 "/parts/%" PRIu64 "/result", q->job, part);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct http_request get = {
        .method = "GET", .url = path, .sink = to_file, .sink_arg = &fd, .quiet_ms = 60000};
    int r = client_do(q->client, &get, &answer, ret_err);

    if (r == 0 && (answer.status < 200 || answer.status > 299))
        r = client_refusal(q->client, &answer, ret_err);
    return r;
}

/* ---- the job's state ------------------------------------------------------------------------- */

static bool has_result(const json_t *part)
{
    return cli_int(part, "result_bytes") > 0;
}

static const json_t *find_part(const json_t *job, uint64_t index)
{
    const json_t *part;
    size_t i;

    json_array_foreach(json_object_get(job, "parts_list"), i, part)
    {
        if ((uint64_t)cli_int(part, "part") == index)
            return part;
    }
    return NULL;
}

static bool is_final(const char *state)
{
    return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 ||
           strcmp(state, "cancelled") == 0;
}

/* Whether there is something to fetch; a job that still runs is refused as a whole. */
static int check_ready(struct results *q, const json_t *job, struct err *ret_err)
{
    const json_t *list = json_object_get(job, "parts_list"), *part;
    size_t i, with = 0;

    json_array_foreach(list, i, part)
    {
        const char *state = cli_text(part, "state");

        if (q->one_part && (uint64_t)cli_int(part, "part") != q->part)
            continue;
        if (!is_final(state))
            return err_set(ret_err, -EAGAIN,
                           "part %" PRId64 " of job %" PRIu64 " is %s; wait for its end, or fetch "
                           "a part that has ended with --part",
                           cli_int(part, "part"), q->job, state);
        with += has_result(part);
    }
    if (q->one_part && !find_part(job, q->part))
        return err_set(ret_err, -ENOENT, "job %" PRIu64 " has no part %" PRIu64 ", only 0 to %zu",
                       q->job, q->part, json_array_size(list) - 1);
    if (!with)
        return err_set(ret_err, -ENOENT,
                       "job %" PRIu64 " (%s) left nothing in /out; see yado logs %" PRIu64, q->job,
                       cli_text(job, "state"), q->job);
    return 0;
}

/* ---- unpacking ------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path) < 0 ? -1 : 0;
}

static int explain(struct results *q, uint64_t part, int r, struct err *e)
{
    char said[sizeof e->text];

    memcpy(said, e->text, sizeof said);
    if (r == -EFBIG)
        return err_set(e, r, "%.300s; if you expect that: --max-size SIZE", said);
    if (r == -EPERM || r == -EBADMSG)
        return err_set(e, r,
                       "%.300s; nothing was unpacked; to look at it as it is: yado results "
                       "%" PRIu64 " --part %" PRIu64 " --tar FILE",
                       said, q->job, part);
    return r;
}

static int unpack_part(struct results *q, uint64_t part, const char *dir, struct err *ret_err)
{
    AUTO_CLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO_CLOSE int tar = -1;
    int r;

    if (dir_fd >= 0)
        tar = openat(dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (tar < 0)
        return err_set(ret_err, -errno, "%s: %s", dir, strerror(errno));
    r = fetch(q, part, tar, ret_err);
    if (r == 0 && lseek(tar, 0, SEEK_SET) < 0)
        r = err_set(ret_err, -errno, "%s: %s", dir, strerror(errno));
    if (r)
        return r;
    return explain(q, part, tarball_unpack(tar, dir_fd, q->max_bytes, ret_err), ret_err);
}

static int unpack_all(struct results *q, const json_t *job, const char *temp, struct err *ret_err)
{
    const json_t *part;
    size_t i;
    int r = 0;

    if (q->one_part || json_array_size(json_object_get(job, "parts_list")) == 1)
        return unpack_part(q, q->part, temp, ret_err);
    json_array_foreach(json_object_get(job, "parts_list"), i, part)
    {
        int64_t index = cli_int(part, "part");
        AUTO_FREE char *dir = xasprintf("%s/part-%" PRId64, temp, index);

        if (!has_result(part)) {
            fprintf(stderr, "yado: results: part %" PRId64 " (%s) left nothing in /out\n", index,
                    cli_text(part, "state"));
            continue;
        }
        if (mkdir(dir, 0777) < 0)
            return err_set(ret_err, -errno, "%s: %s", dir, strerror(errno));
        r = unpack_part(q, (uint64_t)index, dir, ret_err);
        if (r)
            return r;
    }
    return r;
}

/* A folder that is there must be empty: what is in it is not ours to mix with. */
static int check_target(const char *dir, struct err *ret_err)
{
    DIR *d = opendir(dir);
    const struct dirent *entry;
    int r = 0;

    if (!d)
        return errno == ENOENT ? 0 : err_set(ret_err, -errno, "%s: %s", dir, strerror(errno));
    while (r == 0 && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            r = err_set(ret_err, -EEXIST, "%s is not empty; name a folder that does not exist yet",
                        dir);
    closedir(d);
    return r;
}

static int fetch_dir(struct results *q, const json_t *job, struct err *ret_err)
{
    AUTO_FREE char *dir = xstrdup(q->dir);
    AUTO_FREE char *temp = NULL;
    mode_t mask = umask(0);
    int r;

    (void)umask(mask);
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/'; n--)
        dir[n - 1] = 0;
    r = check_target(dir, ret_err);
    if (r)
        return r;
    temp = xasprintf("%s.yado-XXXXXX", dir);
    if (!mkdtemp(temp))
        return err_set(ret_err, -errno, "no folder can be made beside %s: %s", dir,
                       strerror(errno));
    r = unpack_all(q, job, temp, ret_err);
    if (r == 0 && (chmod(temp, 0777 & ~mask) < 0 || rename(temp, dir) < 0))
        r = err_set(ret_err, -errno, "%s: %s", dir, strerror(errno));
    if (r)
        (void)nftw(temp, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return r;
}

/* The tar of one part, untouched. */
static int fetch_tar(struct results *q, struct err *ret_err)
{
    AUTO_FREE char *temp = xasprintf("%s.yado-XXXXXX", q->dir);
    AUTO_CLOSE int fd = mkostemp(temp, O_CLOEXEC);
    int r;

    if (fd < 0)
        return err_set(ret_err, -errno, "%s: %s", q->dir, strerror(errno));
    r = fetch(q, q->part, fd, ret_err);
    if (r == 0 && (fsync(fd) < 0 || link(temp, q->dir) < 0))
        r = err_set(ret_err, -errno, "%s: %s", q->dir, strerror(errno));
    (void)unlink(temp); /* linked, or in vain */
    return r;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int fetch_results(struct results *q, bool tar, struct err *ret_err)
{
    AUTO_JSON json_t *job = NULL;
    int r = client_get(q->client, &job, ret_err, "/v1/jobs/%" PRIu64, q->job);

    if (r == 0 && tar && json_array_size(json_object_get(job, "parts_list")) == 1)
        q->one_part = true;
    if (r == 0 && tar && !q->one_part)
        r = err_set(ret_err, -EINVAL, "--tar takes one part: add --part N");
    if (r == 0)
        r = check_ready(q, job, ret_err);
    if (r)
        return r;
    return tar ? fetch_tar(q, ret_err) : fetch_dir(q, job, ret_err);
}

static int run_results(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    struct results q = {.cmd = cmd, .max_bytes = SIZE_LIMIT_DEFAULT};
    const char *tar = NULL;
    struct err e;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 't') {
            tar = optarg;
        } else if (c == 'p') {
            q.one_part = true;
            if (!cli_number(cmd, "a part", optarg, &q.part))
                return CLI_USAGE;
        } else if (num_parse_size(optarg, &q.max_bytes) < 0) {
            return cli_usage(cmd, "--max-size: such as 200G, not \"%s\"", optarg);
        }
    }
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, tar ? 1 : 2, tar ? 1 : 2) ||
        !cli_number(cmd, "a job", argv[optind], &q.job))
        return CLI_USAGE;
    q.dir = tar ? tar : argv[optind + 1];
    if (client_open(&client, &e))
        return cli_fail(cmd, &e);
    q.client = client;
    return fetch_results(&q, tar, &e) ? cli_fail(cmd, &e) : CLI_OK;
}

static const struct option results_options[] = {{"part", required_argument, NULL, 'p'},
                                                {"tar", required_argument, NULL, 't'},
                                                {"max-size", required_argument, NULL, 's'},
                                                {NULL, 0, NULL, 0}};
const struct command cmd_results = {
    "results",
    "fetch what a job left in /out",
    "ID DIR [--part N] [--max-size SIZE]\nID --tar FILE [--part N]",
    "Fetches the result of a job that has ended into DIR, which must not exist or be empty.\n"
    "A job of several parts gives DIR/part-0, DIR/part-1, ...\n"
    "\n"
    "  --part N         only that part, straight into DIR\n"
    "  --max-size SIZE  refuse a part that is larger when unpacked, holes included (100G)\n"
    "  --tar FILE       save one part's tar file as it is instead\n"
    "\n"
    "A result comes from a program that may be hostile: paths and links that leave DIR,\n"
    "devices and set-user-ID files are refused, and then nothing is unpacked at all.",
    NULL,
    results_options,
    run_results};
