/* Event files are taken apart again: frames and their CRCs, fields, what a resume and a failed write
 * leave. tests/golden/compare_tensorboard.py has TensorBoard's own reader beside it. */
#include "train/run/tensorboard.h"

#include "tests/scratch.h"
#include "train/run/metrics.h"

#include <criterion/criterion.h>
#include <jansson.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

TestSuite(tensorboard, .init = begin_folder, .fini = end_folder);

/* --- CRC32C ----------------------------------------------------------------------------------- */

/* RFC 3720: the remainder by 0x1edc6f41, where each byte comes with its lowest bit first and so does
 * the result; all ones before, complemented behind. */
static uint32_t crc32c(const uint8_t *byte, size_t n)
{
    uint32_t remainder = 0xffffffffU, reflected = 0;
    for (size_t i = 0; i < 8 * n; i++) {
        uint32_t bit = (uint32_t)byte[i / 8] >> (i % 8) & 1;
        remainder = remainder << 1 ^ ((remainder >> 31 ^ bit) ? 0x1edc6f41U : 0);
    }
    for (int i = 0; i < 32; i++) {
        reflected |= (remainder >> i & 1) << (31 - i);
    }
    return ~reflected;
}

Test(tensorboard, crc_has_the_values_of_rfc_3720)
{
    uint8_t zeros[32] = {0}, ones[32], up[32], down[32];
    for (int i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    cr_assert(crc32c(zeros, 32) == 0x8a9136aaU && crc32c(ones, 32) == 0x62a8ab43U);
    cr_assert(crc32c(up, 32) == 0x46dd794eU && crc32c(down, 32) == 0x113fdb5cU);
}

/* --- Reading ---------------------------------------------------------------------------------- */

typedef struct scalar {
    char tag[64];
    float value;
} scalar;

typedef struct event {
    double time;
    int64_t step;
    char version[64];
    int64_t status; /* of a session */
    scalar scalar[RF_TENSORBOARD_VALUES];
    int n_scalars;
} event;

typedef struct events {
    event event[16];
    int n;
} events;

typedef struct piece {
    const uint8_t *byte;
    size_t n;
} piece;

static uint64_t take_varint(piece *from)
{
    uint64_t x = 0;
    uint8_t byte = 0x80;
    for (int shift = 0; byte >= 0x80; shift += 7) {
        cr_assert(from->n > 0 && shift < 70);
        byte = *from->byte++;
        from->n--;
        x |= (uint64_t)(byte & 0x7f) << shift;
    }
    return x;
}

static const uint8_t *take(piece *from, size_t n)
{
    cr_assert(n <= from->n, "%zu bytes, only %zu are there", n, from->n);
    const uint8_t *byte = from->byte;
    from->byte += n;
    from->n -= n;
    return byte;
}

static piece take_piece(piece *from)
{
    size_t n = take_varint(from);
    return (piece){take(from, n), n};
}

static void take_text(char *out, size_t bytes, piece *from)
{
    piece text = take_piece(from);
    cr_assert(text.n < bytes);
    memcpy(out, text.byte, text.n);
    out[text.n] = '\0';
}

/* Keys of fields are number * 8 + kind; an unexpected one fails. */
static void take_value(scalar *out, piece from)
{
    while (from.n > 0) {
        uint64_t key = take_varint(&from);
        switch (key) {
        case 1 * 8 + 2:
            take_text(out->tag, sizeof out->tag, &from);
            break;
        case 2 * 8 + 5:
            memcpy(&out->value, take(&from, 4), 4);
            break;
        default:
            cr_assert(false, "key %d in a value", (int)key);
        }
    }
}

static void take_event(event *out, piece from)
{
    *out = (event){0};
    while (from.n > 0) {
        uint64_t key = take_varint(&from);
        piece part;
        switch (key) {
        case 1 * 8 + 1:
            memcpy(&out->time, take(&from, 8), 8);
            break;
        case 2 * 8 + 0:
            out->step = (int64_t)take_varint(&from);
            break;
        case 3 * 8 + 2:
            take_text(out->version, sizeof out->version, &from);
            break;
        case 5 * 8 + 2:
            for (part = take_piece(&from); part.n > 0;) {
                cr_assert(take_varint(&part) == 1 * 8 + 2);
                take_value(&out->scalar[out->n_scalars++], take_piece(&part));
            }
            break;
        case 7 * 8 + 2:
            part = take_piece(&from);
            cr_assert(take_varint(&part) == 1 * 8 + 0);
            out->status = (int64_t)take_varint(&part);
            break;
        default:
            cr_assert(false, "key %d in an event", (int)key);
        }
    }
}

static void check_crc(piece *from, const uint8_t *byte, size_t n)
{
    uint32_t masked, crc = crc32c(byte, n);
    memcpy(&masked, take(from, 4), 4);
    cr_assert(masked == (crc >> 15 | crc << 17) + 0xa282ead8U);
}

static void read_events(events *out, const char *name)
{
    static uint8_t bytes[1 << 16];
    FILE *file = fopen(in_folder(name), "rb");
    cr_assert(file != NULL, "%s", name);
    piece from = {bytes, fread(bytes, 1, sizeof bytes, file)};
    fclose(file);
    for (out->n = 0; from.n > 0; out->n++) {
        uint64_t n;
        const uint8_t *length = take(&from, 8);
        memcpy(&n, length, 8);
        check_crc(&from, length, 8);
        const uint8_t *message = take(&from, n);
        check_crc(&from, message, n);
        take_event(&out->event[out->n], (piece){message, n});
    }
}

static char names[8][256];

/* Sets names to those of the folder, in order; how many. */
static int list(void)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort);
    cr_assert(n >= 2 && n <= 10);
    for (int i = 0; i < n; i++) {
        if (i >= 2) { /* not "." and ".." */
            snprintf(names[i - 2], sizeof *names, "%s", entries[i]->d_name);
        }
        free(entries[i]);
    }
    free(entries);
    return n - 2;
}

