/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and writing .npy files; see npy.h.
 */
#include "npy.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[] = "\x93NUMPY";

enum { HEADER_MAX = 65536 };

_Noreturn void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fputs("matrix: ", stderr);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    fflush(NULL);
    _exit(2); /* what is open and allocated is left to the system */
}

static void read_at(const struct npy *m, void *out, size_t len, uint64_t at)
{
    uint8_t *p = out;

    while (len) {
        ssize_t n = pread(m->fd, p, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            die("cannot read %s: %s", m->path, strerror(errno));
        if (n == 0)
            die("%s ended while it was read", m->path);
        p += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
}

static void write_at(const struct npy *m, const void *data, size_t len, uint64_t at)
{
    const uint8_t *p = data;

    while (len) {
        ssize_t n = pwrite(m->fd, p, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            die("cannot write %s: %s", m->path, strerror(errno));
        p += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
}

/* ---- the header, a Python dictionary -------------------------------------------------------- */

/* The value behind 'key': in the dictionary. */
static const char *find(const struct npy *m, const char *header, const char *key)
{
    char quoted[32];
    const char *p;

    snprintf(quoted, sizeof quoted, "'%s'", key);
    p = strstr(header, quoted);
    if (p) {
        p += strlen(quoted);
        p += strspn(p, " ");
        if (*p == ':')
            return p + 1 + strspn(p + 1, " ");
    }
    die("%s: its header has no '%s': not a .npy file?", m->path, key);
}

static size_t number(const struct npy *m, const char **p)
{
    char *end;
    unsigned long long v;

    *p += strspn(*p, " ");
    errno = 0;
    v = strtoull(*p, &end, 10);
    if (!isdigit((unsigned char)**p) || errno || v > INT32_MAX)
        die("%s: its header has no readable shape", m->path);
    *p = end + strspn(end, " ");
    return (size_t)v;
}

static void parse(struct npy *m, const char *header)
{
    const char *p = find(m, header, "descr");

    if (strncmp(p, "'<f8'", 5) != 0)
        die("%s holds %.8s, not doubles; write it with numpy.save(name, a.astype('<f8'))", m->path,
            p);
    p = find(m, header, "fortran_order");
    if (strncmp(p, "False", 5) != 0)
        die("%s is in Fortran order; write it with numpy.save(name, numpy.ascontiguousarray(a))",
            m->path);
    p = find(m, header, "shape");
    if (*p++ != '(')
        die("%s: its header has no readable shape", m->path);
    m->rows = number(m, &p);
    if (*p++ != ',' || *(p += strspn(p, " ")) == ')')
        die("%s is not a matrix: it has one dimension", m->path);
    m->cols = number(m, &p);
    if (*p != ')')
        die("%s is not a matrix: it has more than two dimensions", m->path);
}

struct npy npy_open(const char *path)
{
    struct npy m = {.path = strdup(path), .fd = open(path, O_RDONLY | O_CLOEXEC)};
    uint8_t fixed[12] = {0};
    struct stat st;
    char *header;
    size_t len;

    if (m.fd < 0 || fstat(m.fd, &st))
        die("cannot open %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size < 12)
        die("%s is not a .npy file", path);
    read_at(&m, fixed, sizeof fixed, 0);
    if (memcmp(fixed, magic, 6) != 0 || fixed[6] < 1 || fixed[6] > 2)
        die("%s is not a .npy file of version 1 or 2", path);
    len = fixed[8] | (size_t)fixed[9] << 8;
    if (fixed[6] == 2)
        len |= (size_t)fixed[10] << 16 | (size_t)fixed[11] << 24;
    m.data = (fixed[6] == 2 ? 12 : 10) + len;
    if (len > HEADER_MAX || m.data > (uint64_t)st.st_size)
        die("%s: its header is cut off", path);
    header = calloc(1, len + 1);
    read_at(&m, header, len, m.data - len);
    parse(&m, header);
    free(header);
    if ((uint64_t)st.st_size - m.data != (uint64_t)m.rows * m.cols * sizeof(double))
        die("%s is cut off or too long: %zu x %zu doubles are %llu bytes, it has %llu", path,
            m.rows, m.cols, (unsigned long long)m.rows * m.cols * sizeof(double),
            (unsigned long long)((uint64_t)st.st_size - m.data));
    return m;
}

void npy_read(const struct npy *m, size_t row, size_t col, size_t rows, size_t cols, double *out)
{
    if (cols == m->cols) {
        read_at(m, out, rows * cols * sizeof *out, m->data + row * m->cols * sizeof *out);
        return;
    }
    for (size_t i = 0; i < rows; i++)
        read_at(m, out + i * cols, cols * sizeof *out,
                m->data + ((row + i) * m->cols + col) * sizeof *out);
}

/* ---- writing -------------------------------------------------------------------------------- */

static char *unfinished(const char *path)
{
    char *name = malloc(strlen(path) + 6);

    sprintf(name, "%s.part", path);
    return name;
}

struct npy npy_create(const char *path, size_t rows, size_t cols)
{
    struct npy m = {.path = strdup(path), .rows = rows, .cols = cols, .data = 128};
    char *name = unfinished(path);
    char header[129];
    int n;

    m.fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (m.fd < 0)
        die("cannot make %s: %s", path, strerror(errno));
    /* Ten bytes, then 118 of text that spaces fill up and a newline ends. */
    n = snprintf(header, sizeof header,
                 "%s%c%c%c%c{'descr': '<f8', 'fortran_order': False, 'shape': (%zu, %zu), }", magic,
                 1, 0, 118, 0, rows, cols);
    memset(header + n, ' ', 128 - (size_t)n);
    header[127] = '\n';
    write_at(&m, header, 128, 0);
    if (ftruncate(m.fd, (off_t)(m.data + (uint64_t)rows * cols * sizeof(double))))
        die("cannot make %s that large: %s", path, strerror(errno));
    free(name);
    return m;
}

void npy_write(const struct npy *m, size_t row, size_t rows, const double *values)
{
    write_at(m, values, rows * m->cols * sizeof *values, m->data + row * m->cols * sizeof *values);
}

void npy_finish(struct npy *m)
{
    char *name = unfinished(m->path);

    if (rename(name, m->path))
        die("cannot name %s: %s", m->path, strerror(errno));
    free(name);
    npy_close(m);
}

void npy_close(struct npy *m)
{
    close(m->fd);
    free(m->path);
    m->path = NULL;
}
