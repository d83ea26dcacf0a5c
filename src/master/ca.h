/* SPDX-License-Identifier: Apache-2.0
 *
 * The master's own certificate authority: made at the first start, kept in STATE/tls (keys with
 * mode 0600). It signs the server's certificate, again whenever the names it must hold change,
 * and the certificates of PCs at enrolment, from keys that never leave the PCs.
 *
 * Certificates count from a day before they were made, so that a PC whose clock is behind by
 * hours still accepts them. Thread-safe once opened: nothing of it changes afterwards.
 */
#ifndef YADO_MASTER_CA_H
#define YADO_MASTER_CA_H

#include "base/str.h"

enum {
    CA_SERIAL_BYTES = 16,
    CA_SERIAL_MAX = 2 * CA_SERIAL_BYTES + 1, /* hexadecimal, with the NUL */
    CA_FINGERPRINT_MAX = 33,
};

struct ca;

/* names: NULL-terminated DNS names and IP addresses that clients may use for this master. */
int ca_open(const char *dir, const char *const *names, struct ca **ret_ca, struct err *ret_err);
void ca_free(struct ca *ca);

const char *ca_cert_pem(const struct ca *ca);
const char *ca_server_cert_pem(const struct ca *ca);
const char *ca_server_key_pem(const struct ca *ca);
/* Hexadecimal first 16 bytes of the SHA-256 of the CA certificate in DER: the front of tokens. */
const char *ca_fingerprint(const struct ca *ca);

/* Signs the key of a PEM PKCS#10 request as a client certificate for `name`; what else the
 * request says is ignored. -EINVAL with text when it is no valid request. */
int ca_sign(const struct ca *ca, const char *csr_pem, const char *name, char **ret_pem,
            char ret_serial[CA_SERIAL_MAX], struct err *ret_err);

/* Name and serial of a client's certificate (a gnutls_session_t) that this CA signed.
 * -ENOENT when the client showed none, -EPERM when it is not ours or not valid. */
int ca_peer(const struct ca *ca, void *tls_session, char ret_name[64],
            char ret_serial[CA_SERIAL_MAX]);

#endif
