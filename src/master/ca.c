/* SPDX-License-Identifier: Apache-2.0
 * The master's certificate authority; see ca.h. ECDSA on P-256 throughout. */
#include "master/ca.h"

#include "base/cleanup.h"
#include "base/must.h"
#include "master/file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { DAY_S = 86400, YEARS_S = 20 * 365 * DAY_S, PEM_MAX = 64 * 1024 };

struct ca {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t cert;
    gnutls_x509_trust_list_t trust; /* holds its own copy of cert */
    char *cert_pem;
    char *server_cert_pem;
    char *server_key_pem;
    char fingerprint[CA_FINGERPRINT_MAX];
};

static int fail(struct err *e, int gnutls_code, const char *what)
{
    return err_set(e, -EIO, "%s: %s", what, gnutls_strerror(gnutls_code));
}

static int make_key(gnutls_x509_privkey_t *ret_key, struct err *e)
{
    int r = gnutls_x509_privkey_init(ret_key);
    if (r == 0)
        r = gnutls_x509_privkey_generate(*ret_key, GNUTLS_PK_ECDSA,
                                         GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    return r < 0 ? fail(e, r, "cannot make a key") : 0;
}

/* Serial, times and version, the same for every certificate. */
static int fill_common(gnutls_x509_crt_t cert, uint8_t serial[CA_SERIAL_BYTES])
{
    time_t now = time(NULL);
    int r = gnutls_rnd(GNUTLS_RND_NONCE, serial, CA_SERIAL_BYTES);
    serial[0] = (uint8_t)((serial[0] & 0x7f) | 0x40); /* positive, and always full length */
    if (r == 0)
        r = gnutls_x509_crt_set_version(cert, 3);
    if (r == 0)
        r = gnutls_x509_crt_set_serial(cert, serial, CA_SERIAL_BYTES);
    if (r == 0)
        r = gnutls_x509_crt_set_activation_time(cert, now - DAY_S);
    if (r == 0)
        r = gnutls_x509_crt_set_expiration_time(cert, now + YEARS_S);
    return r;
}

static int set_name(gnutls_x509_crt_t cert, const char *name)
{
    return gnutls_x509_crt_set_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                         (unsigned)strlen(name));
}

static char *export_cert(gnutls_x509_crt_t cert)
{
    gnutls_datum_t out;
    if (gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &out) < 0)
        return NULL;
    char *pem = xstrndup((char *)out.data, out.size);
    gnutls_free(out.data);
    return pem;
}

static char *export_key(gnutls_x509_privkey_t key)
{
    gnutls_datum_t out;
    if (gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &out) < 0)
        return NULL;
    char *pem = xstrndup((char *)out.data, out.size);
    gnutls_memset(out.data, 0, out.size);
    gnutls_free(out.data);
    return pem;
}

