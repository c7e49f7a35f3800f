/*
 * line_fuzz: what the tests drive the device's parser with. Each input is a
 * 4-octet length (big-endian) and so many octets; a fresh line is fed with it,
 * in pieces of odd sizes, and what it transmits comes back in the same form.
 * At the start it tells sizeof (struct bm_line), as 4 octets.
 */
#include "bm_line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t reply[1 << 20];
static size_t reply_len;

static void keep(void *ctx, const uint8_t *data, size_t n)
{
    (void)ctx;
    if (n > BM_LINE_MAX || n > sizeof reply - reply_len)
        abort();
    memcpy(reply + reply_len, data, n);
    reply_len += n;
}

static int identify(void *ctx, struct bm_identity *out)
{
    (void)ctx;
    out->serial = "SN1";
    out->uid = "00";
    return BM_OK;
}

/* Fills all the room there is, so that a wrong bound is seen. */
static int fill(uint8_t *out, size_t room, size_t *n)
{
    memset(out, 0x5a, room);
    *n = room;
    return BM_OK;
}

static int request(void *ctx, const char *name, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    if (strlen(name) > BM_LINE_SERIAL)
        abort();
    if (name[0] == 'B')
        return BM_BUSY;
    if (name[0] == 'F')
        return 7;
    return fill(out, room, n);
}

static int give(void *ctx, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    return fill(out, room, n);
}

static int sign(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n)
{
    (void)ctx;
    if (room < BM_LINE_DIGEST)
        abort();
    memcpy(out, digest, BM_LINE_DIGEST);
    *n = BM_LINE_DIGEST;
    return BM_OK;
}

static int install(void *ctx, enum bm_object kind, const uint8_t *data, size_t n)
{
    volatile uint8_t sum = 0;
    size_t i;

    (void)ctx;
    if (kind < BM_CERTIFICATE || kind > BM_PASSWORD || n > BM_LINE_BLOB)
        abort();
    for (i = 0; i < n; i++)
        sum = (uint8_t)(sum + data[i]);
    return BM_OK;
}

static int act(void *ctx)
{
    (void)ctx;
    return BM_OK;
}

static const struct bm_device device = {
    .send = keep, .identify = identify, .request = request, .public_key = give, .recipient = give, .prove = sign,
    .install = install, .read_back = give, .confirm = sign, .done = act, .abort = act,
};

static void put_length(size_t n)
{
    uint8_t b[4];

    b[0] = (uint8_t)(n >> 24);
    b[1] = (uint8_t)(n >> 16);
    b[2] = (uint8_t)(n >> 8);
    b[3] = (uint8_t)n;
    fwrite(b, 1, sizeof b, stdout);
}

int main(void)
{
    uint8_t b[4];

    put_length(sizeof(struct bm_line));
    fflush(stdout);
    while (fread(b, 1, sizeof b, stdin) == sizeof b) {
        size_t n = (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3], at = 0, piece = 1;
        uint8_t *input = malloc(n + 1); /* of the exact size, so that reading beyond is seen */
        struct bm_line *line = malloc(sizeof *line);

        if (input == NULL || line == NULL || fread(input, 1, n, stdin) != n)
            return 1;
        memset(line, 0xa5, sizeof *line); /* as RAM is after a reset */
        bm_line_init(line, &device);
        reply_len = 0;
        while (at < n) {
            piece = piece > n - at ? n - at : piece;
            bm_line_feed(line, input + at, piece);
            at += piece;
            piece = piece % 13 + 3;
        }
        put_length(reply_len);
        fwrite(reply, 1, reply_len, stdout);
        fflush(stdout);
        free(line);
        free(input);
    }
    return 0;
}
