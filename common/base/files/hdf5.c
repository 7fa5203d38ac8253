#include "common/base/files/hdf5.h"

#include <hdf5.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(hid_t) == sizeof(int64_t) && RF_HDF5_DIMS == H5S_MAX_RANK,
               "hdf5.h says so without HDF5's header");

enum {
    ALIGN_FROM = 4096, /* bytes of a dataset that is aligned */
    DEFLATE_LEVEL = 6,
    IN_PLACE_LIMIT = 64 /* attributes that the header of the root has room for */
};

/* --- Alone, in silence, and nothing left open ------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct printing { /* what HDF5 does with its errors outside of this file */
    H5E_auto2_t print;
    void *data;
} printing;

static printing enter(void)
{
    printing before = {0};
    pthread_mutex_lock(&lock);
    /* HDF5 loses some memory over damaged files and full disks, and its clean-up at exit, if this
     * comes before any other call, prints about that or crashes. Every file is closed without it. */
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &before.print, &before.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return before;
}

static void leave(const printing *before)
{
    H5Eset_auto2(H5E_DEFAULT, before->print, before->data);
    pthread_mutex_unlock(&lock);
}

/* For ids of any kind but files and datasets: closing those may fail, and they have calls of their
 * own. */
static void drop(const hid_t *id)
{
    if (*id > 0) {
        H5Idec_ref(*id);
    }
}

/* The first line of a function that calls HDF5: to its end it is alone there, and HDF5 is silent. */
#define ALONE printing before __attribute__((cleanup(leave), unused)) = enter()
/* An id that is closed where its scope ends, if it is one. */
#define OWNED __attribute__((cleanup(drop))) hid_t

/* --- Errors ----------------------------------------------------------------------------------- */

/* Called for each entry of HDF5's stack of errors, the innermost call (depth 0) first: keeps what that
 * says, or the operating system's own words where an outer entry quotes them. */
static herr_t find_reason(unsigned depth, const H5E_error2_t *entry, void *data)
{
    rf_hdf5 *file = data;
    const char *text = entry->desc != NULL ? entry->desc : "";
    const char *number = strstr(text, "errno = ");
    const char *message = strstr(text, "error message = '");
    if (depth == 0) {
        snprintf(file->reason, sizeof file->reason, "%s", text);
        file->blameless = file->blameless || entry->maj_num == H5E_RESOURCE;
    }
    if (number != NULL && message != NULL && file->code == RF_OK) {
        file->code = rf_error_code_of_errno(atoi(number + strlen("errno = ")));
        file->blameless = true;
        message += strlen("error message = '");
        snprintf(file->reason, sizeof file->reason, "%.*s", (int)strcspn(message, "'"), message);
    }
    return 0;
}

static RF_PRINTF(3, 0) int report(const rf_hdf5 *file, rf_error *err, const char *format,
                                  va_list arguments)
{
    char what[512];
    vsnprintf(what, sizeof what, format, arguments);
    return rf_error_set(err, file->code, "%s: %s%s%s", file->name, what,
                        file->reason[0] != '\0' ? ": " : "", file->reason);
}

/* Before anything is closed: the next call to HDF5 forgets the reason. */
static RF_PRINTF(3, 4) int fail(rf_hdf5 *file, rf_error *err, const char *format, ...)
{
    va_list arguments;
    file->code = RF_OK;
    file->reason[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, find_reason, file);
    H5Eclear2(H5E_DEFAULT);
    file->code = file->code != RF_OK ? file->code : RF_ERR;
    va_start(arguments, format);
    int rc = report(file, err, format, arguments);
    va_end(arguments);
    return rc;
}

int rf_hdf5_fail(const rf_hdf5 *file, rf_error *err, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int rc = report(file, err, format, arguments);
    va_end(arguments);
    return rc;
}

/* --- Files ------------------------------------------------------------------------------------ */

