/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor's layers between their making and the master's record of them; the main thread's.
 */
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void made_init(struct made *m, const char *dir, const char *key, const struct blob_source *source,
               int wake_fd)
{
    *m = (struct made){.dir = dir, .key = key, .source = source, .wake_fd = wake_fd};
    m->uploader = uploader_new(source, wake_fd);
}

char *made_path(const char *dir, const char *digest)
{
    return xasprintf("%s/%s.layer", dir, digest);
}

void made_add(struct made *m, const struct sync_layer *layer)
{
    AUTO_FREE char *path = made_path(m->dir, layer->digest);

    m->layers = xreallocarray(m->layers, m->count + 1, sizeof *m->layers);
    m->layers[m->count++] = *layer;
    uploader_add(m->uploader, path, layer->digest, layer->size, m->key);
}

struct draft *made_follow(struct made *m)
{
    struct draft *draft = draft_new();

    uploader_follow(m->uploader, draft);
    return draft;
}

bool made_update(struct made *m)
{
    size_t done, before = m->count_durable;

    if (m->abandoned)
        return false;
    done = uploader_count_done(m->uploader) - m->count_before;
    m->count_durable = done;
    return done > before;
}

static void remove_file(const struct made *m, size_t i)
{
    AUTO_FREE char *path = made_path(m->dir, m->layers[i].digest);

    if (unlink(path) && errno != ENOENT)
        log_warn("cannot remove %s: %s", path, strerror(errno));
}

static void forget_first(struct made *m)
{
    remove_file(m, 0);
    m->count--;
    m->count_durable--;
    m->count_before++;
    memmove(m->layers, m->layers + 1, m->count * sizeof *m->layers);
}

bool made_recorded(struct made *m, const char *digest)
{
    size_t n = 0;

    for (size_t i = 0; i < m->count_durable; i++)
        if (strcmp(m->layers[i].digest, digest) == 0)
            n = i + 1;
    for (size_t i = 0; i < n; i++)
        forget_first(m);
    return n;
}

bool made_all_durable(const struct made *m)
{
    return m->count_durable == m->count;
}

uint64_t made_unsent_bytes(const struct made *m)
{
    uint64_t bytes = 0;

    for (size_t i = m->count_durable; i < m->count; i++)
        bytes += m->layers[i].size;
    return bytes;
}

static void end_uploads(struct made *m)
{
    uploader_free(m->uploader);
    m->uploader = uploader_new(m->source, m->wake_fd);
}

void made_abandon(struct made *m)
{
    end_uploads(m);
    m->count = m->count_durable;
    m->abandoned = true;
}

void made_discard(struct made *m)
{
    for (size_t i = m->count_durable; i < m->count; i++)
        remove_file(m, i);
    made_abandon(m);
}

void made_restart(struct made *m)
{
    end_uploads(m);
    for (size_t i = 0; i < m->count; i++)
        remove_file(m, i);
    m->count = m->count_durable = m->count_before = 0;
}
