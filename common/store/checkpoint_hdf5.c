#include "common/store/checkpoint_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Errors ----------------------------------------------------------------------------------- */

rf_hdf5_silence rf_hdf5_silence_begin(void)
{
    rf_hdf5_silence silence = {0};
    /* HDF5 loses some memory over damaged files, and its clean-up at exit, if this comes before any
     * other call, prints about that. Every file is closed without it. */
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &silence.print, &silence.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return silence;
}

void rf_hdf5_silence_end(rf_hdf5_silence silence)
{
    H5Eset_auto2(H5E_DEFAULT, silence.print, silence.data);
}

typedef struct reason {
    char text[256];
    int errno_value; /* 0: not told */
} reason;

/* Keeps the deepest description, or the system's message where one is quoted further up. */
static herr_t find_reason(unsigned depth, const H5E_error2_t *entry, void *data)
{
    reason *found = data;
    const char *text = entry->desc != NULL ? entry->desc : "";
    if (depth == 0) {
        snprintf(found->text, sizeof found->text, "%s", text);
    }
    const char *number = strstr(text, "errno = ");
    const char *message = strstr(text, "error message = '");
    if (number != NULL && message != NULL && found->errno_value == 0) {
        found->errno_value = atoi(number + strlen("errno = "));
        message += strlen("error message = '");
        snprintf(found->text, sizeof found->text, "%.*s", (int)strcspn(message, "'"), message);
    }
    return 0;
}

int rf_hdf5_refuse(rf_error *err, const char *path, const char *format, ...)
{
    char what[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    reason found = {0};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, find_reason, &found);
    H5Eclear2(H5E_DEFAULT);
    int code = found.errno_value != 0 ? rf_error_code_of_errno(found.errno_value) : RF_ERR;
    return rf_error_set(err, code, "%s: %s%s%s", path, what, found.text[0] != '\0' ? ": " : "",
                        found.text);
}

/* --- Files ------------------------------------------------------------------------------------ */

hid_t rf_hdf5_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0) {
        return access;
    }
    /* The 1.10 format has checksums over all metadata: a flipped bit there is always noticed. */
    bool ok = H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
              H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
              H5Pset_alignment(access, RF_CHECKPOINT_ALIGN, RF_CHECKPOINT_ALIGN) >= 0;
#if H5_VERSION_GE(1, 10, 7)
    /* Network file systems without locks would refuse the file; it has one writer anyway. */
    ok = ok && H5Pset_file_locking(access, false, true) >= 0;
#endif
    if (!ok) {
        H5Pclose(access);
        return -1;
    }
    return access;
}

/* HDF5 1.10 has no bf16: described by its fields, so that readers can convert it. */
hid_t rf_hdf5_type(rf_type type)
{
    hid_t copy = H5Tcopy(type == RF_F64  ? H5T_IEEE_F64LE
                         : type == RF_I8 ? H5T_STD_I8LE
                                         : H5T_IEEE_F32LE);
    if (copy < 0 || type != RF_BF16) {
        return copy;
    }
    if (H5Tset_fields(copy, 15, 7, 8, 0, 7) < 0 || H5Tset_precision(copy, 16) < 0 ||
        H5Tset_size(copy, 2) < 0 || H5Tset_ebias(copy, 127) < 0) {
        H5Tclose(copy);
        return -1;
    }
    return copy;
}

/* --- Attributes ------------------------------------------------------------------------------- */

static int create(hid_t at, const char *name, hid_t file_type, hid_t memory_type, const void *value,
                  const char *path, rf_error *err)
{
    int rc = RF_OK;
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(at, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, memory_type, value) < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot write the attribute %s", name);
    }
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    return rc;
}

int rf_hdf5_create_i64(hid_t at, const char *name, int64_t value, const char *path, rf_error *err)
{
    return create(at, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value, path, err);
}

int rf_hdf5_create_f64(hid_t at, const char *name, double value, const char *path, rf_error *err)
{
    return create(at, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value, path, err);
}

/* HDF5 has no empty strings: "" is one zero byte. */
static hid_t text_type(size_t n)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 &&
        (H5Tset_size(type, n > 0 ? n : 1) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 ||
         H5Tset_cset(type, H5T_CSET_UTF8) < 0)) {
        H5Tclose(type);
        type = -1;
    }
    return type;
}

int rf_hdf5_create_text(hid_t at, const char *name, const char *value, const char *path,
                        rf_error *err)
{
    hid_t type = text_type(strlen(value));
    int rc = create(at, name, type, type, value, path, err);
    if (type >= 0) {
        H5Tclose(type);
    }
    return rc;
}

int rf_hdf5_write_i64(hid_t at, const char *name, int64_t value, const char *path, rf_error *err)
{
    int rc = RF_OK;
    hid_t attribute = H5Aopen(at, name, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, H5T_NATIVE_INT64, &value) < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot write the attribute %s", name);
    }
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    return rc;
}

/* Opens a scalar attribute of that class; *size gets the bytes of its type. */
static hid_t open_scalar(size_t *size, hid_t at, const char *name, H5T_class_t wanted)
{
    hid_t attribute = H5Aopen(at, name, H5P_DEFAULT);
    if (attribute < 0) {
        return attribute;
    }
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    bool ok = type >= 0 && space >= 0 && H5Tget_class(type) == wanted &&
              H5Sget_simple_extent_type(space) == H5S_SCALAR &&
              (wanted != H5T_STRING || H5Tis_variable_str(type) == 0);
    *size = ok ? H5Tget_size(type) : 0;
    if (type >= 0) {
        H5Tclose(type);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (*size == 0) {
        H5Aclose(attribute);
        return -1;
    }
    return attribute;
}

static int read_number(void *value, hid_t at, const char *name, H5T_class_t wanted, hid_t type,
                       const char *path, rf_error *err)
{
    size_t size = 0;
    int rc = RF_OK;
    hid_t attribute = open_scalar(&size, at, name, wanted);
    if (attribute < 0 || H5Aread(attribute, type, value) < 0) {
        rc = rf_hdf5_refuse(err, path, "attribute %s is missing or not a number", name);
    }
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    return rc;
}

int rf_hdf5_read_i64(int64_t *value, hid_t at, const char *name, const char *path, rf_error *err)
{
    return read_number(value, at, name, H5T_INTEGER, H5T_NATIVE_INT64, path, err);
}

int rf_hdf5_read_f64(double *value, hid_t at, const char *name, const char *path, rf_error *err)
{
    return read_number(value, at, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, path, err);
}

int rf_hdf5_read_text(char *value, size_t size, hid_t at, const char *name, const char *path,
                      rf_error *err)
{
    size_t n = 0;
    hid_t type = -1;
    int rc = RF_OK;
    memset(value, 0, size);
    hid_t attribute = open_scalar(&n, at, name, H5T_STRING);
    if (attribute < 0) {
        rc = rf_hdf5_refuse(err, path, "attribute %s is missing or not a text", name);
        goto out;
    }
    if (n >= size) {
        rc = rf_error_set(err, RF_ERR, "%s: attribute %s has %zu bytes, more than %zu", path, name,
                          n, size - 1);
        goto out;
    }
    type = text_type(n);
    if (type < 0 || H5Aread(attribute, type, value) < 0) {
        rc = rf_hdf5_refuse(err, path, "cannot read the attribute %s", name);
    }
out:
    if (type >= 0) {
        H5Tclose(type);
    }
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    return rc;
}
