/* safetensors files: what is written is read; what is wrong is refused with file and cause. */
#include "common/store/safetensors.h"

#include "tests/store/checkpoint_test.h"

#include <criterion/criterion.h>
#include <sys/resource.h>

TestSuite(safetensors, .init = begin_folder, .fini = end_folder);

/* --- Bad files -------------------------------------------------------------------------------- */

#define ENTRY(dtype, shape, begin, end)                                                            \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

typedef struct bad_file {
    const char *header;
    size_t data_bytes;
    const char *message;
} bad_file;

static const bad_file bad_files[] = {
    {"", 0, "not a JSON object"},
    {"[]", 0, "not a JSON object"},
    {"{\"a\":", 0, "not a JSON object"},
    {"{\"a\":" ENTRY("F32", "1", "0", "4") ",\"a\":" ENTRY("F32", "1", "4", "8") "}", 8,
     "duplicate"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
     "duplicate"},
    {"{\"a\":3}", 0, "not described"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype is missing"},
    {"{\"a\":" ENTRY("F33", "1", "0", "4") "}", 4, "\"F33\" is unknown"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":" ENTRY("F32", "-1", "0", "4") "}", 4, "shape[0]"},
    {"{\"a\":" ENTRY("F32", "1,1.5", "0", "4") "}", 4, "shape[1]"},
    {"{\"a\":" ENTRY("F32", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, "at most 8"},
    {"{\"a\":" ENTRY("F32", "4294967296,4294967296", "0", "4") "}", 4, "too many elements"},
    {"{\"a\":" ENTRY("F32", "4611686018427387905", "0", "4") "}", 4, "do not take"},
    {"{\"a\":" ENTRY("F32", "99999999999999999999", "0", "4") "}", 4, "not a JSON object"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}}", 4, "data_offsets"},
    {"{\"a\":" ENTRY("F32", "1", "-4", "0") "}", 4, "[-4, 0)"},
    {"{\"a\":" ENTRY("F32", "1", "4", "0") "}", 4, "[4, 0)"},
    {"{\"a\":" ENTRY("F32", "2", "0", "8") "}", 4, "truncated?"},
    {"{\"a\":" ENTRY("F32", "1", "9223372036854775803", "9223372036854775807") "}", 4, "bytes"},
    {"{\"a\":" ENTRY("F32", "2", "0", "4") "}", 4, "do not take"},
    {"{\"a\":" ENTRY("F32", "1", "0", "4") ",\"b\":" ENTRY("BF16", "2", "2", "6") "}", 6,
     "overlaps"},
    {"{\"a\":" ENTRY("F32", "1", "0", "4") ",\"b\":" ENTRY("F32", "1", "0", "4") "}", 4,
     "overlaps"},
    {"{\"a\":" ENTRY("F32", "1", "0", "4") ",\"b\":" ENTRY("F32", "1", "8", "12") "}", 12,
     "no tensor"},
    {"{\"a\":" ENTRY("F32", "1", "4", "8") "}", 8, "no tensor"},
    {"{\"a\":" ENTRY("F32", "1", "0", "4") "}", 5, "1 bytes behind"},
    {"{}", 1, "1 bytes behind"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "beside"},
    {"{\"__metadata__\":{\"format\":1}}", 0, "__metadata__"},
    {"{\"__metadata__\":[]}", 0, "__metadata__"},
    {"{\"a\\u0000b\":" ENTRY("F32", "1", "0", "4") "}", 4, "not a JSON object"},
    {"{\"\xff\":" ENTRY("F32", "1", "0", "4") "}", 4, "not a JSON object"},
};

/* A file with this header and so many zero bytes of values. Caller frees. */
static unsigned char *make_file(size_t *bytes, const char *header, size_t data_bytes)
{
    uint64_t length = strlen(header);
    *bytes = sizeof length + length + data_bytes;
    unsigned char *file = calloc(*bytes, 1);
    cr_assert_not_null(file);
    memcpy(file, &length, sizeof length);
    memcpy(file + sizeof length, header, length);
    return file;
}

Test(safetensors, bad_headers_are_refused)
{
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        const bad_file *bad = &bad_files[i];
        rf_error err = {0};
        rf_safetensors set;
        size_t bytes = 0;
        unsigned char *file = make_file(&bytes, bad->header, bad->data_bytes);
        cr_expect(rf_safetensors_scan(&set, file, bytes, "x.safetensors", &err) == RF_ERR, "%s",
                  bad->header);
        EXPECT_SAYS(&err, bad->message);
        EXPECT_SAYS(&err, "x.safetensors: ");
        rf_safetensors_close(&set);
        free(file);
    }
}

