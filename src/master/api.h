/* SPDX-License-Identifier: Apache-2.0
 *
 * The handlers behind the routes (routes.c, docs/openapi.yaml), by subject, and what they share.
 */
#ifndef YADO_MASTER_API_H
#define YADO_MASTER_API_H

#include "master/core.h"
#include "master/server.h"
#include "wire/record.h"

#include <stddef.h>

/* Fields of the tables that small request bodies are read by (wire/record.h). */
#define FIELD(s, f, k)                                           \
    {                                                            \
        .name = #f, .kind = (k), .offset = offsetof(struct s, f) \
    }
#define FIELD_TEXT(s, f)                                                  \
    {                                                                     \
        .name = #f, .kind = RECORD_TEXT, .offset = offsetof(struct s, f), \
        .size = sizeof((struct s *)0)->f                                  \
    }
#define FIELD_RECORD(s, f, t)                                                           \
    {                                                                                   \
        .name = #f, .kind = RECORD_STRUCT, .offset = offsetof(struct s, f), .type = (t) \
    }
#define FIELD_END    \
    {                \
        .name = NULL \
    }

enum { API_LIST_DEFAULT = 1000, API_LIST_MAX = 10000, API_WAIT_MAX_MS = 15000 };

/* Reads the body into a new record, which becomes r->data; false when a reply was made. An empty
 * body is an empty object. */
bool api_body(struct req *r, const struct record_type *type);
/* ?limit= with its default and bound; false when a reply was made. */
bool api_limit(struct req *r, size_t *ret_limit);
/* Sets r->hold and deadline by ?wait= (ms); false when it is not to wait (any more). */
bool api_may_hold(struct req *r, struct hold_key key);
/* An integer of ours as JSON; those above INT64_MAX do not exist. */
json_t *api_u64(uint64_t value);
/* A user's name by id, "" when he is not known. out has GRID_NAME_MAX bytes. */
const char *api_user_name(struct core *c, uint64_t id, char *out);
const char *api_pc_name(struct core *c, uint64_t id);
/* A list of rows under its key: {"jobs": [...]}. */
enum core_next api_reply_list(struct req *r, const char *key, json_t *rows);
/* When the state cannot be read: 500. */
enum core_next api_reply_state_error(struct core *c, struct req *r, int error);
/* After a function of the state's writing part: core_fail() for errors. */
enum core_next api_written(struct core *c, struct req *r, unsigned status, json_t *json);

/* api_misc.c */
enum req_next api_ca(struct req *r);
enum req_next api_status(struct req *r);
enum req_next api_whoami(struct req *r);
enum req_next api_metrics(struct req *r);
enum req_next api_events(struct req *r);
enum req_next api_moves(struct req *r);
/* api_enroll.c */
extern const struct record_type api_enroll_body;
enum req_next api_enroll(struct req *r);
enum req_next api_enroll_token(struct req *r);
/* api_users.c */
enum req_next api_users(struct req *r);
enum req_next api_user_add(struct req *r);
enum req_next api_user_set(struct req *r);
enum req_next api_user_delete(struct req *r);
enum req_next api_tokens(struct req *r);
enum req_next api_token_add(struct req *r);
enum req_next api_token_delete(struct req *r);
/* Makes user "admin" and his token when there is no user at all; no thread runs yet.
 * *ret_token is NULL when there was one. */
int api_first_user(struct core *c, char **ret_token, struct err *ret_err);
/* The unfinished job that this request is about; NULL: a reply was made, also when it is not
 * his to see. */
const struct grid_job *api_unfinished_job(struct core *c, struct req *r, uint64_t id);
/* api_parts.c */
enum req_next api_checkpoint(struct req *r);
enum req_next api_move(struct req *r);
/* api_pcs.c */
enum req_next api_pcs(struct req *r);
enum req_next api_pc_set(struct req *r);
enum req_next api_pc_forget(struct req *r);
enum req_next api_vms(struct req *r);
/* NULL: there is no such PC, a reply was made. */
const struct grid_pc *api_find_pc(struct core *c, struct req *r, const char *name);
/* api_jobs.c */
/* api_submit.c */
enum req_next api_submit(struct req *r);
/* plan.c */
enum req_next api_split_plan(struct req *r);
/* api_jobs.c */
enum req_next api_jobs(struct req *r);
enum req_next api_history(struct req *r);
enum req_next api_job(struct req *r);
enum req_next api_cancel(struct req *r);
enum req_next api_hold(struct req *r);
enum req_next api_release(struct req *r);
/* api_output.c */
enum req_next api_log(struct req *r);
enum req_next api_result(struct req *r);
/* api_data.c */
extern const struct req_upload api_blob_upload;
enum req_next api_blob_get(struct req *r);
enum req_next api_blob_head(struct req *r);
enum req_next api_blob_put(struct req *r);
enum req_next api_vm_blob_get(struct req *r);
enum req_next api_vm_blob_head(struct req *r);
enum req_next api_vm_blob_put(struct req *r);
extern const struct req_upload api_vm_blob_upload;
enum req_next api_vm_blob_post(struct req *r);
enum req_next api_vm_blocks(struct req *r);
enum req_next api_vm_output(struct req *r);
/* api_depot.c */
enum req_next api_depot_check(struct req *r);
enum req_next api_depot_report(struct req *r);
/* api_drive.c */
enum req_next api_vm_drive(struct req *r);
enum req_next api_vm_drive_cut(struct req *r);
/* Whether the disk has room for the announced body; false when a reply was made. */
bool api_upload_fits(struct req *r);
/* A blob of the depot, or the part of it that Range asks for. */
enum req_next api_send_blob(struct req *r, const uint8_t *digest);
/* api_mail.c */
enum req_next api_mail(struct req *r);
enum req_next api_vm_mail_send(struct req *r);
enum req_next api_vm_mail_read(struct req *r);
/* Before a placement's first use of mail: true when the request is on its way to the core, and
 * comes back to its handler, or has its answer; the handler returns *ret_next. */
bool api_mail_must_ask(struct req *r, enum req_next *ret_next);
/* api_mail_blob.c */
extern const struct req_upload api_mail_blob_upload;
enum req_next api_vm_mail_blob_put(struct req *r);
enum req_next api_vm_mail_blob_get(struct req *r);
/* api_images.c */
enum req_next api_images(struct req *r);
enum req_next api_image_add(struct req *r);
enum req_next api_image_delete(struct req *r);
/* sync.c */
enum req_next api_sync(struct req *r);
enum req_next api_agent_image(struct req *r);

#endif