/* --- Tests ------------------------------------------------------------------------------------ */

static rf_tensorboard *open_at(int64_t step)
{
    rf_tensorboard *board = NULL;
    rf_error err = {0};
    cr_assert(rf_tensorboard_open(&board, folder, step, &err) == RF_OK, "%s", err.message);
    return board;
}

Test(tensorboard, records_hold_what_was_written)
{
    events all;
    double before = (double)time(NULL);
    rf_tensorboard *board = open_at(300);
    rf_tensorboard_add(board, "train", "loss", 1.0 / 3.0);
    rf_tensorboard_add(board, "train", "grad_norm", (double)NAN);
    rf_tensorboard_write(board, 301);
    rf_tensorboard_add(board, "valid", "loss", -2.5);
    rf_tensorboard_write(board, INT64_C(1) << 40);
    cr_assert(list() == 1);
    read_events(&all, names[0]); /* written, though the file is still open */
    cr_assert(all.n == 4);
    const event *e = all.event;
    for (int i = 0; i < all.n; i++) {
        cr_assert(e[i].time >= before && e[i].time < before + 60.0);
    }
    cr_assert(strcmp(e[0].version, "brain.Event:2") == 0 && e[0].step == 0);
    cr_assert(e[1].status == 1 && e[1].step == 301 && e[1].n_scalars == 0); /* START */
    cr_assert(e[2].step == 301 && e[2].n_scalars == 2);
    cr_assert(strcmp(e[2].scalar[0].tag, "train/loss") == 0);
    cr_assert(memcmp(&e[2].scalar[0].value, &(float){1.0F / 3.0F}, sizeof(float)) == 0);
    cr_assert(strcmp(e[2].scalar[1].tag, "train/grad_norm") == 0 && isnan(e[2].scalar[1].value));
    cr_assert(e[3].step == INT64_C(1) << 40 && e[3].n_scalars == 1);
    cr_assert(strcmp(e[3].scalar[0].tag, "valid/loss") == 0);
    rf_tensorboard_close(board);
}

Test(tensorboard, an_event_takes_all_its_values)
{
    char name[64];
    events all;
    rf_tensorboard *board = open_at(0);
    memset(name, 'n', sizeof name);
    name[57] = '\0'; /* 63 bytes with "group/" */
    for (int i = 0; i < RF_TENSORBOARD_VALUES; i++) {
        rf_tensorboard_add(board, "group", name, i);
    }
    rf_tensorboard_write(board, INT64_MAX);
    rf_tensorboard_close(board);
    list();
    read_events(&all, names[0]);
    cr_assert(all.n == 3 && all.event[2].n_scalars == RF_TENSORBOARD_VALUES);
    cr_assert(all.event[2].step == INT64_MAX);
    cr_assert(strlen(all.event[2].scalar[RF_TENSORBOARD_VALUES - 1].tag) == 63);
}