Test(safetensors, bad_lengths_are_refused)
{
    static const struct {
        uint64_t length;
        const char *message;
    } cases[] = {{100000000000, "100000000000 bytes, at most"},
                 {UINT64_MAX, "at most"},
                 {100000001, "at most"},
                 {100000000, "truncated"},
                 {3, "truncated"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_error err = {0};
        rf_safetensors set;
        unsigned char file[10] = {0};
        memcpy(file, &cases[i].length, sizeof cases[i].length);
        file[8] = '{';
        file[9] = '}';
        cr_expect(rf_safetensors_scan(&set, file, sizeof file, "x", &err) == RF_ERR);
        EXPECT_SAYS(&err, cases[i].message);
        rf_safetensors_close(&set);
        cr_expect(rf_safetensors_scan(&set, file, i, "x", &err) == RF_ERR);
        EXPECT_SAYS(&err, "too few");
        rf_safetensors_close(&set);
    }
}

/* Every beginning of a good file is refused, and none of them is read beyond its end. */
Test(safetensors, truncated_files_are_refused)
{
    size_t bytes = 0;
    const char *header =
        "{\"a\":" ENTRY("F32", "2", "0", "8") ",\"b\":" ENTRY("I64", "1", "8", "16") "}";
    unsigned char *file = make_file(&bytes, header, 16);
    for (size_t n = 0; n <= bytes; n++) {
        rf_error err = {0};
        rf_safetensors set;
        unsigned char *copy = malloc(n + 1); /* its size tells the sanitizer */
        memcpy(copy, file, n);
        int rc = rf_safetensors_scan(&set, copy, n, "x", &err);
        cr_expect(rc == (n == bytes ? RF_OK : RF_ERR), "%zu bytes", n);
        rf_safetensors_close(&set);
        free(copy);
    }
    free(file);
}

Test(safetensors, good_headers)
{
    rf_error err = {0};
    rf_safetensors set;
    size_t bytes = 0;
    unsigned char *file = make_file(
        &bytes,
        " {\"z\":" ENTRY("F16", "2,2", "0",
                         "8") ",\"__metadata__\":{\"format\":\"pt\"},"
                              "\"empty\":" ENTRY("F32", "0,7", "8", "8") ",\"scalar\":" ENTRY(
                                  "BF16", "", "8", "10") ",\"i\""
                                                         ":" ENTRY("I6"
                                                                   "4",
                                                                   "1", "10", "18") "}   ",
        18);
    cr_assert(rf_safetensors_scan(&set, file, bytes, "x", &err) == RF_OK, "%s", err.message);
    cr_assert(set.n == 4);
    const rf_safetensor *z = rf_safetensors_find(&set, "z");
    cr_assert(z != NULL && z->type == RF_F16 && z->n_dims == 2 && z->count == 4);
    cr_assert(z->bytes == 8 && z->data == file + bytes - 18);
    cr_assert(rf_safetensors_find(&set, "empty")->count == 0);
    cr_assert(rf_safetensors_find(&set, "scalar")->count == 1);
    cr_assert(rf_safetensors_find(&set, "i")->type == RF_N_TYPES);
    cr_assert_null(rf_safetensors_find(&set, "y"));
    rf_safetensors_close(&set);
    free(file);
}

/* --- Writing and reading ---------------------------------------------------------------------- */

static const rf_safetensors_item items[] = {
    {"b", 2, {3, 4}}, {"a", 1, {5}}, {"c.weight", 2, {2, 2}}, {"long", 2, {100, 3}}};
enum { N_ITEMS = sizeof items / sizeof items[0] };

static int64_t count_of(const rf_safetensors_item *item)
{
    return item->shape[0] * (item->n_dims == 2 ? item->shape[1] : 1);
}

/* Writes ramps in pieces, the last piece first. */
static int64_t write_ramps(rf_type type, int64_t max_shard_bytes)
{
    rf_safetensors_writer *writer = NULL;
    TINY_MUST(rf_safetensors_writer_new(&writer, folder, "model", type, items, N_ITEMS,
                                        max_shard_bytes, tiny_error()));
    for (int i = 0; i < N_ITEMS; i++) {
        int64_t count = count_of(&items[i]), half = count / 2;
        float value[300];
        double stored[300];
        for (int64_t j = 0; j < count; j++) {
            value[j] = (float)(j % 100 - 20 + i) * 0.25F;
        }
        cr_assert(rf_storage_encode(stored, type, value, count) == -1);
        size_t bytes = rf_type_bytes(type);
        TINY_MUST(rf_safetensors_writer_put(writer, items[i].name, half, count - half,
                                            (char *)stored + (size_t)half * bytes, tiny_error()));
        TINY_MUST(rf_safetensors_writer_put(writer, items[i].name, 0, half, stored, tiny_error()));
    }
    TINY_MUST(rf_safetensors_writer_finish(writer, tiny_error()));
    int64_t n = rf_safetensors_writer_files(writer);
    rf_safetensors_writer_free(writer);
    return n;
}

static void expect_ramps(rf_type type)
{
    rf_safetensors set;
    TINY_MUST(rf_safetensors_open(&set, folder, tiny_error()));
    cr_assert(set.n == N_ITEMS);
    for (int i = 0; i < N_ITEMS; i++) {
        const rf_safetensor *t = rf_safetensors_find(&set, items[i].name);
        float value[300];
        cr_assert(t != NULL && t->type == type && t->count == count_of(&items[i]));
        cr_assert(t->n_dims == items[i].n_dims && t->shape[0] == items[i].shape[0]);
        rf_storage_decode(value, t->data, t->type, t->count);
        rf_safetensors_forget(t, 0, t->bytes);
        for (int64_t j = 0; j < t->count; j++) {
            cr_assert(value[j] == (float)(j % 100 - 20 + i) * 0.25F);
        }
    }
    rf_safetensors_close(&set);
}

Test(safetensors, one_file)
{
    cr_assert(write_ramps(RF_BF16, 1 << 20) == 1);
    cr_assert(count_files() == 1);
    expect_ramps(RF_BF16);
    rf_safetensors set;
    TINY_MUST(rf_safetensors_open(&set, in_folder("model.safetensors"), tiny_error()));
    cr_assert((uintptr_t)set.tensor[0].data % 8 == 0);
    rf_safetensors_close(&set);
}

Test(safetensors, shards)
{
    cr_assert(write_ramps(RF_F32, 80) == 3); /* a b | c.weight | long, too large for any */
    cr_assert(count_files() == 4);
    expect_ramps(RF_F32);
}

/* Only shards that are not complete are open: there may be thousands. */
Test(safetensors, more_shards_than_files_may_be_open)
{
    enum { N = 100, MOST_OPEN = 40 };
    static char names[N][16];
    rf_safetensors_item item[N];
    rf_safetensors_writer *writer = NULL;
    struct rlimit most;
    cr_assert(getrlimit(RLIMIT_NOFILE, &most) == 0);
    most.rlim_cur = MOST_OPEN;
    cr_assert(setrlimit(RLIMIT_NOFILE, &most) == 0);
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "t%d", i);
        item[i] = (rf_safetensors_item){names[i], 1, {i == 7 ? 0 : 2}};
    }
    TINY_MUST(
        rf_safetensors_writer_new(&writer, folder, "model", RF_F32, item, N, 1, tiny_error()));
    for (int i = 0; i < N; i++) {
        const float value[] = {(float)i, (float)-i};
        TINY_MUST(
            rf_safetensors_writer_put(writer, names[i], 0, item[i].shape[0], value, tiny_error()));
    }
    TINY_MUST(rf_safetensors_writer_finish(writer, tiny_error()));
    rf_safetensors_writer_free(writer);
    rf_safetensors set;
    TINY_MUST(rf_safetensors_open(&set, folder, tiny_error()));
    cr_assert(set.n == N);
    for (int i = 0; i < N; i++) {
        const float value[] = {(float)i, (float)-i};
        const rf_safetensor *t = rf_safetensors_find(&set, names[i]);
        cr_assert(t != NULL && t->count == item[i].shape[0]);
        cr_assert(memcmp(t->data, value, t->bytes) == 0, "%s", names[i]);
    }
    rf_safetensors_close(&set);
}

