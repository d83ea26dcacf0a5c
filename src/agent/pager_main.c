/* SPDX-License-Identifier: Apache-2.0
 *
 * `yado pager`: read-only files on a FUSE mount whose bytes come from the master on demand
 * (docs/protocol.md "Pager"). One process a VM, the child of its supervisor.
 *
 * The main thread answers the kernel and reads the control lines; reads that miss complete in the
 * workers of pager_store. Order at the start: open the cache's files, mount, give up rights, then
 * the first byte from the network. When it has changed its user it cannot unmount: its parent
 * does that in any case, since it must do so for a pager that was killed.
 */
#define FUSE_USE_VERSION 31
#include "agent/commands.h"
#include "agent/pager_memory.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/sched.h"
#include "base/title.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_MAX = 16 * 1024 * 1024, FIRST_FILE_INO = 2 };
/* Contents never change: the kernel may keep what it has seen. */
static const double FOR_EVER = 1e6;

struct pager {
    struct pager_config config;
    struct pager_store *store;
    struct pager_memory *memory; /* NULL: no file of this kind */
    struct fuse_session *session;
    struct buf in; /* of standard input */
};

/* ---- the kernel's requests ---- */

static const struct pager_file *file_of(const struct pager *p, fuse_ino_t ino)
{
    return ino >= FIRST_FILE_INO && ino - FIRST_FILE_INO < p->config.count_files
               ? &p->config.files[ino - FIRST_FILE_INO]
               : NULL;
}

static int fill_stat(const struct pager *p, fuse_ino_t ino, struct stat *ret)
{
    const struct pager_file *f = file_of(p, ino);

    *ret = (struct stat){.st_ino = ino, .st_nlink = 1};
    if (ino == FUSE_ROOT_ID)
        ret->st_mode = S_IFDIR | 0555;
    else if (f)
        ret->st_mode = S_IFREG | 0444;
    else
        return ENOENT;
    if (f) {
        ret->st_size = (off_t)f->size;
        ret->st_blocks = (blkcnt_t)((f->size + 511) / 512);
    }
    return 0;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct pager *p = fuse_req_userdata(req);

    for (size_t i = 0; parent == FUSE_ROOT_ID && i < p->config.count_files; i++)
        if (strcmp(p->config.files[i].name, name) == 0) {
            struct fuse_entry_param e = {
                .ino = FIRST_FILE_INO + i, .attr_timeout = FOR_EVER, .entry_timeout = FOR_EVER};

            (void)fill_stat(p, e.ino, &e.attr); /* the file is there */
            fuse_reply_entry(req, &e);
            return;
        }
    fuse_reply_err(req, ENOENT);
}

static void on_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    int error = fill_stat(fuse_req_userdata(req), ino, &st);

    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_attr(req, &st, FOR_EVER);
}

static void on_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    const struct pager_file *f = file_of(fuse_req_userdata(req), ino);

    if (!f)
        fuse_reply_err(req, EISDIR);
    else if ((fi->flags & O_ACCMODE) != O_RDONLY && !f->chain)
        fuse_reply_err(req, EROFS); /* QEMU before 8.2 opens its memory for writing as well */
    else {
        fi->keep_cache = 1;
        fi->noflush = 1; /* a close asks nothing: one of our own could not be answered at the end */
        fuse_reply_open(req, fi);
    }
}

/* For those who look around in the mount by hand. */
static void on_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *fi)
{
    struct pager *p = fuse_req_userdata(req);
    AUTO_FREE char *out = xmalloc(size + 1);
    size_t used = 0;

    if (ino != FUSE_ROOT_ID) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    for (size_t i = (size_t)offset; i < p->config.count_files; i++) {
        struct stat st;
        size_t n;

        (void)fill_stat(p, FIRST_FILE_INO + i, &st); /* the file is there */
        n = fuse_add_direntry(req, out + used, size - used, p->config.files[i].name, &st,
                              (off_t)i + 1);
        if (n > size - used)
            break;
        used += n;
    }
    fuse_reply_buf(req, out, used);
}

