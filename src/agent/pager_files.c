/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pager serves; see pager_files.h.
 */
#include "agent/pager_files.h"
#include "base/buf.h"
#include "base/must.h"
#include "host/blob_cache.h"
#include "host/digest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int add_blob(struct pager_config *c, const char *digest, uint64_t size, size_t *ret_index,
                    struct err *ret_err)
{
    if (!digest_is_valid(digest))
        return err_set(ret_err, -EINVAL, "\"%.80s\" is not the digest of a blob", digest);
    for (size_t i = 0; i < c->count_blobs; i++)
        if (strcmp(c->blobs[i].digest, digest) == 0) {
            *ret_index = i;
            return c->blobs[i].size == size
                       ? 0
                       : err_set(ret_err, -EINVAL, "blob %s has two lengths", digest);
        }
    c->blobs = xreallocarray(c->blobs, c->count_blobs + 1, sizeof *c->blobs);
    memcpy(c->blobs[c->count_blobs].digest, digest, DIGEST_HEX_BYTES);
    c->blobs[c->count_blobs].size = size;
    c->blobs[c->count_blobs].layer = c->blobs[c->count_blobs].is_own = false;
    *ret_index = c->count_blobs++;
    return 0;
}

static int parse_extents(struct pager_config *c, struct pager_file *f, json_t *list,
                         struct err *ret_err)
{
    uint64_t end = 0;
    json_t *item;
    size_t i;

    f->extents = xcalloc(json_array_size(list) + 1, sizeof *f->extents);
    json_array_foreach(list, i, item)
    {
        json_int_t offset = -1, length = -1;
        const char *digest = "";
        struct pager_extent *e = &f->extents[f->count_extents];
        int r;

        if (json_unpack(item, "{s:I, s:s, s:I !}", "offset", &offset, "blob", &digest, "length",
                        &length) ||
            offset < 0 || length < 0 || (uint64_t)offset < end || (uint64_t)offset > f->size ||
            (uint64_t)length > f->size - (uint64_t)offset)
            return err_set(ret_err, -EINVAL,
                           "file %s: extent %zu must be {offset, blob, length}, in order and "
                           "inside the file",
                           f->name, i);
        r = add_blob(c, digest, (uint64_t)length, &e->blob, ret_err);
        if (r)
            return r;
        e->offset = (uint64_t)offset;
        e->length = (uint64_t)length;
        end = e->offset + e->length;
        f->count_extents += e->length > 0;
    }
    return 0;
}

static int parse_chain(struct pager_config *c, struct pager_file *f, json_t *list,
                       struct err *ret_err)
{
    json_t *item;
    size_t i;

    if (json_array_size(list) == 0 || json_array_size(list) > PAGER_CHAIN_MAX)
        return err_set(ret_err, -EINVAL, "file %s: a chain has 1 to %d layers", f->name,
                       PAGER_CHAIN_MAX);
    for (i = 0; i + 1 < c->count_files; i++)
        if (c->files[i].chain)
            return err_set(ret_err, -EINVAL, "file %s: a second chain", f->name);
    f->chain = xcalloc(json_array_size(list), sizeof *f->chain);
    json_array_foreach(list, i, item)
    {
        struct pager_layer *l = &f->chain[i];
        const char *digest = "";
        json_int_t size = -1;
        int r;

        if (json_unpack(item, "{s:s, s:I, s?s !}", "digest", &digest, "size", &size, "stands_for",
                        &l->name) ||
            size < 0 || (l->name && !digest_is_valid(l->name)))
            return err_set(ret_err, -EINVAL,
                           "file %s: layer %zu must be {digest, size} and perhaps stands_for",
                           f->name, i);
        r = add_blob(c, digest, (uint64_t)size, &l->blob, ret_err);
        if (r)
            return r;
        if (!l->name)
            l->name = digest;
        c->blobs[l->blob].layer = true;
        c->blobs[l->blob].is_own = i > 0;
        f->count_chain++;
    }
    return 0;
}