/* A writer never replaces a file. */
Test(safetensors, existing_files_are_kept)
{
    rf_error err = {0};
    rf_safetensors_writer *writer = NULL;
    put_file(in_folder("model.safetensors"), "x", 1);
    cr_assert(rf_safetensors_writer_new(&writer, folder, "model", RF_F16, items, N_ITEMS, 1000,
                                        &err) == RF_ERR);
    EXPECT_SAYS(&err, "model.safetensors: cannot create");
    rf_safetensors_writer_free(writer);
}

static void expect_bad_set(const char *path, const char *message)
{
    rf_error err = {0};
    rf_safetensors set;
    cr_expect(rf_safetensors_open(&set, path, &err) == RF_ERR);
    EXPECT_SAYS(&err, message);
    rf_safetensors_close(&set);
}

static void put_index(const char *text)
{
    put_file(in_folder("model.safetensors.index.json"), text, strlen(text));
}

Test(safetensors, wrong_indexes_are_refused)
{
    write_ramps(RF_F32, 80);
#define FILES(a, rest)                                                                             \
    "{\"weight_map\": {\"a\": \"" a "\", \"b\": \"model-00001-of-00003.safetensors\","             \
    "\"c.weight\": \"model-00002-of-00003.safetensors\"" rest "}}"
#define LONG ", \"long\": \"model-00003-of-00003.safetensors\""
    put_index(FILES("model-00001-of-00003.safetensors", LONG));
    expect_ramps(RF_F32);
    put_index(FILES("model-00002-of-00003.safetensors", LONG));
    expect_bad_set(folder, "tensor a lies in model-00001-of-00003.safetensors and the index says");
    put_index(FILES("model-00001-of-00003.safetensors",
                    LONG ", \"d\": \"model-00003-of-00003.safetensors\""));
    expect_bad_set(folder, "tensor d is missing from model-00003");
    put_index(
        FILES("model-00001-of-00003.safetensors", ", \"d\": \"model-00003-of-00003.safetensors\""));
    expect_bad_set(folder, "tensor long lies in model-00003-of-00003.safetensors and the index "
                           "says nothing");
    put_index(FILES("../model-00001-of-00003.safetensors", LONG));
    expect_bad_set(folder, "no file beside it");
    put_index(FILES("/etc/passwd", LONG));
    expect_bad_set(folder, "no file beside it");
    put_index(FILES("missing.safetensors", LONG));
    expect_bad_set(folder, "missing.safetensors: cannot open");
    put_index("{\"weight_map\": {\"a\": 3}}");
    expect_bad_set(folder, "not a text");
    put_index("{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}");
    expect_bad_set(folder, "duplicate");
    put_index("{}");
    expect_bad_set(folder, "weight_map is missing");
    put_index("{\"weight_map\": {}}");
    rf_safetensors set;
    TINY_MUST(rf_safetensors_open(&set, folder, tiny_error())); /* an empty model: no tensors */
    cr_expect(set.n == 0);
    rf_safetensors_close(&set);
}

