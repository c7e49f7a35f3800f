/*
 * device_sim: a device on a POSIX system, to try the serial line protocol and to
 * show how bm_line is put to use.
 *
 *   device_sim [-c] [-t TTY] DIR
 *
 * It speaks on TTY, or else on standard input and output. Keys and certificates
 * are files in DIR, made with the openssl command; -c gives canned answers
 * instead and keeps nothing.
 */
#define _POSIX_C_SOURCE 200809L

#include "bm_line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Why a callback failed, as the station shows it. */
enum { FAILED_COMMAND = 1, FAILED_FILE, FAILED_NOTHING_THERE, FAILED_LOCKED };

struct sim {
    int in, out;
    const char *dir;
    uint8_t canned[BM_LINE_BLOB]; /* the certificate, with -c */
    size_t canned_len;
    int asked; /* how often a request was asked for, with -c */
};

static void transmit(void *ctx, const uint8_t *data, size_t n)
{
    struct sim *s = ctx;

    while (n > 0) {
        ssize_t k = write(s->out, data, n);
        if (k < 0 && errno != EINTR)
            exit(1);
        if (k > 0) {
            data += k;
            n -= (size_t)k;
        }
    }
}

static int identify(void *ctx, struct bm_identity *out)
{
    (void)ctx;
    out->vendor = "birthmark";
    out->uid = "0123456789abcdef01";
    out->slot = "0";
    out->hardware = "A";
    out->firmware = "1.0.0";
    return BM_OK;
}

/* Files in DIR */

struct path {
    char text[4096];
};

static struct path in_dir(const struct sim *s, const char *name)
{
    struct path p;

    if (snprintf(p.text, sizeof p.text, "%s/%s", s->dir, name) >= (int)sizeof p.text)
        exit(2);
    return p;
}

static int exists(struct path p)
{
    struct stat st;

    return stat(p.text, &st) == 0;
}

static int read_file(struct path p, uint8_t *out, size_t room, size_t *n)
{
    FILE *f = fopen(p.text, "rb");
    int good;

    if (f == NULL)
        return FAILED_NOTHING_THERE;
    *n = fread(out, 1, room, f);
    good = !ferror(f) && fgetc(f) == EOF;
    fclose(f);
    return good ? BM_OK : FAILED_FILE;
}

