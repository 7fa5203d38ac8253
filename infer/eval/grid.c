#include "infer/eval/grid.h"

#include "common/base/alloc.h"
#include "common/base/options.h"
#include "infer/decode/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The values that one assignment stands for, as assignments. */
typedef struct axis {
    char **value; /* [n] owned */
    int64_t n;
    size_t capacity;
} axis;

static void add(axis *a, char *assignment)
{
    a->value = rf_alloc_grow(a->value, &a->capacity, (size_t)a->n + 1, sizeof *a->value);
    a->value[a->n++] = assignment;
}

/* The key of decode.* that an assignment sets, where its value may be swept: not one that takes a
 * list or any text. NULL: none. */
static const rf_config_key *swept_key(const char *assignment)
{
    size_t n = strcspn(assignment, "=");
    for (const rf_config_key *key = rf_decode_keys; key->name != NULL; key++) {
        if (strlen(key->name) == n && strncmp(key->name, assignment, n) == 0) {
            bool is_one = key->type == RF_KEY_INT || key->type == RF_KEY_REAL ||
                          key->type == RF_KEY_CHOICE || key->type == RF_KEY_BOOL;
            return is_one && assignment[n] == '=' ? key : NULL;
        }
    }
    return NULL;
}

/* "0.5:0.95:0.05" */
static int add_range(axis *a, const rf_config_key *key, const char *range, rf_error *err)
{
    double part[3];
    char text[64], *rest = text, *one;
    int n = 0;
    if (strlen(range) < sizeof text) {
        strcpy(text, range);
        while (n < 3 && (one = strsep(&rest, ":")) != NULL) {
            RF_TRY(rf_options_real(&part[n++], one, key->name, -1e15, 1e15, err));
        }
    }
    if (n != 3 || rest != NULL || !((part[1] - part[0]) / part[2] >= 0) ||
        !((part[1] - part[0]) / part[2] < RF_GRID_MOST)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s=%s: a range is from:to:step, as 0.5:0.9:0.1, of at most %d values",
                            key->name, range, RF_GRID_MOST);
    }
    /* The end belongs to the range although 0.1 is no sum of halves. */
    int64_t last = (int64_t)floor((part[1] - part[0]) / part[2] + 1e-6);
    for (int64_t i = 0; i <= last; i++) {
        add(a, rf_alloc_format("%s=%.10g", key->name, part[0] + (double)i * part[2]));
    }
    return RF_OK;
}

static int read_axis(axis *out, const char *assignment, rf_error *err)
{
    const rf_config_key *key = swept_key(assignment);
    *out = (axis){0};
    if (key == NULL) {
        add(out, rf_alloc_string(assignment));
        return RF_OK;
    }
    char *list = rf_alloc_string(strchr(assignment, '=') + 1), *rest = list, *one;
    int rc = RF_OK;
    while (rc == RF_OK && (one = strsep(&rest, ",")) != NULL) {
        if (strchr(one, ':') != NULL && (key->type == RF_KEY_INT || key->type == RF_KEY_REAL)) {
            rc = add_range(out, key, one, err);
        } else {
            add(out, rf_alloc_format("%s=%s", key->name, one));
        }
    }
    free(list);
    return rc;
}

/* Every combination of the axes' values. */
static void multiply(rf_grid *out, const axis *axes)
{
    out->assignment = rf_alloc((size_t)(out->n * out->n_assignments), sizeof *out->assignment);
    for (int64_t i = 0; i < out->n; i++) {
        int64_t rest = i;
        for (int k = out->n_assignments - 1; k >= 0; k--) {
            out->assignment[i * out->n_assignments + k] =
                rf_alloc_string(axes[k].value[rest % axes[k].n]);
            rest /= axes[k].n;
        }
    }
}

int rf_grid_new(rf_grid *out, char *const *assignment, int n, rf_error *err)
{
    axis *axes = rf_alloc((size_t)n, sizeof *axes);
    int rc = RF_OK;
    *out = (rf_grid){.n = 1, .n_assignments = n};
    for (int k = 0; k < n; k++) {
        RF_TRY_OUT(read_axis(&axes[k], assignment[k], err));
        out->n *= axes[k].n;
        if (out->n > RF_GRID_MOST) {
            rc = rf_error_set(err, RF_ERR_USAGE,
                              "the sweep has more than %d settings: give shorter lists or larger "
                              "steps",
                              RF_GRID_MOST);
            goto out;
        }
    }
    multiply(out, axes);
out:
    for (int k = 0; k < n; k++) {
        rf_free_strings(axes[k].value, axes[k].n);
    }
    free(axes);
    return rc;
}

void rf_grid_free(rf_grid *grid)
{
    rf_free_strings(grid->assignment, grid->n * grid->n_assignments);
    *grid = (rf_grid){0};
}

char **rf_grid_setting(const rf_grid *grid, int64_t i)
{
    return grid->assignment + i * grid->n_assignments;
}