Test(safetensors, wrong_paths_are_refused)
{
    expect_bad_set(in_folder("nowhere"), "nowhere: cannot open");
    expect_bad_set(folder, "neither model.safetensors nor");
    put_file(in_folder("model.safetensors"), "", 0);
    expect_bad_set(folder, "has 0 bytes");
    write_ramps(RF_F32, 80);
    unlink(in_folder("model.safetensors"));
    content c = get_file(in_folder("model-00001-of-00003.safetensors"));
    put_file(in_folder("model-00002-of-00003.safetensors"), c.data, c.bytes);
    free(c.data);
    expect_bad_set(folder, "tensor a lies in");
}

/* --- Types ------------------------------------------------------------------------------------ */

/* All values of 16 bits survive; NaN stays NaN. */
Test(storage, sixteen_bits_round_trip)
{
    static const rf_type types[] = {RF_BF16, RF_F16};
    for (int t = 0; t < 2; t++) {
        for (uint32_t bits = 0; bits < 65536; bits++) {
            uint16_t in = (uint16_t)bits, out = 0;
            float value;
            rf_storage_decode(&value, &in, types[t], 1);
            int64_t bad = rf_storage_encode(&out, types[t], &value, 1);
            cr_assert(bad == (isfinite(value) ? -1 : 0));
            cr_assert(isnan(value) ? (out & 0x7FFF) > (t == 0 ? 0x7F80 : 0x7C00) : in == out,
                      "%s %04x becomes %04x", rf_type_name(types[t]), bits, out);
        }
    }
}