/* Replaces a file so that it is whole after a power cut. */
static int write_file(const struct sim *s, const char *name, const uint8_t *data, size_t n)
{
    struct path part = in_dir(s, "part"), to = in_dir(s, name);
    int fd = open(part.text, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int good;

    if (fd < 0)
        return FAILED_FILE;
    good = write(fd, data, n) == (ssize_t)n && fsync(fd) == 0;
    good = close(fd) == 0 && good;
    return good && rename(part.text, to.text) == 0 ? BM_OK : FAILED_FILE;
}

/* Runs openssl with up to 12 arguments, without a shell. */
static int openssl(const char *const *arguments)
{
    char *argv[14];
    size_t i;
    int status;
    pid_t pid;

    argv[0] = (char *)(uintptr_t) "openssl";
    for (i = 0; arguments[i] != NULL && i < 12; i++)
        argv[i + 1] = (char *)(uintptr_t)arguments[i];
    argv[i + 1] = NULL;
    pid = fork();
    if (pid < 0)
        return FAILED_COMMAND;
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        execvp("openssl", argv);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return FAILED_COMMAND;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? BM_OK : FAILED_COMMAND;
}

static int need_key(const struct sim *s, const char *name)
{
    struct path key = in_dir(s, name);
    const char *make[] = {"ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", NULL, NULL};

    make[6] = key.text;
    return exists(key) ? BM_OK : openssl(make);
}

static int sign_with(const struct sim *s, const char *name, const uint8_t *digest, uint8_t *out, size_t room,
                     size_t *n)
{
    struct path key = in_dir(s, name), digest_file = in_dir(s, "digest"), signature = in_dir(s, "signature");
    const char *sign[] = {"pkeyutl", "-sign", "-inkey", NULL, "-in", NULL, "-out", NULL, NULL};
    int result;

    sign[3] = key.text;
    sign[5] = digest_file.text;
    sign[7] = signature.text;
    if (!exists(key))
        return FAILED_NOTHING_THERE;
    result = write_file(s, "digest", digest, BM_LINE_DIGEST);
    if (result == BM_OK)
        result = openssl(sign);
    return result == BM_OK ? read_file(signature, out, room, n) : result;
}

/* The device, with keys in files */

static int request(void *ctx, const char *name, uint8_t *out, size_t room, size_t *n)
{
    struct sim *s = ctx;
    struct path key = in_dir(s, "device.pem"), csr = in_dir(s, "csr.der");
    const char *make[] = {"req", "-new", "-key", NULL, "-subj", "/CN=device", "-outform", "DER", "-out", NULL, NULL};
    int result;

    (void)name; /* the server takes nothing from a request but the key */
    make[3] = key.text;
    make[9] = csr.text;
    if (exists(in_dir(s, "done")))
        return FAILED_LOCKED;
    result = need_key(s, "device.pem");
    if (result == BM_OK)
        result = openssl(make);
    return result == BM_OK ? read_file(csr, out, room, n) : result;
}

static int public_key(void *ctx, uint8_t *out, size_t room, size_t *n)
{
    struct sim *s = ctx;
    struct path key = in_dir(s, "chip.pem"), spki = in_dir(s, "chip.der");
    const char *print[] = {"pkey", "-in", NULL, "-pubout", "-outform", "DER", "-out", NULL, NULL};
    int result;

    print[2] = key.text;
    print[7] = spki.text;
    result = need_key(s, "chip.pem");
    if (result == BM_OK)
        result = openssl(print);
    return result == BM_OK ? read_file(spki, out, room, n) : result;
}

static int prove(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n)
{
    struct sim *s = ctx;
    int result = need_key(s, "chip.pem");

    return result == BM_OK ? sign_with(s, "chip.pem", digest, out, room, n) : result;
}

static int install(void *ctx, enum bm_object kind, const uint8_t *data, size_t n)
{
    static const char *const names[] = {"", "certificate.der", "chain.der", "wrapped.bin", "password"};
    struct sim *s = ctx;

    return exists(in_dir(s, "done")) ? FAILED_LOCKED : write_file(s, names[kind], data, n);
}

static int read_back(void *ctx, uint8_t *out, size_t room, size_t *n)
{
    return read_file(in_dir(ctx, "certificate.der"), out, room, n);
}

static int confirm(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n)
{
    return sign_with(ctx, "device.pem", digest, out, room, n);
}

static int done(void *ctx) { return write_file(ctx, "done", NULL, 0); }

static int forget(void *ctx)
{
    static const char *const names[] = {"device.pem", "csr.der", "certificate.der", "chain.der", "wrapped.bin", "password"};
    struct sim *s = ctx;
    size_t i;

    if (exists(in_dir(s, "done")))
        return FAILED_LOCKED;
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (unlink(in_dir(s, names[i]).text) != 0 && errno != ENOENT)
            return FAILED_FILE;
    return BM_OK;
}

static const struct bm_device with_keys = {
    .send = transmit, .identify = identify, .request = request, .public_key = public_key, .prove = prove,
    .install = install, .read_back = read_back, .confirm = confirm, .done = done, .abort = forget,
};

/* The device, with canned answers: what it says follows from what it is asked. */

static int canned(const char *name, const uint8_t *data, size_t len, size_t total, uint8_t *out, size_t room,
                  size_t *n)
{
    size_t i, k = strlen(name);

    if (k + len > total || total > room)
        return FAILED_FILE;
    memcpy(out, name, k);
    memcpy(out + k, data, len);
    for (i = k + len; i < total; i++)
        out[i] = (uint8_t)(i * 7);
    *n = total;
    return BM_OK;
}

static int canned_request(void *ctx, const char *name, uint8_t *out, size_t room, size_t *n)
{
    struct sim *s = ctx;

    if (s->asked++ % 3 != 2)
        return BM_BUSY; /* keys take their time */
    return canned("request ", (const uint8_t *)name, strlen(name), 700, out, room, n);
}

static int canned_key(void *ctx, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    return canned("key", (const uint8_t *)"", 0, 91, out, room, n);
}

static int canned_recipient(void *ctx, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    return canned("recipient", (const uint8_t *)"", 0, BM_LINE_BLOB, out, room, n);
}

static int canned_proof(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    return canned("proof ", digest, BM_LINE_DIGEST, 72, out, room, n);
}

static int canned_confirm(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    return canned("confirm ", digest, BM_LINE_DIGEST, 72, out, room, n);
}

static int canned_install(void *ctx, enum bm_object kind, const uint8_t *data, size_t n)
{
    struct sim *s = ctx;

    if (kind == BM_CERTIFICATE) {
        memcpy(s->canned, data, n);
        s->canned_len = n;
    }
    return BM_OK;
}

static int canned_read_back(void *ctx, uint8_t *out, size_t room, size_t *n)
{
    struct sim *s = ctx;

    if (s->canned_len == 0 || s->canned_len > room)
        return FAILED_NOTHING_THERE;
    memcpy(out, s->canned, s->canned_len);
    *n = s->canned_len;
    return BM_OK;
}

static int canned_abort(void *ctx)
{
    struct sim *s = ctx;

    s->canned_len = 0;
    return BM_OK;
}

static const struct bm_device with_canned_answers = {
    .send = transmit, .identify = identify, .request = canned_request, .public_key = canned_key,
    .recipient = canned_recipient, .prove = canned_proof, .install = canned_install,
    .read_back = canned_read_back, .confirm = canned_confirm, .abort = canned_abort, /* and no done */
};

static int open_tty(const char *name)
{
    struct termios t;
    int fd = open(name, O_RDWR | O_NOCTTY);

    if (fd < 0 || tcgetattr(fd, &t) != 0)
        return -1;
    t.c_iflag = 0;
    t.c_oflag = 0;
    t.c_lflag = 0;
    t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB | CSTOPB)) | CS8 | CREAD | CLOCAL;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    return tcsetattr(fd, TCSANOW, &t) == 0 ? fd : -1;
}

int main(int argc, char **argv)
{
    static struct sim s;
    static struct bm_line line;
    const struct bm_device *choice = &with_keys;
    struct bm_device device;
    uint8_t buf[256];
    ssize_t n;
    int c;

    s.in = STDIN_FILENO;
    s.out = STDOUT_FILENO;
    while ((c = getopt(argc, argv, "ct:")) != -1) {
        if (c == 'c')
            choice = &with_canned_answers;
        else if (c != 't' || (s.in = s.out = open_tty(optarg)) < 0)
            return 2;
    }
    if (optind != argc - 1) {
        fputs("usage: device_sim [-c] [-t TTY] DIR\n", stderr);
        return 2;
    }
    s.dir = argv[optind];
    device = *choice;
    device.ctx = &s;
    bm_line_init(&line, &device);
    while ((n = read(s.in, buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            bm_line_feed(&line, buf, (size_t)n);
    return 0;
}
