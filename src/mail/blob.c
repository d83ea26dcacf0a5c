/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs of a group, by name: the first put wins. Their bytes are the depot's.
 */
#include "mail/internal.h"

#include "base/cursor.h"

#include <errno.h>

const struct mail_blob *mail_blob_find(const struct mail *m, uint64_t job, const char *name)
{
    const struct group *g = group_find(m, job);

    for (size_t i = 0; g && i < g->count_blobs; i++)
        if (strcmp(g->blobs[i].name, name) == 0)
            return &g->blobs[i];
    return NULL;
}

static void add(struct mail *m, struct group *g, const struct mail_blob *blob)
{
    if (g->count_blobs == g->cap_blobs) {
        g->cap_blobs = g->cap_blobs ? 2 * g->cap_blobs : 8;
        g->blobs = xreallocarray(g->blobs, g->cap_blobs, sizeof *g->blobs);
    }
    g->blobs[g->count_blobs++] = *blob;
    m->live_bytes += sizeof *blob;
}

static void append(const struct group *g, const struct mail_blob *b, const struct mail_sink *sink)
{
    AUTO_BUF struct buf body = {0};
    struct mail_record record = {.kind = MAIL_RECORD_BLOB, .job = g->job};

    buf_put_u64(&body, b->bytes);
    buf_put(&body, b->digest, sizeof b->digest);
    buf_put_str(&body, b->name);
    record.body = body.data;
    record.len = (uint32_t)body.len;
    (void)sink->append(sink->arg, &record, 0);
}

enum mail_blob_outcome mail_blob_put(struct mail *m, uint64_t job, const struct mail_blob *blob,
                                     const struct mail_sink *sink)
{
    struct group *g = group_find(m, job);
    const struct mail_blob *have = mail_blob_find(m, job, blob->name);

    if (!g)
        return MAIL_BLOB_NO_GROUP;
    if (have) /* a put that is made again after going back is the same one */
        return memcmp(have->digest, blob->digest, sizeof have->digest) == 0 ? MAIL_BLOB_PUT
                                                                            : MAIL_BLOB_EXISTS;
    if (g->count_blobs == MAIL_BLOBS_MAX)
        return MAIL_BLOB_TOO_MANY;
    add(m, g, blob);
    append(g, blob, sink);
    return MAIL_BLOB_PUT;
}

int blob_load(struct mail *m, struct group *g, const struct mail_record *r)
{
    struct cursor c = cursor_of(r->body, r->len);
    struct mail_blob b = {.bytes = cursor_u64(&c)};
    const uint8_t *digest = cursor_bytes(&c, sizeof b.digest);
    size_t len = cursor_left(&c);
    const char *name = (const char *)cursor_bytes(&c, len);

    if (c.bad || !mail_blob_name_is_good(name, len))
        return -EBADMSG;
    memcpy(b.digest, digest, sizeof b.digest);
    memcpy(b.name, name, len);
    if (!mail_blob_find(m, g->job, b.name))
        add(m, g, &b);
    return 0;
}

bool mail_refers_to(const struct mail *m, const uint8_t digest[MAIL_DIGEST_BYTES])
{
    for (const struct group *g = m->first; g; g = g->next)
        for (size_t i = 0; i < g->count_blobs; i++)
            if (memcmp(g->blobs[i].digest, digest, MAIL_DIGEST_BYTES) == 0)
                return true;
    return false;
}