static void read_done(struct pager_read *read, int error)
{
    fuse_req_t req = read->arg;
    struct pager *p = fuse_req_userdata(req);
    AUTO_FREE uint8_t *data = error ? NULL : xmalloc(read->length);
    int r = -error;

    if (!error)
        r = read->file->chain ? pager_memory_copy(p->memory, read, fuse_req_ctx(req)->pid, data)
                              : pager_store_copy(p->store, read, data);
    if (r == -EAGAIN)
        return; /* it comes here once more */
    if (r)
        fuse_reply_err(req, -r);
    else
        fuse_reply_buf(req, (const char *)data, read->length);
    pager_read_free(read);
}

static void on_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                    struct fuse_file_info *fi)
{
    struct pager *p = fuse_req_userdata(req);
    const struct pager_file *f = file_of(p, ino);
    struct pager_read *read;

    if (!f || offset < 0 || (f->chain && (size | (size_t)offset) % LAYER_PAGE_BYTES)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if ((uint64_t)offset >= f->size || size == 0) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    if (size > f->size - (uint64_t)offset)
        size = (size_t)(f->size - (uint64_t)offset);
    read = xcalloc(1, sizeof *read);
    *read = (struct pager_read){.file = f,
                                .offset = (uint64_t)offset,
                                .length = (uint32_t)size,
                                .done = read_done,
                                .arg = req};
    if (f->chain)
        pager_memory_read(p->memory, read);
    else
        pager_store_read(p->store, read);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
    .readdir = on_readdir,
};

/* ---- standard input ---- */

/* 0, -EPIPE at its end, or -errno. */
static int read_input(struct buf *in)
{
    ssize_t n;

    if (in->len > CONFIG_MAX)
        return -EMSGSIZE;
    do
        n = read(STDIN_FILENO, buf_reserve(in, 65536), 65536);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    in->len += (size_t)n;
    return n ? 0 : -EPIPE;
}

/* The next line without its end, owned by the caller, or NULL. */
static char *next_line(struct buf *in)
{
    const uint8_t *end = in->len ? memchr(in->data, '\n', in->len) : NULL;
    char *line;

    if (!end)
        return NULL;
    line = xstrndup((const char *)in->data, (size_t)(end - in->data));
    buf_consume(in, strlen(line) < (size_t)(end - in->data) ? (size_t)(end - in->data) + 1
                                                            : strlen(line) + 1);
    return line;
}

static int read_config(struct pager *p, struct err *ret_err)
{
    AUTO_FREE char *line = NULL;
    json_error_t e;
    json_t *json;
    int r = 0;

    while (r == 0 && !(line = next_line(&p->in)))
        r = read_input(&p->in);
    if (!line)
        return err_set(ret_err, -EINVAL, "standard input ended before the configuration");
    json = json_loads(line, JSON_REJECT_DUPLICATES, &e);
    if (!json)
        return err_set(ret_err, -EINVAL, "the configuration is not JSON: %s", e.text);
    r = pager_config_parse(json, &p->config, ret_err);
    json_decref(json);
    return r;
}

static void handle_line(struct pager *p, const char *line)
{
    if (strcmp(line, "fail") == 0 || strcmp(line, "serve") == 0)
        pager_store_set_failing(p->store, line[0] == 'f');
    else if (strcmp(line, "ahead") == 0)
        pager_store_follow_plan(p->store);
    else if (strcmp(line, "hot") != 0)
        log_warn("unknown control line \"%.40s\"", line);
    else if (p->memory)
        pager_memory_write_hot(p->memory);
}

/* ---- life ---- */

/* It may have been started before it was known whose it would be. */
static void take_name(const struct pager_config *c, int argc, char **argv)
{
    AUTO_CLOSE int log =
        c->log ? open(c->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;

    title_set(argc, argv, c->mount);
    if (c->log && (log < 0 || dup2(log, STDERR_FILENO) < 0))
        log_warn("%s: %s", c->log, strerror(errno));
}

static int mount_files(struct pager *p, struct err *ret_err)
{
    /* Not "ro", since that would refuse an open for writing; there is nothing that writes. */
    char *options = xasprintf("-onosuid,nodev,fsname=yado,subtype=yado%s",
                              p->config.allow_other ? ",allow_other" : "");
    char *args[] = {"yado-pager", options, NULL};
    struct fuse_args fuse_args = FUSE_ARGS_INIT(2, args);
    int r = 0;

    p->session = fuse_session_new(&fuse_args, &operations, sizeof operations, p);
    if (!p->session || fuse_session_mount(p->session, p->config.mount))
        r = err_set(ret_err, -EIO,
                    "%s: cannot mount (is /dev/fuse there, and fusermount3 for a normal user?)",
                    p->config.mount);
    fuse_opt_free_args(&fuse_args);
    free(options);
    return r;
}

static int give_up_rights(const struct pager_config *c, struct err *ret_err)
{
    if (c->gid >= 0 && (setgroups(0, NULL) || setgid((gid_t)c->gid)))
        return err_set(ret_err, -errno, "cannot become group %lld: %s", (long long)c->gid,
                       strerror(errno));
    if (c->uid >= 0 && setuid((uid_t)c->uid))
        return err_set(ret_err, -errno, "cannot become user %lld: %s", (long long)c->uid,
                       strerror(errno));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return err_set(ret_err, -errno, "cannot give up rights: %s", strerror(errno));
    return 0;
}

/* Until standard input ends or somebody else unmounts. */
static void serve(struct pager *p)
{
    struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                           {.fd = fuse_session_fd(p->session), .events = POLLIN}};
    struct fuse_buf request = {0};
    bool more = true;

    (void)sched_set_prompt(0, 0); /* the guest waits for each answer; not a must */
    while (more && !fuse_session_exited(p->session)) {
        char *line;

        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[0].revents && read_input(&p->in))
            more = false;
        while ((line = next_line(&p->in))) {
            handle_line(p, line);
            free(line);
        }
        if (more && fds[1].revents) {
            int n = fuse_session_receive_buf(p->session, &request);

            if (n > 0)
                fuse_session_process_buf(p->session, &request);
            else if (n != -EINTR && n != -EAGAIN)
                more = false;
        }
    }
    free(request.mem);
}