static hid_t new_access(int alignment)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    bool ok = access >= 0 && H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
              H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
              H5Pset_alignment(access, ALIGN_FROM, (hsize_t)alignment) >= 0;
#if H5_VERSION_GE(1, 10, 7)
    ok = ok && H5Pset_file_locking(access, false, true) >= 0;
#endif
    if (!ok) {
        drop(&access);
    }
    return ok ? access : -1;
}

int rf_hdf5_create(rf_hdf5 *out, const char *path, int alignment, bool in_place, rf_error *err)
{
    ALONE;
    OWNED access = new_access(alignment);
    OWNED creation = access >= 0 ? H5Pcreate(H5P_FILE_CREATE) : -1;
    *out = (rf_hdf5){.name = path};
    if (creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0 &&
        (!in_place || H5Pset_attr_phase_change(creation, IN_PLACE_LIMIT, 0) >= 0)) {
        out->id = H5Fcreate(path, H5F_ACC_EXCL, creation, access);
    }
    return out->id > 0 ? RF_OK : fail(out, err, "cannot create");
}

bool rf_hdf5_is(const char *path)
{
    ALONE;
    return H5Fis_hdf5(path) > 0;
}

int rf_hdf5_open(rf_hdf5 *out, const char *path, bool write, rf_error *err)
{
    ALONE;
    OWNED access = new_access(1);
    *out = (rf_hdf5){.name = path};
    if (access >= 0) {
        out->id = H5Fopen(path, write ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access);
    }
    return out->id > 0 ? RF_OK : fail(out, err, "cannot open");
}

static int close_dataset(rf_hdf5 *file, rf_error *err)
{
    hid_t dataset = file->dataset;
    file->dataset = 0;
    return dataset <= 0 || H5Dclose(dataset) >= 0 ? RF_OK : fail(file, err, "cannot write");
}

int rf_hdf5_close(rf_hdf5 *file, rf_error *err)
{
    ALONE;
    hid_t id = file->id;
    int rc = close_dataset(file, err);
    file->id = 0;
    return id <= 0 || H5Fclose(id) >= 0 || rc != RF_OK ? rc : fail(file, err, "cannot write");
}

void rf_hdf5_drop(rf_hdf5 *file)
{
    rf_error ignored;
    if (rf_hdf5_close(file, &ignored) != RF_OK) {
        file->id = 0;
    }
}

/* --- Groups ----------------------------------------------------------------------------------- */

int rf_hdf5_create_group(rf_hdf5 *file, const char *name, rf_error *err)
{
    ALONE;
    OWNED creation = H5Pcreate(H5P_GROUP_CREATE);
    bool ok = creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0;
    OWNED group = ok ? H5Gcreate2(file->id, name, H5P_DEFAULT, creation, H5P_DEFAULT) : -1;
    return group >= 0 ? RF_OK : fail(file, err, "cannot create the group %s", name);
}

bool rf_hdf5_exists(rf_hdf5 *file, const char *name)
{
    ALONE;
    const htri_t exists = H5Lexists(file->id, name, H5P_DEFAULT);
    if (exists < 0) {
        fail(file, NULL, "cannot look for %s", name); /* keeps why */
    }
    return exists > 0;
}

int rf_hdf5_count(int64_t *n, rf_hdf5 *file, const char *group, rf_error *err)
{
    ALONE;
    H5G_info_t info = {0};
    if (H5Gget_info_by_name(file->id, group, &info, H5P_DEFAULT) < 0) {
        return fail(file, err, "cannot list the group %s", group);
    }
    *n = (int64_t)info.nlinks;
    return RF_OK;
}

int rf_hdf5_link(char *name, size_t bytes, rf_hdf5 *file, const char *group, int64_t i,
                 rf_error *err)
{
    ALONE;
    ssize_t length = H5Lget_name_by_idx(file->id, group, H5_INDEX_NAME, H5_ITER_INC, (hsize_t)i,
                                        name, bytes, H5P_DEFAULT);
    return length >= 0 ? RF_OK : fail(file, err, "cannot list the group %s", group);
}