typedef struct rounding {
    rf_type type;
    double value, stored; /* infinity: out of range */
} rounding;

Test(storage, rounds_to_nearest_even)
{
    static const rounding cases[] = {
        {RF_BF16, 1.0 + 0x1p-8, 1.0},
        {RF_BF16, 1.0 + 3 * 0x1p-8, 1.0 + 0x1p-6},
        {RF_BF16, 1.0 + 0x1p-8 + 0x1p-20, 1.0 + 0x1p-7},
        {RF_BF16, 0x1.FFp127, (double)INFINITY},
        {RF_BF16, -0x1.FEp127, -0x1.FEp127},
        {RF_F16, 1.0 + 0x1p-11, 1.0},
        {RF_F16, 1.0 + 3 * 0x1p-11, 1.0 + 0x1p-9},
        {RF_F16, 65504.0, 65504.0},
        {RF_F16, 65519.0, 65504.0},
        {RF_F16, 65520.0, (double)INFINITY},
        {RF_F16, 0x1p-24, 0x1p-24},
        {RF_F16, 0x1p-25, 0.0},
        {RF_F16, 0x1.8p-24, 0x1p-23},
        {RF_F16, 0x1.FFFp-15, 0x1p-14},
        {RF_F16, -0x1p-30, -0.0},
        {RF_F64, 0x1.FEp127, 0x1.FEp127},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const rounding *c = &cases[i];
        float value = (float)c->value, back = 0;
        double stored = 0;
        int64_t bad = rf_storage_encode(&stored, c->type, &value, 1);
        rf_storage_decode(&back, &stored, c->type, 1);
        cr_expect((double)back == c->stored && !signbit(back) == !signbit(c->stored),
                  "%zu: %a becomes %a", i, c->value, (double)back);
        cr_expect(bad == (isfinite(c->stored) ? -1 : 0));
    }
    cr_expect(rf_type_find("bf16") == RF_BF16);
    cr_expect(rf_type_find("fp8") == RF_N_TYPES);
}

/* The first value that is not finite is named. */
Test(storage, finds_what_is_not_finite)
{
    float value[5] = {1.0F, 2.0F, (float)INFINITY, (float)NAN, 3.0F};
    double out[5];
    static const rf_type types[] = {RF_F32, RF_F64, RF_BF16, RF_F16};
    for (int t = 0; t < 4; t++) {
        cr_expect(rf_storage_encode(out, types[t], value, 5) == 2);
        cr_expect(rf_storage_encode(out, types[t], value, 2) == -1);
        cr_expect(rf_storage_encode(out, types[t], value, 0) == -1);
    }
}
