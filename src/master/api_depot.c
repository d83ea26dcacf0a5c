/* SPDX-License-Identifier: Apache-2.0
 * /v1/depot/check: whether everything that rows refer to is there and whole. */
#include "master/api.h"

#include "master/care.h"

enum req_next api_depot_check(struct req *r)
{
    care_check(r->m->care);
    return req_reply_json(r, 202, care_report(r->m->care));
}

enum req_next api_depot_report(struct req *r)
{
    return req_reply_json(r, 200, care_report(r->m->care));
}