static int make_ca(struct ca *ca, struct err *e)
{
    uint8_t serial[CA_SERIAL_BYTES];
    int r = make_key(&ca->key, e);
    if (r < 0)
        return r;
    r = gnutls_x509_crt_init(&ca->cert);
    if (r == 0)
        r = fill_common(ca->cert, serial);
    if (r == 0)
        r = set_name(ca->cert, "Yadokari master");
    if (r == 0)
        r = gnutls_x509_crt_set_key(ca->cert, ca->key);
    if (r == 0)
        r = gnutls_x509_crt_set_basic_constraints(ca->cert, 1, 0);
    if (r == 0)
        r = gnutls_x509_crt_set_key_usage(ca->cert, GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
    if (r == 0)
        r = gnutls_x509_crt_set_subject_key_id(ca->cert, serial, CA_SERIAL_BYTES);
    if (r == 0)
        r = gnutls_x509_crt_sign2(ca->cert, ca->cert, ca->key, GNUTLS_DIG_SHA256, 0);
    return r < 0 ? fail(e, r, "cannot make the certificate authority") : 0;
}

static int load_pem(const char *path, struct buf *b, gnutls_datum_t *ret, struct err *e)
{
    int r = file_read(path, PEM_MAX, b);
    if (r == -ENOENT)
        return r;
    if (r < 0)
        return err_set(e, r, "cannot read %s: %s", path, strerror(-r));
    *ret = (gnutls_datum_t){.data = b->data, .size = (unsigned)b->len};
    return 0;
}

/* 0, -ENOENT when there is none yet, or an error. */
static int load_ca(struct ca *ca, const char *key_path, const char *cert_path, struct err *e)
{
    AUTO_BUF struct buf key = {0}, cert = {0};
    gnutls_datum_t k, c;
    int r = load_pem(key_path, &key, &k, e);
    if (r == 0)
        r = load_pem(cert_path, &cert, &c, e);
    if (r < 0)
        return r;
    r = gnutls_x509_privkey_init(&ca->key);
    if (r == 0)
        r = gnutls_x509_privkey_import(ca->key, &k, GNUTLS_X509_FMT_PEM);
    if (r == 0)
        r = gnutls_x509_crt_init(&ca->cert);
    if (r == 0)
        r = gnutls_x509_crt_import(ca->cert, &c, GNUTLS_X509_FMT_PEM);
    if (r < 0)
        return err_set(e, -EINVAL, "%s or %s is damaged (%s): restore them from a backup", key_path,
                       cert_path, gnutls_strerror(r));
    return 0;
}

static int save(const char *path, const char *pem, mode_t mode, struct err *e)
{
    int r = pem ? file_write(path, pem, strlen(pem), mode) : -ENOMEM;
    return r < 0 ? err_set(e, r, "cannot write %s: %s", path, strerror(-r)) : 0;
}

static int open_ca(struct ca *ca, const char *dir, struct err *e)
{
    AUTO_FREE char *key_path = xasprintf("%s/ca.key", dir);
    AUTO_FREE char *cert_path = xasprintf("%s/ca.crt", dir);
    int r = load_ca(ca, key_path, cert_path, e);
    if (r == -ENOENT) {
        /* The key first: a certificate without its key would be of no use. */
        gnutls_x509_privkey_deinit(ca->key);
        gnutls_x509_crt_deinit(ca->cert);
        ca->key = NULL;
        ca->cert = NULL;
        r = make_ca(ca, e);
        AUTO_FREE char *key = r == 0 ? export_key(ca->key) : NULL;
        AUTO_FREE char *cert = r == 0 ? export_cert(ca->cert) : NULL;
        if (r == 0)
            r = save(key_path, key, 0600, e);
        if (r == 0)
            r = save(cert_path, cert, 0644, e);
    }
    if (r < 0)
        return r;
    ca->cert_pem = export_cert(ca->cert);
    gnutls_datum_t der;
    uint8_t digest[32];
    if (!ca->cert_pem || gnutls_x509_crt_export2(ca->cert, GNUTLS_X509_FMT_DER, &der) < 0)
        return err_set(e, -ENOMEM, "cannot export the CA certificate");
    r = gnutls_hash_fast(GNUTLS_DIG_SHA256, der.data, der.size, digest);
    gnutls_free(der.data);
    if (r < 0)
        return fail(e, r, "cannot hash the CA certificate");
    str_hex(digest, 16, ca->fingerprint);
    return 0;
}

static int add_name(gnutls_x509_crt_t cert, const char *name)
{
    uint8_t ip[16];
    if (inet_pton(AF_INET, name, ip) == 1)
        return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_IPADDRESS, ip, 4,
                                                    GNUTLS_FSAN_APPEND);
    if (inet_pton(AF_INET6, name, ip) == 1)
        return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_IPADDRESS, ip, 16,
                                                    GNUTLS_FSAN_APPEND);
    return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, name,
                                                (unsigned)strlen(name), GNUTLS_FSAN_APPEND);
}

