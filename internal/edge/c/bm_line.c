#include "bm_line.h"

/* Declared here because a freestanding compiler need not have <string.h>. */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#if BM_LINE_BLOB < 256 || BM_LINE_BLOB > 65535
#error "BM_LINE_BLOB is out of range"
#endif

enum { BLOB_NONE, BLOB_IN, BLOB_OUT };

enum { SEQ_LEN = 4, CRC_LEN = 8, MAX_FIELDS = 4 };

/* A field of a line: text without its end. */
struct field {
    const char *at;
    size_t len;
};

struct frame {
    uint16_t seq;
    uint32_t check;
    struct field verb;
    struct field fields[MAX_FIELDS];
    size_t count;
};

/* Octets and text */

uint32_t bm_line_crc(uint32_t crc, const void *data, size_t n)
{
    const uint8_t *p = data;
    size_t i;
    int bit;

    /* Bit by bit: a table would take 1 KiB, and a line is short. */
    crc = ~crc;
    for (i = 0; i < n; i++) {
        crc ^= p[i];
        for (bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static size_t text_len(const char *s)
{
    size_t n = 0;

    while (s[n] != '\0')
        n++;
    return n;
}

static int is(struct field f, const char *word)
{
    size_t n = text_len(word);

    return f.len == n && memcmp(f.at, word, n) == 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Reads exactly the field's digits; 0 when one of them is not a lower-case
 * hexadecimal digit. */
static int read_hex(struct field f, size_t digits, uint32_t *out)
{
    uint32_t v = 0;
    size_t i;
    int d;

    if (f.len != digits)
        return 0;
    for (i = 0; i < digits; i++) {
        d = hex_value(f.at[i]);
        if (d < 0)
            return 0;
        v = (v << 4) | (uint32_t)d;
    }
    *out = v;
    return 1;
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    if (c == '/')
        return 63;
    return -1;
}

/* Decodes base64 without padding, "-" for nothing; 0 when the text is not
 * canonical or does not fit. */
static int read_base64(struct field f, uint8_t *out, size_t room, size_t *n)
{
    uint32_t bits = 0;
    unsigned held = 0;
    size_t i;
    int v;

    *n = 0;
    if (is(f, "-"))
        return 1;
    if (f.len == 0 || f.len % 4 == 1 || f.len / 4 * 3 + (f.len % 4 * 3) / 4 > room)
        return 0;
    for (i = 0; i < f.len; i++) {
        v = base64_value(f.at[i]);
        if (v < 0)
            return 0;
        bits = (bits << 6) | (uint32_t)v;
        held += 6;
        if (held >= 8) {
            held -= 8;
            out[(*n)++] = (uint8_t)(bits >> held);
            bits &= (1u << held) - 1u;
        }
    }
    return bits == 0;
}

/* Writing an answer. What does not fit is not written, which cannot happen: the
 * longest answer is a full READ. */

static void put(struct bm_line *l, char c)
{
    if (l->answer_len < BM_LINE_MAX)
        l->answer[l->answer_len++] = c;
}

static void put_text(struct bm_line *l, const char *s)
{
    while (*s != '\0')
        put(l, *s++);
}

static void put_hex(struct bm_line *l, uint32_t v, unsigned digits)
{
    while (digits > 0)
        put(l, "0123456789abcdef"[(v >> (4 * --digits)) & 15u]);
}

static void put_base64(struct bm_line *l, const uint8_t *data, size_t n)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    unsigned held = 0;
    size_t i;

    if (n == 0)
        put(l, '-');
    for (i = 0; i < n; i++) {
        bits = (bits << 8) | data[i];
        for (held += 8; held >= 6;) {
            held -= 6;
            put(l, alphabet[(bits >> held) & 63u]);
        }
    }
    if (held > 0)
        put(l, alphabet[(bits << (6 - held)) & 63u]);
}

static void begin(struct bm_line *l, uint16_t seq, const char *verb)
{
    l->answer_len = 0;
    put(l, '<');
    put_hex(l, seq, SEQ_LEN);
    put(l, ' ');
    put_text(l, verb);
}

static void finish(struct bm_line *l)
{
    put(l, ' ');
    put_hex(l, bm_line_crc(0, l->answer, l->answer_len), CRC_LEN);
    put(l, '\n');
}

static void transmit(struct bm_line *l)
{
    l->device->send(l->device->ctx, (const uint8_t *)l->answer, l->answer_len);
}

static void ok(struct bm_line *l, const struct frame *f)
{
    begin(l, f->seq, "OK");
}

static void error(struct bm_line *l, const struct frame *f, const char *name)
{
    begin(l, f->seq, "ERR");
    put(l, ' ');
    put_text(l, name);
}

/* Renders what a callback returned; 1 when it is BM_OK and the answer waits for
 * its fields. */
static int returned(struct bm_line *l, const struct frame *f, int result)
{
    if (result == BM_OK) {
        ok(l, f);
        return 1;
    }
    if (result == BM_BUSY) {
        begin(l, f->seq, "BUSY");
        return 0;
    }
    error(l, f, "FAIL");
    put(l, ' ');
    put_hex(l, result > 0 && result <= 0xffff ? (uint32_t)result : 0u, 4);
    return 0;
}

/* Answers with the length and CRC of the object that a callback left in the
 * blob. */
static void offer(struct bm_line *l, const struct frame *f, int result, size_t n)
{
    l->blob_use = BLOB_NONE;
    if (result == BM_OK && n > BM_LINE_BLOB) {
        error(l, f, "ROOM");
        return;
    }
    if (!returned(l, f, result))
        return;
    l->blob_use = BLOB_OUT;
    l->blob_len = n;
    put(l, ' ');
    put_hex(l, (uint32_t)n, 4);
    put(l, ' ');
    put_hex(l, bm_line_crc(0, l->blob, n), CRC_LEN);
}

/* The verbs */

typedef void verb_fn(struct bm_line *l, const struct frame *f);

/* Adds "name=value\n" to the blob if there is a value; 0 when it does not fit or
 * is no printable text. */
static int describe(struct bm_line *l, size_t *n, const char *name, const char *value)
{
    size_t name_len = text_len(name), len, i;

    if (value == NULL || *value == '\0')
        return 1;
    len = text_len(value);
    if (name_len + len + 2 > BM_LINE_BLOB - *n)
        return 0;
    for (i = 0; i < len; i++)
        if (value[i] < 0x20 || value[i] > 0x7e || value[i] == '=')
            return 0;
    memcpy(l->blob + *n, name, name_len);
    *n += name_len;
    l->blob[(*n)++] = '=';
    memcpy(l->blob + *n, value, len);
    *n += len;
    l->blob[(*n)++] = '\n';
    return 1;
}

static void do_identify(struct bm_line *l, const struct frame *f)
{
    struct bm_identity id = {NULL, NULL, NULL, NULL, NULL, NULL};
    size_t n = 0;
    int result;

    if (l->device->identify == NULL) {
        error(l, f, "NONE");
        return;
    }
    result = l->device->identify(l->device->ctx, &id);
    if (result == BM_OK &&
        !(describe(l, &n, "serial", id.serial) && describe(l, &n, "vendor", id.vendor) &&
          describe(l, &n, "uid", id.uid) && describe(l, &n, "slot", id.slot) &&
          describe(l, &n, "hardware", id.hardware) && describe(l, &n, "firmware", id.firmware))) {
        l->blob_use = BLOB_NONE;
        error(l, f, "ROOM");
        return;
    }
    offer(l, f, result, n);
}

static void do_request(struct bm_line *l, const struct frame *f)
{
    char name[BM_LINE_SERIAL + 1];
    size_t len, i, n = 0;
    int result;

    if (l->device->request == NULL) {
        error(l, f, "NONE");
        return;
    }
    if (!read_base64(f->fields[0], (uint8_t *)name, BM_LINE_SERIAL, &len)) {
        error(l, f, "FORM");
        return;
    }
    for (i = 0; i < len; i++) {
        if (name[i] < 0x20 || name[i] > 0x7e) {
            error(l, f, "FORM");
            return;
        }
    }
    name[len] = '\0';
    result = l->device->request(l->device->ctx, name, l->blob, BM_LINE_BLOB, &n);
    offer(l, f, result, n);
}

/* An object that the device simply has. */
static void give(struct bm_line *l, const struct frame *f,
                 int (*get)(void *, uint8_t *, size_t, size_t *))
{
    size_t n = 0;
    int result;

    if (get == NULL) {
        error(l, f, "NONE");
        return;
    }
    result = get(l->device->ctx, l->blob, BM_LINE_BLOB, &n);
    offer(l, f, result, n);
}

static void do_key(struct bm_line *l, const struct frame *f) { give(l, f, l->device->public_key); }

static void do_recipient(struct bm_line *l, const struct frame *f) { give(l, f, l->device->recipient); }

static void do_read_back(struct bm_line *l, const struct frame *f) { give(l, f, l->device->read_back); }

static void sign(struct bm_line *l, const struct frame *f,
                 int (*with)(void *, const uint8_t *, uint8_t *, size_t, size_t *))
{
    uint8_t digest[BM_LINE_DIGEST];
    size_t len, n = 0;
    int result;

    if (with == NULL) {
        error(l, f, "NONE");
        return;
    }
    if (!read_base64(f->fields[0], digest, sizeof digest, &len) || len != sizeof digest) {
        error(l, f, "FORM");
        return;
    }
    result = with(l->device->ctx, digest, l->blob, BM_LINE_BLOB, &n);
    offer(l, f, result, n);
}

static void do_prove(struct bm_line *l, const struct frame *f) { sign(l, f, l->device->prove); }

static void do_confirm(struct bm_line *l, const struct frame *f) { sign(l, f, l->device->confirm); }

static void do_read(struct bm_line *l, const struct frame *f)
{
    uint32_t offset;
    size_t n;

    if (!read_hex(f->fields[0], 4, &offset)) {
        error(l, f, "FORM");
        return;
    }
    if (l->blob_use != BLOB_OUT || offset > l->blob_len) {
        error(l, f, "STATE");
        return;
    }
    n = l->blob_len - offset;
    if (n > BM_LINE_CHUNK)
        n = BM_LINE_CHUNK;
    ok(l, f);
    put(l, ' ');
    put_hex(l, offset, 4);
    put(l, ' ');
    put_base64(l, l->blob + offset, n);
}

static void do_data(struct bm_line *l, const struct frame *f)
{
    uint8_t piece[BM_LINE_CHUNK];
    uint32_t offset;
    size_t n;

    if (!read_hex(f->fields[0], 4, &offset) || !read_base64(f->fields[1], piece, sizeof piece, &n)) {
        error(l, f, "FORM");
        return;
    }
    if (offset == 0) {
        l->blob_use = BLOB_IN;
        l->blob_len = 0;
    }
    if (l->blob_use != BLOB_IN || offset != l->blob_len) {
        error(l, f, "STATE");
        return;
    }
    if (n > BM_LINE_BLOB - l->blob_len) {
        error(l, f, "ROOM");
        return;
    }
    memcpy(l->blob + offset, piece, n);
    l->blob_len += n;
    ok(l, f);
    put(l, ' ');
    put_hex(l, (uint32_t)l->blob_len, 4);
}

static void do_install(struct bm_line *l, const struct frame *f)
{
    uint32_t len, check;
    enum bm_object kind;

    if (is(f->fields[0], "CERT"))
        kind = BM_CERTIFICATE;
    else if (is(f->fields[0], "CHAIN"))
        kind = BM_CHAIN;
    else if (is(f->fields[0], "KEY"))
        kind = BM_WRAPPED;
    else if (is(f->fields[0], "PASSWORD"))
        kind = BM_PASSWORD;
    else {
        error(l, f, "FORM");
        return;
    }
    if (!read_hex(f->fields[1], 4, &len) || !read_hex(f->fields[2], CRC_LEN, &check)) {
        error(l, f, "FORM");
        return;
    }
    if (l->device->install == NULL) {
        error(l, f, "NONE");
        return;
    }
    if (l->blob_use != BLOB_IN) {
        error(l, f, "STATE");
        return;
    }
    if (len != l->blob_len || check != bm_line_crc(0, l->blob, l->blob_len)) {
        error(l, f, "SUM");
        return;
    }
    (void)returned(l, f, l->device->install(l->device->ctx, kind, l->blob, l->blob_len));
}

static void act(struct bm_line *l, const struct frame *f, int (*on)(void *))
{
    if (on == NULL) {
        error(l, f, "NONE");
        return;
    }
    l->blob_use = BLOB_NONE;
    (void)returned(l, f, on(l->device->ctx));
}

static void do_done(struct bm_line *l, const struct frame *f) { act(l, f, l->device->done); }

static void do_abort(struct bm_line *l, const struct frame *f) { act(l, f, l->device->abort); }

static const struct {
    const char *name;
    size_t fields;
    verb_fn *run;
} verbs[] = {
    {"IDENT", 0, do_identify},   {"CSR", 1, do_request},       {"KEY", 0, do_key},
    {"RECIPIENT", 0, do_recipient}, {"PROVE", 1, do_prove},    {"DATA", 2, do_data},
    {"INSTALL", 3, do_install},  {"READBACK", 0, do_read_back}, {"READ", 1, do_read},
    {"CONFIRM", 1, do_confirm},  {"DONE", 0, do_done},         {"ABORT", 0, do_abort},
};

static void run(struct bm_line *l, const struct frame *f)
{
    size_t i;

    for (i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (!is(f->verb, verbs[i].name))
            continue;
        if (f->count == verbs[i].fields)
            verbs[i].run(l, f);
        else
            error(l, f, "FORM");
        return;
    }
    error(l, f, "VERB");
}

/* Lines */

/* Takes a line apart; 0 when it is no frame or was damaged, which is answered
 * by silence: the station sends it again. */
static int parse(const char *line, size_t n, struct frame *f)
{
    struct field part = {NULL, 0};
    uint32_t v;
    size_t i;

    if (n < 1 + SEQ_LEN + 1 + 1 + 1 + CRC_LEN || line[1 + SEQ_LEN] != ' ' || line[n - CRC_LEN - 1] != ' ')
        return 0;
    part.at = line + n - CRC_LEN;
    part.len = CRC_LEN;
    if (!read_hex(part, CRC_LEN, &f->check) || f->check != bm_line_crc(0, line, n - CRC_LEN))
        return 0;
    part.at = line + 1;
    part.len = SEQ_LEN;
    if (!read_hex(part, SEQ_LEN, &v))
        return 0;
    f->seq = (uint16_t)v;
    f->count = 0;
    f->verb.at = NULL;
    part.at = line + 1 + SEQ_LEN + 1;
    part.len = 0;
    for (i = 1 + SEQ_LEN + 1; i < n - CRC_LEN; i++) {
        if (line[i] != ' ') {
            part.len++;
            continue;
        }
        if (part.len == 0)
            return 0;
        if (f->verb.at == NULL)
            f->verb = part;
        else if (f->count < MAX_FIELDS)
            f->fields[f->count++] = part;
        else
            return 0;
        part.at = line + i + 1;
        part.len = 0;
    }
    return 1;
}

/* Begins a session. A device that has rebooted, or a station that was started
 * again, gets in step here. */
static void hello(struct bm_line *l, const struct frame *f, const uint8_t *session)
{
    memcpy(l->session, session, sizeof l->session);
    l->open = 1;
    l->blob_use = BLOB_NONE;
    ok(l, f);
    put(l, ' ');
    put_hex(l, BM_LINE_VERSION, 2);
    put(l, ' ');
    put_hex(l, BM_LINE_BLOB, 4);
}

static void handle(struct bm_line *l)
{
    uint8_t session[sizeof l->session];
    struct frame f;
    uint32_t version;
    size_t n;
    int fresh = 0;

    if (!parse(l->line, l->line_len, &f))
        return;
    if (l->open && f.seq == l->seq && f.check == l->check) {
        transmit(l); /* asked again: the answer was lost, the work is done */
        return;
    }
    if (is(f.verb, "HELLO")) {
        if (f.count != 2 || !read_hex(f.fields[0], 2, &version) ||
            !read_base64(f.fields[1], session, sizeof session, &n) || n != sizeof session)
            return;
        fresh = !l->open || memcmp(session, l->session, sizeof session) != 0;
    }
    if (fresh)
        hello(l, &f, session);
    else if (l->open && f.seq == (uint16_t)(l->seq + 1) && !is(f.verb, "HELLO"))
        run(l, &f);
    else {
        /* Out of step. The answer that may be asked for again stays as it is. */
        char kept[BM_LINE_MAX];
        size_t kept_len = l->answer_len;

        memcpy(kept, l->answer, sizeof kept);
        error(l, &f, "SEQ");
        finish(l);
        transmit(l);
        memcpy(l->answer, kept, sizeof kept);
        l->answer_len = kept_len;
        return;
    }
    finish(l);
    l->seq = f.seq;
    l->check = f.check;
    transmit(l);
}

void bm_line_init(struct bm_line *l, const struct bm_device *device)
{
    l->device = device;
    l->line_len = 0;
    l->receiving = 0;
    l->answer[0] = '\0';
    l->answer_len = 0;
    l->open = 0;
    l->seq = 0;
    l->check = 0;
    l->blob_len = 0;
    l->blob_use = BLOB_NONE;
}

void bm_line_feed(struct bm_line *l, const uint8_t *data, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        char c = (char)data[i];

        if (data[i] == '>') { /* wherever it stands, a frame begins here */
            l->receiving = 1;
            l->line_len = 0;
        }
        if (!l->receiving || data[i] == '\r')
            continue;
        if (data[i] == '\n') {
            l->receiving = 0;
            handle(l);
        } else if (data[i] < 0x20 || data[i] > 0x7e || l->line_len == BM_LINE_MAX - 1)
            l->receiving = 0;
        else
            l->line[l->line_len++] = c;
    }
}