/* --- Types ------------------------------------------------------------------------------------ */

static hid_t new_type(rf_hdf5_type type)
{
    const hid_t types[RF_HDF5_N_TYPES] = {H5T_STD_U8LE,   H5T_STD_I8LE,   H5T_STD_I32LE,
                                          H5T_STD_U32LE,  H5T_STD_I64LE,  H5T_STD_U64LE,
                                          H5T_IEEE_F32LE, H5T_IEEE_F64LE, H5T_IEEE_F32LE};
    hid_t copy = H5Tcopy(types[type]);
    if (copy >= 0 && type == RF_HDF5_BF16 &&
        (H5Tset_fields(copy, 15, 7, 8, 0, 7) < 0 || H5Tset_precision(copy, 16) < 0 ||
         H5Tset_size(copy, 2) < 0 || H5Tset_ebias(copy, 127) < 0)) {
        drop(&copy);
        return -1;
    }
    return copy;
}

static hid_t new_text_type(size_t bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 &&
        (H5Tset_size(type, bytes > 0 ? bytes : 1) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 ||
         H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        drop(&type);
        return -1;
    }
    return type;
}

static rf_hdf5_type type_of(hid_t is)
{
    int type = 0;
    for (; type < RF_HDF5_N_TYPES; type++) {
        OWNED candidate = new_type((rf_hdf5_type)type);
        if (candidate >= 0 && H5Tequal(is, candidate) > 0) {
            break;
        }
    }
    return (rf_hdf5_type)type;
}

/* --- Attributes ------------------------------------------------------------------------------- */

static int put(rf_hdf5 *file, const char *object, const char *name, hid_t type, int64_t n,
               const void *value, rf_error *err)
{
    hsize_t dims = (hsize_t)n;
    OWNED space = n < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &dims, NULL);
    OWNED at = H5Oopen(file->id, object, H5P_DEFAULT);
    OWNED attribute = H5Aexists(at, name) > 0
                          ? H5Aopen(at, name, H5P_DEFAULT)
                          : H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    return attribute >= 0 && H5Awrite(attribute, type, value) >= 0
               ? RF_OK
               : fail(file, err, "cannot write the attribute %s", name);
}

int rf_hdf5_set(rf_hdf5 *file, const char *object, const char *attribute, rf_hdf5_type type,
                int64_t n, const void *value, rf_error *err)
{
    ALONE;
    OWNED stored = new_type(type);
    return put(file, object, attribute, stored, n, value, err);
}

int rf_hdf5_set_text(rf_hdf5 *file, const char *object, const char *attribute, const char *text,
                     rf_error *err)
{
    ALONE;
    OWNED type = new_text_type(strlen(text));
    return put(file, object, attribute, type, RF_HDF5_SCALAR, text, err);
}

/* Opens an attribute of that class. *n: elements, RF_HDF5_SCALAR for one value; *bytes: of one. */
static hid_t open_attribute(int64_t *n, size_t *bytes, const rf_hdf5 *file, const char *object,
                            const char *name, H5T_class_t wanted)
{
    OWNED at = H5Oopen(file->id, object, H5P_DEFAULT);
    hid_t attribute = at >= 0 ? H5Aopen(at, name, H5P_DEFAULT) : -1;
    if (attribute < 0) {
        return attribute;
    }
    OWNED type = H5Aget_type(attribute);
    OWNED space = H5Aget_space(attribute);
    bool ok = type >= 0 && space >= 0 && H5Tget_class(type) == wanted &&
              (wanted != H5T_STRING || H5Tis_variable_str(type) == 0);
    *n = !ok                                              ? -2
         : H5Sget_simple_extent_type(space) == H5S_SCALAR ? RF_HDF5_SCALAR
                                                          : H5Sget_simple_extent_npoints(space);
    *bytes = ok ? H5Tget_size(type) : 0;
    if (*n < RF_HDF5_SCALAR || *bytes == 0) {
        H5Aclose(attribute);
        return -1;
    }
    return attribute;
}