static int sign(const struct ca *ca, gnutls_x509_crt_t cert, const char *purpose, const char *name,
                uint8_t serial[CA_SERIAL_BYTES])
{
    int r = fill_common(cert, serial);
    if (r == 0)
        r = set_name(cert, name);
    if (r == 0)
        r = gnutls_x509_crt_set_basic_constraints(cert, 0, -1);
    if (r == 0)
        r = gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_DIGITAL_SIGNATURE);
    if (r == 0)
        r = gnutls_x509_crt_set_key_purpose_oid(cert, purpose, 0);
    if (r == 0)
        r = gnutls_x509_crt_sign2(cert, ca->cert, ca->key, GNUTLS_DIG_SHA256, 0);
    return r;
}

static int make_server(const struct ca *ca, const char *const *names, char **ret_cert,
                       char **ret_key, struct err *e)
{
    gnutls_x509_privkey_t key = NULL;
    gnutls_x509_crt_t cert = NULL;
    uint8_t serial[CA_SERIAL_BYTES];
    MUST(names[0]);
    int r = make_key(&key, e);
    if (r < 0)
        return r;
    r = gnutls_x509_crt_init(&cert);
    if (r == 0)
        r = gnutls_x509_crt_set_key(cert, key);
    for (size_t i = 0; r == 0 && names[i]; i++)
        r = add_name(cert, names[i]);
    if (r == 0)
        r = sign(ca, cert, GNUTLS_KP_TLS_WWW_SERVER, names[0], serial);
    if (r == 0) {
        *ret_cert = export_cert(cert);
        *ret_key = export_key(key);
    }
    gnutls_x509_crt_deinit(cert);
    gnutls_x509_privkey_deinit(key);
    return r < 0 ? fail(e, r, "cannot make the server's certificate") : 0;
}

/* The names that server.crt was made for stand beside it, one a line. */
static int open_server(struct ca *ca, const char *dir, const char *const *names, struct err *e)
{
    AUTO_FREE char *key_path = xasprintf("%s/server.key", dir);
    AUTO_FREE char *cert_path = xasprintf("%s/server.crt", dir);
    AUTO_FREE char *names_path = xasprintf("%s/server.names", dir);
    AUTO_BUF struct buf want = {0}, have = {0}, key = {0}, cert = {0};
    for (size_t i = 0; names[i]; i++)
        buf_printf(&want, "%s\n", names[i]);
    MUST(want.len);
    if (file_read(names_path, PEM_MAX, &have) == 0 && have.len == want.len &&
        memcmp(have.data, want.data, want.len) == 0 && file_read(key_path, PEM_MAX, &key) == 0 &&
        file_read(cert_path, PEM_MAX, &cert) == 0) {
        ca->server_key_pem = buf_take_str(&key);
        ca->server_cert_pem = buf_take_str(&cert);
        return 0;
    }
    int r = make_server(ca, names, &ca->server_cert_pem, &ca->server_key_pem, e);
    /* The names go first and come last: a crash between makes the certificate once more. */
    if (r == 0 && unlink(names_path) < 0 && errno != ENOENT)
        r = err_set(e, -errno, "cannot replace %s: %s", names_path, strerror(errno));
    if (r == 0)
        r = save(key_path, ca->server_key_pem, 0600, e);
    if (r == 0)
        r = save(cert_path, ca->server_cert_pem, 0644, e);
    if (r == 0)
        r = save(names_path, (char *)want.data, 0644, e);
    return r;
}

int ca_open(const char *dir, const char *const *names, struct ca **ret_ca, struct err *ret_err)
{
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_set(ret_err, -errno, "cannot make %s: %s", dir, strerror(errno));
    struct ca *ca = xcalloc(1, sizeof *ca);
    int r = open_ca(ca, dir, ret_err);
    if (r == 0)
        r = open_server(ca, dir, names, ret_err);
    if (r == 0) {
        gnutls_datum_t pem = {(unsigned char *)ca->cert_pem, (unsigned)strlen(ca->cert_pem)};
        int g = gnutls_x509_trust_list_init(&ca->trust, 0);
        if (g == 0)
            g = gnutls_x509_trust_list_add_trust_mem(ca->trust, &pem, NULL, GNUTLS_X509_FMT_PEM, 0,
                                                     0);
        if (g < 0)
            r = fail(ret_err, g, "cannot trust the CA certificate");
    }
    if (r < 0) {
        ca_free(ca);
        return r;
    }
    *ret_ca = ca;
    return 0;
}