/* Within one second, and behind a file of a host whose clock is ahead. */
Test(tensorboard, later_processes_come_later)
{
    events all;
    FILE *ahead = fopen(in_folder("events.out.tfevents.9000000000.host.1"), "w");
    fclose(ahead);
    for (int64_t step = 0; step < 3; step++) {
        rf_tensorboard_close(open_at(10 * step));
    }
    cr_assert(list() == 4);
    for (int i = 0; i < 3; i++) {
        read_events(&all, names[i + 1]);
        cr_assert(all.event[1].step == 10 * i + 1, "file %d is %s", i, names[i + 1]);
    }
}

Test(tensorboard, a_full_disk_leaves_whole_records)
{
    events all;
    signal(SIGXFSZ, SIG_IGN);
    rf_tensorboard *board = open_at(0);
    for (int64_t step = 1; step <= 5; step++) {
        struct rlimit limit = {.rlim_cur = step % 4 > 1 ? 150 : 4096, .rlim_max = RLIM_INFINITY};
        cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        rf_tensorboard_add(board, "train", "loss", (double)step);
        rf_tensorboard_write(board, step);
    }
    rf_tensorboard_close(board);
    list();
    read_events(&all, names[0]);
    cr_assert(all.n == 5, "%d", all.n);
    cr_assert(all.event[2].step == 1 && all.event[3].step == 4 && all.event[4].step == 5);
}

Test(tensorboard, curves_are_those_of_the_metrics)
{
    static const char *const tags[] = {"train/loss",         "train/loss_ar",
                                       "train/loss_denoise", "train/grad_norm",
                                       "train/lr",           "train/tokens_per_second"};
    static const float values[] = {3.0F, 1.0F, 2.0F, 4.0F, 0.5F, 100.0F};
    events all;
    rf_metrics *metrics = NULL;
    rf_error err = {0};
    rf_step_metrics line = {.step = 1,
                            .n_steps = 2,
                            .objective = &rf_objective_refusion,
                            .loss = 3.0,
                            .part_loss = {1.0, 2.0},
                            .grad_norm = 4.0,
                            .lr = 0.5,
                            .tokens_per_second = 100.0};
    cr_assert(rf_metrics_open(&metrics, folder, 0, false, true, &err) == RF_OK, "%s", err.message);
    rf_metrics_step(metrics, &line, 1000);
    rf_metrics_event(metrics, "valid", 1,
                     json_pack("{s:f,s:n,s:i}", "loss", 2.5, "loss_ar", "n_ar", 7));
    rf_metrics_event(metrics, "end", 1, NULL);
    rf_metrics_close(metrics);
    list();
    read_events(&all, names[0]);
    cr_assert(all.n == 4 && all.event[2].n_scalars == 6 && all.event[3].n_scalars == 2);
    for (int i = 0; i < 6; i++) {
        const scalar *got = &all.event[2].scalar[i];
        cr_assert(strcmp(got->tag, tags[i]) == 0 && got->value == values[i], "%s", got->tag);
    }
    const scalar *valid = all.event[3].scalar;
    cr_assert(strcmp(valid[0].tag, "valid/loss") == 0 && valid[0].value == 2.5F);
    cr_assert(strcmp(valid[1].tag, "valid/loss_ar") == 0 && isnan(valid[1].value));
}

Test(tensorboard, none_is_fine)
{
    rf_tensorboard *board = NULL;
    rf_error err = {0};
    rf_tensorboard_add(NULL, "train", "loss", 1.0);
    rf_tensorboard_write(NULL, 1);
    rf_tensorboard_sync(NULL);
    rf_tensorboard_close(NULL);
    cr_assert(rf_tensorboard_open(&board, "/no/such/folder", 0, &err) != RF_OK && board == NULL);
    cr_assert(strstr(err.message, "/no/such/folder") != NULL);
}
