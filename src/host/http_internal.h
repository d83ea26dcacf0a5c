/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of struct http, for the files of the HTTPS client.
 */
#ifndef YADO_HOST_HTTP_INTERNAL_H
#define YADO_HOST_HTTP_INTERNAL_H

#include "host/http_client.h"

#include <curl/curl.h>
#include <stdatomic.h>

struct http {
    CURL *easy;
    CURLM *multi;
    char *ca_file, *cert_file, *key_file, *bearer;
    bool unverified;
    atomic_bool aborted;
    char error[CURL_ERROR_SIZE];
};

/* A connection to the server of that URL, over which libcurl says nothing: the caller does, with
 * curl_easy_send() and curl_easy_recv(). It ends with http_free(). */
int http_connect(struct http *h, const char *url, struct err *ret_err);
int http_errno_of(CURLcode code);

#endif