void ca_free(struct ca *ca)
{
    if (!ca)
        return;
    if (ca->trust)
        gnutls_x509_trust_list_deinit(ca->trust, 1);
    gnutls_x509_crt_deinit(ca->cert);
    gnutls_x509_privkey_deinit(ca->key);
    free(ca->cert_pem);
    free(ca->server_cert_pem);
    free(ca->server_key_pem);
    free(ca);
}

const char *ca_cert_pem(const struct ca *ca)
{
    return ca->cert_pem;
}

const char *ca_server_cert_pem(const struct ca *ca)
{
    return ca->server_cert_pem;
}

const char *ca_server_key_pem(const struct ca *ca)
{
    return ca->server_key_pem;
}

const char *ca_fingerprint(const struct ca *ca)
{
    return ca->fingerprint;
}

int ca_sign(const struct ca *ca, const char *csr_pem, const char *name, char **ret_pem,
            char ret_serial[CA_SERIAL_MAX], struct err *ret_err)
{
    gnutls_x509_crq_t csr = NULL;
    gnutls_x509_crt_t cert = NULL;
    gnutls_pubkey_t key = NULL;
    uint8_t serial[CA_SERIAL_BYTES];
    gnutls_datum_t in = {(unsigned char *)csr_pem, (unsigned)strlen(csr_pem)};
    int r = gnutls_x509_crq_init(&csr);
    if (r == 0)
        r = gnutls_x509_crq_import(csr, &in, GNUTLS_X509_FMT_PEM);
    if (r == 0)
        r = gnutls_x509_crq_verify(csr, 0); /* the sender holds the key */
    if (r == 0)
        r = gnutls_x509_crt_init(&cert);
    if (r == 0)
        r = gnutls_pubkey_init(&key);
    if (r == 0)
        r = gnutls_pubkey_import_x509_crq(key, csr, 0);
    if (r == 0)
        r = gnutls_x509_crt_set_pubkey(cert, key);
    if (r == 0)
        r = sign(ca, cert, GNUTLS_KP_TLS_WWW_CLIENT, name, serial);
    char *pem = r == 0 ? export_cert(cert) : NULL;
    gnutls_pubkey_deinit(key);
    gnutls_x509_crq_deinit(csr);
    gnutls_x509_crt_deinit(cert);
    if (!pem)
        return err_set(ret_err, -EINVAL, "csr: not a valid PKCS#10 request in PEM (%s)",
                       gnutls_strerror(r));
    str_hex(serial, CA_SERIAL_BYTES, ret_serial);
    *ret_pem = pem;
    return 0;
}

int ca_peer(const struct ca *ca, void *tls_session, char ret_name[64],
            char ret_serial[CA_SERIAL_MAX])
{
    unsigned count = 0, verdict = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(tls_session, &count);
    if (!chain || count == 0)
        return -ENOENT;
    gnutls_x509_crt_t cert = NULL;
    uint8_t serial[CA_SERIAL_BYTES];
    size_t serial_size = sizeof serial, name_size = 64;
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                     .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT};
    int r = gnutls_x509_crt_init(&cert);
    if (r == 0)
        r = gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER);
    if (r == 0)
        r = gnutls_x509_trust_list_verify_crt2(ca->trust, &cert, 1, &purpose, 1, 0, &verdict, NULL);
    if (r == 0 && verdict == 0)
        r = gnutls_x509_crt_get_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, 0, 0, ret_name,
                                          &name_size);
    if (r == 0 && verdict == 0)
        r = gnutls_x509_crt_get_serial(cert, serial, &serial_size);
    gnutls_x509_crt_deinit(cert);
    if (r < 0 || verdict != 0 || serial_size != CA_SERIAL_BYTES)
        return -EPERM;
    str_hex(serial, CA_SERIAL_BYTES, ret_serial);
    return 0;
}
