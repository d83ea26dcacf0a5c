/* SPDX-License-Identifier: Apache-2.0
 *
 * Every path of the API: who may use it and what handles it. docs/openapi.yaml describes the user
 * API, docs/protocol.md what PCs use; tests/e2e/test_api.py compares this table with the former.
 */
#include "master/api.h"

const struct route routes[] = {
    {"GET", "/v1/ca", REQ_ANYONE, api_ca, NULL},
    {"POST", "/v1/enroll", REQ_ANYONE, api_enroll, NULL},
    {"GET", "/v1/status", REQ_USER, api_status, NULL},
    {"GET", "/v1/whoami", REQ_USER, api_whoami, NULL},
    {"GET", "/metrics", REQ_USER, api_metrics, NULL},

    {"POST", "/v1/jobs", REQ_USER, api_submit, NULL},
    {"POST", "/v1/split/plan", REQ_USER, api_split_plan, NULL},
    {"GET", "/v1/jobs", REQ_USER, api_jobs, NULL},
    {"GET", "/v1/jobs/{id}", REQ_USER, api_job, NULL},
    {"POST", "/v1/jobs/{id}/cancel", REQ_USER, api_cancel, NULL},
    {"POST", "/v1/jobs/{id}/hold", REQ_USER, api_hold, NULL},
    {"POST", "/v1/jobs/{id}/release", REQ_USER, api_release, NULL},
    {"POST", "/v1/jobs/{id}/checkpoint", REQ_USER, api_checkpoint, NULL},
    {"POST", "/v1/jobs/{id}/parts/{part}/checkpoint", REQ_USER, api_checkpoint, NULL},
    {"POST", "/v1/jobs/{id}/parts/{part}/move", REQ_USER, api_move, NULL},
    {"GET", "/v1/jobs/{id}/parts/{part}/log", REQ_USER, api_log, NULL},
    {"GET", "/v1/jobs/{id}/parts/{part}/result", REQ_USER, api_result, NULL},
    {"GET", "/v1/jobs/{id}/mail", REQ_USER, api_mail, NULL},
    {"GET", "/v1/history", REQ_USER, api_history, NULL},

    {"GET", "/v1/pcs", REQ_USER, api_pcs, NULL},
    {"POST", "/v1/pcs/{name}", REQ_ADMIN, api_pc_set, NULL},
    {"DELETE", "/v1/pcs/{name}", REQ_ADMIN, api_pc_forget, NULL},
    {"POST", "/v1/enroll-tokens", REQ_ADMIN, api_enroll_token, NULL},
    {"GET", "/v1/vms", REQ_USER, api_vms, NULL},
    {"GET", "/v1/moves", REQ_USER, api_moves, NULL},
    {"GET", "/v1/events", REQ_USER, api_events, NULL},

    {"POST", "/v1/depot/check", REQ_ADMIN, api_depot_check, NULL},
    {"GET", "/v1/depot/check", REQ_ADMIN, api_depot_report, NULL},
    {"HEAD", "/v1/blobs/{digest}", REQ_USER, api_blob_head, NULL},
    {"PUT", "/v1/blobs/{digest}", REQ_USER, api_blob_put, &api_blob_upload},
    {"GET", "/v1/images", REQ_USER, api_images, NULL},
    {"POST", "/v1/images", REQ_ADMIN, api_image_add, NULL},
    {"DELETE", "/v1/images/{name}", REQ_ADMIN, api_image_delete, NULL},

    {"GET", "/v1/users", REQ_ADMIN, api_users, NULL},
    {"POST", "/v1/users", REQ_ADMIN, api_user_add, NULL},
    {"POST", "/v1/users/{name}", REQ_ADMIN, api_user_set, NULL},
    {"DELETE", "/v1/users/{name}", REQ_ADMIN, api_user_delete, NULL},
    {"GET", "/v1/users/{name}/tokens", REQ_USER, api_tokens, NULL},
    {"POST", "/v1/users/{name}/tokens", REQ_USER, api_token_add, NULL},
    {"DELETE", "/v1/users/{name}/tokens/{token}", REQ_USER, api_token_delete, NULL},

    {"POST", "/v1/agent/sync", REQ_PC, api_sync, NULL},
    {"GET", "/v1/agent/image/{file}", REQ_PC, api_agent_image, NULL},
    {"POST", "/v1/vm/{placement}/blobs", REQ_GRANT, api_vm_blob_post, &api_vm_blob_upload},
    {"GET", "/v1/vm/{placement}/blobs/{digest}", REQ_GRANT, api_vm_blob_get, NULL},
    {"HEAD", "/v1/vm/{placement}/blobs/{digest}", REQ_GRANT, api_vm_blob_head, NULL},
    {"PUT", "/v1/vm/{placement}/blobs/{digest}", REQ_GRANT, api_vm_blob_put, &api_blob_upload},
    {"GET", "/v1/vm/{placement}/blobs/{digest}/blocks", REQ_GRANT, api_vm_blocks, NULL},
    {"POST", "/v1/vm/{placement}/output", REQ_GRANT, api_vm_output, NULL},
    {"GET", "/v1/vm/{placement}/drive", REQ_GRANT, api_vm_drive, NULL},
    {"POST", "/v1/vm/{placement}/drive/cut", REQ_GRANT, api_vm_drive_cut, NULL},
    {"POST", "/v1/vm/{placement}/mail", REQ_GRANT, api_vm_mail_send, NULL},
    {"GET", "/v1/vm/{placement}/mail", REQ_GRANT, api_vm_mail_read, NULL},
    {"PUT", "/v1/vm/{placement}/mail/blobs/{name}", REQ_GRANT, api_vm_mail_blob_put,
     &api_mail_blob_upload},
    {"GET", "/v1/vm/{placement}/mail/blobs/{name}", REQ_GRANT, api_vm_mail_blob_get, NULL},
    {NULL, NULL, REQ_ANYONE, NULL, NULL},
};