/* Opens files with the rights that the process still has. */
static int open_files(struct pager *p, struct err *ret_err)
{
    int r = pager_store_new(&p->config, &p->store, ret_err);

    for (size_t i = 0; r == 0 && i < p->config.count_files; i++)
        if (p->config.files[i].chain)
            r = pager_memory_new(&p->config, &p->config.files[i], p->store, &p->memory, ret_err);
    return r;
}

static void start_and_serve(struct pager *p)
{
    pager_store_start(p->store);
    if (p->memory)
        pager_memory_start(p->memory);
    if (printf("ready\n") < 0 || fflush(stdout))
        log_warn("nobody hears that the mount is ready");
    serve(p);
    /* Reads that wait are answered before the session, which their answers go through, ends. */
    pager_store_stop(p->store);
    if (p->memory)
        pager_memory_stop(p->memory);
}

int yado_pager_main(int argc, char **argv)
{
    struct pager p = {0};
    struct err err;
    bool mounted = false;
    int r;

    log_set_name("pager");
    (void)prctl(PR_SET_NAME, "yado-pager"); /* for people who look */
    (void)signal(SIGPIPE, SIG_IGN);
    r = read_config(&p, &err);
    if (r == 0)
        take_name(&p.config, argc, argv);
    if (r == 0)
        r = open_files(&p, &err);
    if (r == 0)
        r = mount_files(&p, &err);
    mounted = r == 0;
    if (r == 0)
        r = give_up_rights(&p.config, &err);
    if (r == 0)
        start_and_serve(&p);
    else
        log_error("%s", err.text);
    if (mounted && p.config.uid >= 0)
        _exit(r ? 1 : 0); /* libfuse would try to unmount, without the right to */
    if (mounted)
        fuse_session_unmount(p.session);
    pager_memory_free(p.memory);
    pager_store_free(p.store);
    if (p.session)
        fuse_session_destroy(p.session);
    pager_config_deinit(&p.config);
    buf_deinit(&p.in);
    return r ? 1 : 0;
}