static int parse_file(struct pager_config *c, json_t *item, struct err *ret_err)
{
    struct pager_file *f = &c->files[c->count_files];
    const char *name = "";
    json_int_t size = -1;
    json_t *extents = NULL, *chain = NULL;

    if (json_unpack(item, "{s:s, s:I, s?o, s?o !}", "name", &name, "size", &size, "extents",
                    &extents, "chain", &chain) ||
        size < 0 || json_is_array(extents) == json_is_array(chain) || !str_is_name(name) ||
        strlen(name) >= sizeof f->name)
        return err_set(ret_err, -EINVAL, "file %zu must be {name, size, extents or chain}",
                       c->count_files);
    memcpy(f->name, name, strlen(name) + 1);
    f->size = (uint64_t)size;
    c->count_files++; /* before its extents, so that deinit frees them */
    return chain ? parse_chain(c, f, chain, ret_err) : parse_extents(c, f, extents, ret_err);
}

int pager_config_parse(json_t *json, struct pager_config *ret, struct err *ret_err)
{
    json_t *files = NULL, *item;
    json_int_t uid = -1, gid = -1;
    int allow_other = 0;
    size_t i;

    *ret = (struct pager_config){.json = json_incref(json), .key = ""};
    if (json_unpack(json, "{s:s, s:s, s:s, s:s, s:s, s?b, s?I, s?I, s?s, s?s, s?s, s:o !}", "mount",
                    &ret->mount, "url", &ret->url, "ca_file", &ret->ca_file, "grant", &ret->grant,
                    "cache_dir", &ret->cache_dir, "allow_other", &allow_other, "uid", &uid, "gid",
                    &gid, "hot_file", &ret->hot_file, "log", &ret->log, "key", &ret->key, "files",
                    &files) ||
        !json_is_array(files))
        return err_set(ret_err, -EINVAL,
                       "the pager needs {mount, url, ca_file, grant, cache_dir, allow_other, "
                       "files} and nothing else but uid, gid, hot_file, log and key");
    ret->allow_other = allow_other;
    ret->uid = uid;
    ret->gid = gid;
    if (!str_ends(ret->url, "/"))
        return err_set(ret_err, -EINVAL, "url %.200s must end with a slash", ret->url);
    if (json_array_size(files) > PAGER_FILES_MAX)
        return err_set(ret_err, -EINVAL, "more than %d files", PAGER_FILES_MAX);
    json_array_foreach(files, i, item)
    {
        int r = parse_file(ret, item, ret_err);

        if (r)
            return r;
    }
    return 0;
}

void pager_config_deinit(struct pager_config *c)
{
    for (size_t i = 0; i < c->count_files; i++) {
        free(c->files[i].extents);
        free(c->files[i].chain);
    }
    free(c->blobs);
    json_decref(c->json);
    *c = (struct pager_config){0};
}

struct pager_piece pager_piece_at(const struct pager_file *f, uint64_t offset, uint64_t max)
{
    uint64_t until = f->size;
    size_t low = 0, high = f->count_extents;

    MUST(offset < f->size && max > 0);
    while (low < high) { /* the first extent that begins behind offset */
        size_t mid = (low + high) / 2;

        if (f->extents[mid].offset > offset)
            high = mid;
        else
            low = mid + 1;
    }
    if (low < f->count_extents)
        until = f->extents[low].offset;
    if (low > 0 && offset - f->extents[low - 1].offset < f->extents[low - 1].length) {
        const struct pager_extent *e = &f->extents[low - 1];
        uint64_t in = offset - e->offset;
        uint64_t block_left = BLOB_BLOCK_BYTES - in % BLOB_BLOCK_BYTES;
        uint64_t left = e->length - in < block_left ? e->length - in : block_left;

        return (struct pager_piece){
            .length = left < max ? left : max, .blob = e->blob, .blob_offset = in};
    }
    return (struct pager_piece){.length = until - offset < max ? until - offset : max,
                                .zeros = true};
}