int rf_hdf5_get(void *value, rf_hdf5 *file, const char *object, const char *attribute,
                rf_hdf5_type type, int64_t n, rf_error *err)
{
    ALONE;
    int64_t is = 0;
    size_t bytes = 0;
    OWNED memory = new_type(type);
    OWNED opened = open_attribute(&is, &bytes, file, object, attribute,
                                  type < RF_HDF5_F32 ? H5T_INTEGER : H5T_FLOAT);
    return opened >= 0 && is == n && H5Aread(opened, memory, value) >= 0
               ? RF_OK
               : fail(file, err, "attribute %s is missing or not a number", attribute);
}

int rf_hdf5_get_text(char *text, size_t bytes, rf_hdf5 *file, const char *object,
                     const char *attribute, rf_error *err)
{
    ALONE;
    int64_t n = 0;
    size_t length = 0;
    memset(text, 0, bytes);
    OWNED opened = open_attribute(&n, &length, file, object, attribute, H5T_STRING);
    if (opened < 0 || n != RF_HDF5_SCALAR) {
        return fail(file, err, "attribute %s is missing or not a text", attribute);
    }
    if (length >= bytes) {
        return rf_error_set(err, RF_ERR, "%s: attribute %s has %zu bytes, more than %zu",
                            file->name, attribute, length, bytes - 1);
    }
    OWNED type = new_text_type(length);
    return type >= 0 && H5Aread(opened, type, text) >= 0
               ? RF_OK
               : fail(file, err, "cannot read the attribute %s", attribute);
}

int rf_hdf5_get_bytes(char **out, size_t *n, rf_hdf5 *file, const char *object,
                      const char *attribute, rf_error *err)
{
    ALONE;
    int64_t count = 0;
    size_t bytes = 0;
    OWNED opened = open_attribute(&count, &bytes, file, object, attribute, H5T_INTEGER);
    *out = opened >= 0 && count >= 0 ? calloc((size_t)count + 1, 1) : NULL;
    if (*out == NULL || (count > 0 && H5Aread(opened, H5T_STD_U8LE, *out) < 0)) {
        int rc = fail(file, err, "attribute %s is missing or not a list of bytes", attribute);
        free(*out);
        *out = NULL;
        return rc;
    }
    *n = (size_t)count;
    return RF_OK;
}

/* --- Datasets --------------------------------------------------------------------------------- */

int rf_hdf5_create_dataset(int64_t *offset, rf_hdf5 *file, const char *name, rf_hdf5_type type,
                           int n_dims, const int64_t *shape, int64_t chunk, rf_error *err)
{
    ALONE;
    hsize_t dims[RF_HDF5_DIMS], piece = (hsize_t)chunk;
    for (int i = 0; i < n_dims; i++) {
        dims[i] = (hsize_t)shape[i];
    }
    OWNED stored = new_type(type);
    OWNED space = H5Screate_simple(n_dims, dims, NULL);
    OWNED creation = H5Pcreate(H5P_DATASET_CREATE);
    RF_TRY(close_dataset(file, err));
    /* In one piece: its place in the file is decided now, and HDF5 does not write zeros there. */
    if (stored >= 0 && space >= 0 && creation >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0 &&
        H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0 &&
        (chunk > 0 ? H5Pset_chunk(creation, 1, &piece) >= 0 && H5Pset_shuffle(creation) >= 0 &&
                         H5Pset_deflate(creation, DEFLATE_LEVEL) >= 0
                   : H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
                         H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0)) {
        file->dataset =
            H5Dcreate2(file->id, name, stored, space, H5P_DEFAULT, creation, H5P_DEFAULT);
        snprintf(file->dataset_name, sizeof file->dataset_name, "%s", name);
    }
    if (file->dataset <= 0) {
        return fail(file, err, "cannot create the dataset %s", name);
    }
    if (offset != NULL && chunk == 0) {
        *offset = (int64_t)H5Dget_offset(file->dataset); /* HADDR_UNDEF is -1 */
        if (*offset < 0) {
            return fail(file, err, "the dataset %s got no place in the file", name);
        }
    }
    return RF_OK;
}

