/*
 * bm_line: the device's side of Birthmark's serial line protocol
 * (docs/protocols/serial.md), for small microcontrollers.
 *
 * Freestanding C99: no malloc, no libc but memcpy and memcmp, all memory inside
 * struct bm_line, whose size is fixed when it is compiled (about 2.5 KiB with the
 * default BM_LINE_BLOB). Feed it what the UART receives; it calls the functions
 * of struct bm_device for keys, signatures and storage, and struct bm_device's
 * send for what is to be transmitted. It is not reentrant: one task or interrupt
 * level calls it.
 */
#ifndef BM_LINE_H
#define BM_LINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The longest object that is transferred: a request, certificate, chain or
 * wrapped key. At least 256, at most 65535. */
#ifndef BM_LINE_BLOB
#define BM_LINE_BLOB 2048
#endif

#define BM_LINE_VERSION 1
#define BM_LINE_MAX 160   /* longest line with its LF */
#define BM_LINE_CHUNK 96  /* octets of an object in one line */
#define BM_LINE_DIGEST 32 /* SHA-256 */
#define BM_LINE_SERIAL 64 /* longest device serial */

/* What a callback returns: BM_OK, BM_BUSY when it has started and wants to be
 * called again with the same arguments, or a number from 1 to 65535 that says
 * why it failed; the station shows the number. */
#define BM_OK 0
#define BM_BUSY (-1)

/* What bm_device.install is given. */
enum bm_object {
    BM_CERTIFICATE = 1, /* the device's certificate, DER */
    BM_CHAIN,           /* certificates of the authorities, DER, one after another */
    BM_WRAPPED,         /* a private key made elsewhere: CMS or PKCS #12 */
    BM_PASSWORD         /* one-time password of the PKCS #12 that follows */
};

/* Who the device is: text of printable ASCII without '=', NULL or "" where there
 * is none. The text must stay valid until the next call of the library. */
struct bm_identity {
    const char *serial;   /* device serial, if the device knows it already */
    const char *vendor;   /* of the secure element, as its manifest names it */
    const char *uid;      /* of the secure element, as its manifest writes it */
    const char *slot;     /* of the key that proves the chip */
    const char *hardware; /* version */
    const char *firmware; /* version */
};

/* What the device can do. ctx is handed to each function. A function that is NULL
 * is answered with ERR NONE. Functions with out write at most room octets there
 * and set *n. */
struct bm_device {
    void *ctx;

    /* Transmits octets, all of them. Must not be NULL. */
    void (*send)(void *ctx, const uint8_t *data, size_t n);

    int (*identify)(void *ctx, struct bm_identity *out);

    /* Makes the key of the identity, if there is none that was not yet
     * confirmed, and a certificate request for it (DER). serial is the device
     * serial that the station gives, "" if it gives none. */
    int (*request)(void *ctx, const char *serial, uint8_t *out, size_t room, size_t *n);

    /* The chip's public key (DER SubjectPublicKeyInfo), for keys that the chip
     * maker put in. */
    int (*public_key)(void *ctx, uint8_t *out, size_t room, size_t *n);

    /* The certificate (DER) to which a key made elsewhere is to be wrapped. */
    int (*recipient)(void *ctx, uint8_t *out, size_t room, size_t *n);

    /* Signs a digest with the chip's own key: ECDSA as ASN.1 DER. */
    int (*prove)(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n);

    /* Stores an object for good, or until it is aborted. */
    int (*install)(void *ctx, enum bm_object kind, const uint8_t *data, size_t n);

    /* Reads the certificate back from where it is stored. */
    int (*read_back)(void *ctx, uint8_t *out, size_t room, size_t *n);

    /* Signs a digest with the key of the identity. */
    int (*confirm)(void *ctx, const uint8_t *digest, uint8_t *out, size_t room, size_t *n);

    /* The server has confirmed the unit: the device may lock its slots. */
    int (*done)(void *ctx);

    /* Forget what was installed and not confirmed. */
    int (*abort)(void *ctx);
};

/* The line's memory. Its members are the library's own. */
struct bm_line {
    const struct bm_device *device;

    char line[BM_LINE_MAX]; /* being received */
    size_t line_len;
    uint8_t receiving;

    char answer[BM_LINE_MAX]; /* the newest, to be sent again */
    size_t answer_len;

    uint8_t session[8];
    uint8_t open;       /* there is a session */
    uint16_t seq;       /* of the newest request */
    uint32_t check;     /* its CRC */

    uint8_t blob[BM_LINE_BLOB];
    size_t blob_len;
    uint8_t blob_use; /* nothing, coming in, going out */
};

/* Prepares a line. The device must outlive it. */
void bm_line_init(struct bm_line *l, const struct bm_device *device);

/* Takes octets as they were received, in pieces of any size. */
void bm_line_feed(struct bm_line *l, const uint8_t *data, size_t n);

/* CRC-32 as in IEEE 802.3; start with 0, go on with the last result. */
uint32_t bm_line_crc(uint32_t crc, const void *data, size_t n);

#ifdef __cplusplus
}
#endif

#endif
