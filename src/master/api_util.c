/* SPDX-License-Identifier: Apache-2.0
 * What the API's handlers share; see api.h. */
#include "master/api.h"

#include "base/log.h"
#include "base/must.h"
#include "base/num.h"
#include "master/hold.h"

#include <string.h>

bool api_body(struct req *r, const struct record_type *type)
{
    json_t *json = NULL;
    struct err e;
    if (r->body.len == 0)
        json = json_object();
    else if (!req_json(r, &json))
        return false;
    void *record = xcalloc(1, type->size);
    int bad = record_from_json(type, json, record, &e);
    json_decref(json);
    r->data = record;
    r->free_data = free; /* these records own nothing */
    if (bad < 0)
        (void)req_reply_error(r, 400, "bad_request", "%s", e.text);
    return bad == 0;
}

bool api_limit(struct req *r, size_t *ret_limit)
{
    uint64_t limit;
    if (!req_query_u64(r, "limit", API_LIST_DEFAULT, &limit))
        return false;
    if (limit < 1 || limit > API_LIST_MAX) {
        (void)req_reply_error(r, 400, "bad_request", "limit: 1 to %d", API_LIST_MAX);
        return false;
    }
    *ret_limit = (size_t)limit;
    return true;
}

bool api_may_hold(struct req *r, struct hold_key key)
{
    uint64_t wait_ms = 0;
    const char *text = req_query(r, "wait");
    if (r->expired || !text || num_parse_u64(text, INT64_MAX, &wait_ms) < 0 || wait_ms == 0)
        return false;
    r->hold = key;
    holds_set_deadline(r, wait_ms < API_WAIT_MAX_MS ? wait_ms : API_WAIT_MAX_MS);
    return true;
}

json_t *api_u64(uint64_t value)
{
    return json_integer((json_int_t)(value & INT64_MAX));
}

const char *api_user_name(struct core *c, uint64_t id, char *out)
{
    struct state_user u;
    out[0] = '\0';
    if (state_user_get(core_master(c)->state, id, &u) == STATE_OK)
        memcpy(out, u.name, GRID_NAME_MAX);
    return out;
}

const char *api_pc_name(struct core *c, uint64_t id)
{
    const struct grid_pc *pc = id ? grid_get_pc(core_grid(c), id) : NULL;
    return pc ? pc->name : "";
}

enum core_next api_reply_list(struct req *r, const char *key, json_t *rows)
{
    (void)req_reply_json(r, 200, json_pack("{s:o}", key, rows));
    return CORE_REPLIED;
}

enum core_next api_reply_state_error(struct core *c, struct req *r, int error)
{
    (void)req_reply_errno(r, error, "reading the state");
    return CORE_REPLIED;
}

enum core_next api_written(struct core *c, struct req *r, unsigned status, json_t *json)
{
    (void)req_reply_json(r, status, json);
    return CORE_REPLIED;
}
