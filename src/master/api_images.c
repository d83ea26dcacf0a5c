/* SPDX-License-Identifier: Apache-2.0
 * /v1/images: what parts run on, made of blobs that were uploaded before. */
#include "master/api.h"

#include "depot/depot.h"
#include "master/digests.h"
#include "master/images.h"
#include "master/master.h"

#include <string.h>

static json_t *blob_json(const struct state_blob *b)
{
    char text[DIGEST_TEXT_MAX];
    if (grid_digest_is_none(&b->digest))
        return json_null();
    return json_pack("{s:s, s:o}", "digest", digest_text(&b->digest, text), "size",
                     api_u64(b->size_bytes));
}

static json_t *image_json(uint64_t id, const char *name, const struct state_image *i)
{
    return json_pack("{s:o, s:s, s:o, s:o, s:o}", "id", api_u64(id), "name", name, "kernel",
                     blob_json(&i->kernel), "initrd", blob_json(&i->initrd), "root",
                     blob_json(&i->root));
}

struct image_list {
    struct core *c;
    json_t *rows;
};

static bool add_image(void *arg, const struct grid_image *i)
{
    struct image_list *l = arg;
    struct state_image contents;
    if (!i->deleted && core_image(l->c, i->id, &contents))
        json_array_append_new(l->rows, image_json(i->id, i->name, &contents));
    return true;
}

static enum core_next images_core(struct core *c, struct req *r)
{
    struct image_list l = {c, json_array()};
    grid_each_image(core_grid(c), add_image, &l);
    return api_reply_list(r, "images", l.rows);
}

enum req_next api_images(struct req *r)
{
    return core_post(r, images_core);
}

struct blob_body {
    char digest[DIGEST_TEXT_MAX];
    uint64_t size;
};

static const struct record_type blob_body = {
    sizeof(struct blob_body),
    (const struct record_field[]){FIELD_TEXT(blob_body, digest), FIELD(blob_body, size, RECORD_U64),
                                  FIELD_END},
};

struct image_body {
    char name[GRID_NAME_MAX];
    struct blob_body kernel, initrd, root;
    struct state_image contents; /* made here; kernel and initrd may still be missing */
};

static const struct record_type image_body = {
    sizeof(struct image_body),
    (const struct record_field[]){FIELD_TEXT(image_body, name),
                                  FIELD_RECORD(image_body, kernel, &blob_body),
                                  FIELD_RECORD(image_body, initrd, &blob_body),
                                  FIELD_RECORD(image_body, root, &blob_body), FIELD_END},
};

static enum core_next image_add_core(struct core *c, struct req *r)
{
    struct image_body *b = r->data;
    struct state_image contents = b->contents, tiny = {0};
    const struct grid_image *t = grid_find_image(core_grid(c), IMAGE_BUILT_IN);
    if (t)
        (void)core_image(c, t->id, &tiny); /* left empty it is refused below */
    if (!b->kernel.digest[0])
        contents.kernel = tiny.kernel;
    if (!b->initrd.digest[0])
        contents.initrd = tiny.initrd;
    if (grid_digest_is_none(&contents.kernel.digest) ||
        grid_digest_is_none(&contents.initrd.digest)) {
        (void)req_reply_error(r, 400, "refused",
                              "this master has no built-in image to take kernel and initrd from: "
                              "name both");
        return CORE_REPLIED;
    }
    enum grid_outcome outcome = images_put(c, r, b->name, &contents);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    return api_written(c, r, 201, image_json(core_effects(c)->id, b->name, &contents));
}

/* A blob of the body: it must be in the depot. */
static bool check_blob(struct req *r, const char *key, const struct blob_body *b,
                       struct state_blob *ret)
{
    const char *text = b->digest;
    if (text[0] == '\0')
        return true;
    if (digest_parse(text, &ret->digest) < 0) {
        (void)req_reply_error(r, 400, "bad_request", "%s: a digest is 64 hexadecimal digits", key);
        return false;
    }
    int found = depot_touch(r->m->depot, ret->digest.bytes, &ret->size_bytes);
    if (found == -ENOENT)
        (void)req_reply_error(r, 400, "missing_blob",
                              "%s: blob %s is not here: upload it first (PUT /v1/blobs/%s)", key,
                              text, text);
    else if (found < 0)
        (void)req_reply_errno(r, found, "looking for a blob");
    else if (b->size && b->size != ret->size_bytes)
        (void)req_reply_error(r, 400, "bad_request", "%s: the blob has %llu bytes, not %llu", key,
                              (unsigned long long)ret->size_bytes, (unsigned long long)b->size);
    return r->status == 0;
}

enum req_next api_image_add(struct req *r)
{
    if (!api_body(r, &image_body))
        return REQ_REPLIED;
    struct image_body *b = r->data;
    if (!str_is_name(b->name))
        return req_reply_error(r, 400, "bad_request",
                               "name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
    if (strcmp(b->name, IMAGE_BUILT_IN) == 0)
        return req_reply_error(r, 409, "conflict", "%s is the built-in image: choose another name",
                               IMAGE_BUILT_IN);
    if (!check_blob(r, "kernel", &b->kernel, &b->contents.kernel) ||
        !check_blob(r, "initrd", &b->initrd, &b->contents.initrd) ||
        !check_blob(r, "root", &b->root, &b->contents.root))
        return REQ_REPLIED;
    return core_post(r, image_add_core);
}

static enum core_next image_delete_core(struct core *c, struct req *r)
{
    const struct grid_image *i = grid_find_image(core_grid(c), r->args[0]);
    if (!i) {
        char shown[GRID_NAME_MAX];
        str_sanitize(r->args[0], shown, sizeof shown);
        (void)req_reply_error(r, 404, "not_found", "there is no image \"%s\"", shown);
        return CORE_REPLIED;
    }
    struct grid_event e = {.kind = GRID_EV_IMAGE_DELETE, .image = i->id};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    return api_written(c, r, 200, json_pack("{s:s}", "name", r->args[0]));
}

enum req_next api_image_delete(struct req *r)
{
    if (strcmp(r->args[0], IMAGE_BUILT_IN) == 0)
        return req_reply_error(r, 409, "conflict", "%s is the built-in image", IMAGE_BUILT_IN);
    return core_post(r, image_delete_core);
}

/* ---- for PCs -------------------------------------------------------------------------------- */

/* Kernel or initrd of the built-in image: with them a PC proves what it can do before it is given
 * any placement, to whose blobs it would have a grant. */
static enum core_next agent_image_core(struct core *c, struct req *r)
{
    const struct grid_image *i = grid_find_image(core_grid(c), IMAGE_BUILT_IN);
    bool kernel = strcmp(r->args[0], "vmlinuz") == 0;
    struct state_image contents;
    uint64_t size;
    int fd, bad = -ENOENT;
    if ((kernel || strcmp(r->args[0], "initrd") == 0) && i && core_image(c, i->id, &contents))
        bad = depot_get(r->m->depot,
                        kernel ? contents.kernel.digest.bytes : contents.initrd.digest.bytes, &fd,
                        &size);
    if (bad)
        (void)req_reply_error(r, 404, "not_found", "this master has no built-in image");
    else
        (void)req_reply_file(r, 200, fd, 0, size, "application/octet-stream");
    return CORE_REPLIED;
}

enum req_next api_agent_image(struct req *r)
{
    return core_post(r, agent_image_core);
}