static int use(rf_hdf5 *file, const char *name, rf_error *err)
{
    RF_ASSERT(strlen(name) < sizeof file->dataset_name);
    if (file->dataset > 0 && strcmp(file->dataset_name, name) == 0) {
        return RF_OK;
    }
    RF_TRY(close_dataset(file, err));
    file->dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
    snprintf(file->dataset_name, sizeof file->dataset_name, "%s", name);
    return file->dataset > 0 ? RF_OK : fail(file, err, "cannot open the dataset %s", name);
}

int rf_hdf5_describe(rf_hdf5_dataset *out, rf_hdf5 *file, const char *name, rf_error *err)
{
    ALONE;
    hsize_t dims[RF_HDF5_DIMS] = {0};
    *out = (rf_hdf5_dataset){.type = RF_HDF5_N_TYPES, .offset = -1};
    RF_TRY(use(file, name, err));
    OWNED type = H5Dget_type(file->dataset);
    OWNED space = H5Dget_space(file->dataset);
    OWNED creation = H5Dget_create_plist(file->dataset);
    out->n_dims = space >= 0 ? H5Sget_simple_extent_dims(space, dims, NULL) : -1;
    if (type < 0 || creation < 0 || out->n_dims < 0) {
        return fail(file, err, "cannot read the shape of %s", name);
    }
    for (int i = 0; i < out->n_dims; i++) {
        out->shape[i] = (int64_t)dims[i];
    }
    out->type = type_of(type);
    out->in_chunks = H5Pget_layout(creation) == H5D_CHUNKED;
    if (H5Pget_layout(creation) == H5D_CONTIGUOUS && H5Pget_external_count(creation) == 0) {
        out->offset = (int64_t)H5Dget_offset(file->dataset);
    }
    return RF_OK;
}

/* Between memory and elements [first, first + n) of a dataset, or all of it: reads into `to`, or
 * writes `from`. */
static int transfer(rf_hdf5 *file, const char *name, rf_hdf5_type type, int64_t first, int64_t n,
                    void *to, const void *from, rf_error *err)
{
    ALONE;
    hsize_t begin = (hsize_t)first, count = (hsize_t)n;
    RF_TRY(use(file, name, err));
    OWNED stored = new_type(type);
    OWNED memory = n >= 0 ? H5Screate_simple(1, &count, NULL) : H5S_ALL;
    OWNED space = n >= 0 ? H5Dget_space(file->dataset) : H5S_ALL;
    if (n >= 0) {
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &begin, NULL, &count, NULL);
    }
    herr_t result = to != NULL ? H5Dread(file->dataset, stored, memory, space, H5P_DEFAULT, to)
                               : H5Dwrite(file->dataset, stored, memory, space, H5P_DEFAULT, from);
    return result >= 0
               ? RF_OK
               : fail(file, err, "cannot %s the dataset %s", to != NULL ? "read" : "write", name);
}

int rf_hdf5_write(rf_hdf5 *file, const char *name, rf_hdf5_type type, int64_t first, int64_t n,
                  const void *data, rf_error *err)
{
    return transfer(file, name, type, first, n, NULL, data, err);
}

int rf_hdf5_read(void *data, rf_hdf5 *file, const char *name, rf_hdf5_type type, int64_t first,
                 int64_t n, rf_error *err)
{
    return transfer(file, name, type, first, n, data, NULL, err);
}
