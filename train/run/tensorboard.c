#include "train/run/tensorboard.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they lie");

enum {
    TAG_BYTES = 64, /* the name of a curve, with its end */
    VALUE_BYTES = TAG_BYTES + 16,
    FRAME_BYTES = 64, /* most that time, step and the record's own numbers take */
    MESSAGE_BYTES = FRAME_BYTES + RF_TENSORBOARD_VALUES * VALUE_BYTES
};

typedef struct message {
    uint8_t byte[MESSAGE_BYTES];
    size_t n;
} message;

struct rf_tensorboard {
    int file;        /* -1: given up */
    int64_t bytes;   /* of whole records in it */
    message summary; /* of the next event */
    bool has_warned;
};

/* --- Protobuf --------------------------------------------------------------------------------- */

/* Kinds of fields on the wire. */
enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
/* Numbers of fields: event.proto, summary.proto. */
enum { EVENT_TIME = 1, EVENT_STEP = 2, EVENT_VERSION = 3, EVENT_SUMMARY = 5, EVENT_SESSION = 7 };
enum { SESSION_STATUS = 1, SESSION_START = 1 };
enum { SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_NUMBER = 2 };

static void put(message *m, const void *bytes, size_t n)
{
    memcpy(m->byte + m->n, bytes, n);
    m->n += n;
}

/* Seven bits a byte, the lowest first; the top bit says that more follow. */
static void put_varint(message *m, uint64_t x)
{
    for (; x >= 0x80; x >>= 7) {
        m->byte[m->n++] = (uint8_t)(x | 0x80);
    }
    m->byte[m->n++] = (uint8_t)x;
}

static void put_key(message *m, int field, int kind)
{
    put_varint(m, (uint64_t)(field << 3 | kind));
}

static void put_bytes(message *m, int field, const void *bytes, size_t n)
{
    put_key(m, field, BYTES);
    put_varint(m, n);
    put(m, bytes, n);
}

/* An event of this moment without its content. */
static message begin_event(int64_t step)
{
    message event = {.n = 0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    put_key(&event, EVENT_TIME, FIXED64);
    put(&event, &seconds, sizeof seconds);
    put_key(&event, EVENT_STEP, VARINT);
    put_varint(&event, (uint64_t)step);
    return event;
}

/* --- Records ---------------------------------------------------------------------------------- */

/* Bit by bit: an event has a few hundred bytes. */
static uint32_t masked_crc(const void *bytes, size_t n)
{
    const uint8_t *byte = bytes;
    uint32_t crc = 0xffffffffU;
    for (size_t i = 0; i < n; i++) {
        crc ^= byte[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);
        }
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8U;
}

static void warn(rf_tensorboard *b, int error)
{
    if (!b->has_warned) {
        rf_log_warn("log.tensorboard: %s: events are missing from now on: make room",
                    strerror(error));
        b->has_warned = true;
    }
}

static void write_record(rf_tensorboard *b, const message *event)
{
    if (b->file < 0) {
        return;
    }
    message record = {.n = 0};
    uint64_t length = event->n;
    uint32_t length_crc = masked_crc(&length, sizeof length);
    uint32_t crc = masked_crc(event->byte, event->n);
    put(&record, &length, sizeof length);
    put(&record, &length_crc, sizeof length_crc);
    put(&record, event->byte, event->n);
    put(&record, &crc, sizeof crc);
    ssize_t n = 0;
    do {
        n = write(b->file, record.byte, record.n);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)record.n) {
        b->bytes += n;
        return;
    }
    warn(b, n < 0 ? errno : ENOSPC);
    /* A reader stops at a torn record: the next one must not come behind it. */
    if (n > 0 && ftruncate(b->file, b->bytes) != 0) {
        close(b->file);
        b->file = -1;
    }
}

/* --- The file --------------------------------------------------------------------------------- */

/* The seconds in the name of the newest event file; 0: none. */
static int64_t newest(const char *folder)
{
    int64_t most = 0, seconds = 0;
    DIR *entries = opendir(folder);
    const struct dirent *entry;
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (sscanf(entry->d_name, "events.out.tfevents.%10" SCNd64, &seconds) == 1 &&
            seconds > most) {
            most = seconds;
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return most;
}

/* Readers drop what they have of steps from this event's on. */
static void write_start(rf_tensorboard *b, int64_t step)
{
    static const char version[] = "brain.Event:2";
    static const uint8_t start[] = {SESSION_STATUS << 3 | VARINT, SESSION_START};
    message event = begin_event(0);
    put_bytes(&event, EVENT_VERSION, version, strlen(version));
    write_record(b, &event);
    event = begin_event(step);
    put_bytes(&event, EVENT_SESSION, start, sizeof start);
    write_record(b, &event);
}

int rf_tensorboard_open(rf_tensorboard **out, const char *folder, int64_t step, rf_error *err)
{
    *out = NULL;
    char name[64], path[RF_PATH_BYTES];
    int64_t last = newest(folder), now = (int64_t)time(NULL);
    snprintf(name, sizeof name, "events.out.tfevents.%010" PRId64 ".refusion",
             now > last ? now : last + 1);
    RF_TRY(rf_path_join(path, sizeof path, folder, name, err));
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) {
        return rf_error_system(err, errno, path, "cannot be written");
    }
    rf_tensorboard *b = rf_alloc(1, sizeof *b);
    b->file = file;
    write_start(b, step + 1);
    *out = b;
    return RF_OK;
}

void rf_tensorboard_close(rf_tensorboard *b)
{
    if (b != NULL && b->file >= 0) {
        close(b->file);
    }
    free(b);
}

void rf_tensorboard_add(rf_tensorboard *b, const char *group, const char *name, double value)
{
    if (b == NULL) {
        return;
    }
    char tag[TAG_BYTES];
    float number = (float)value;
    message one = {.n = 0};
    snprintf(tag, sizeof tag, "%s/%s", group, name);
    put_bytes(&one, VALUE_TAG, tag, strlen(tag));
    put_key(&one, VALUE_NUMBER, FIXED32);
    put(&one, &number, sizeof number);
    put_bytes(&b->summary, SUMMARY_VALUE, one.byte, one.n);
}

void rf_tensorboard_write(rf_tensorboard *b, int64_t step)
{
    if (b == NULL) {
        return;
    }
    message event = begin_event(step);
    put_bytes(&event, EVENT_SUMMARY, b->summary.byte, b->summary.n);
    b->summary.n = 0;
    write_record(b, &event);
}

void rf_tensorboard_sync(rf_tensorboard *b)
{
    if (b != NULL && b->file >= 0) {
        (void)fdatasync(b->file); /* a file system that cannot is not our error */
    }
}
