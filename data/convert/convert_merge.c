#include "common/base/alloc.h"
#include "common/model/lora.h"
#include "data/convert/convert_private.h"

#include <inttypes.h>
#include <stdlib.h>

/* The base goes by in pieces; the adapters, which are small, are held in memory. */
typedef struct merge {
    const char *base_path, *adapter_path;
    rf_checkpoint_info base, adapter;
    rf_checkpoint_reader *base_reader, *adapter_reader;
    rf_table table; /* with the adapters */
    double **held;  /* [table.n_tensors]: the adapters' values, NULL for other tensors */
    rf_type type;   /* of the file that is written */
    rf_convert_values values;
} merge;

/* --- What belongs together -------------------------------------------------------------------- */

static int read_headers(merge *m, const rf_convert_options *options, rf_error *err)
{
    RF_TRY(rf_checkpoint_info_read(&m->adapter, m->adapter_path, err));
    if (m->adapter.adaptation.rank == 0) {
        return rf_error_set(err, RF_ERR, "%s: is a whole model, no adapter file: nothing to merge",
                            m->adapter_path);
    }
    RF_TRY(rf_checkpoint_info_read(&m->base, m->base_path, err));
    RF_TRY(rf_checkpoint_reader_open(&m->base_reader, m->base_path, err));
    RF_TRY(rf_checkpoint_reader_open(&m->adapter_reader, m->adapter_path, err));
    m->type = options->type < RF_N_TYPES ? options->type
              : m->base.storage == RF_I8 ? RF_F32
                                         : m->base.storage;
    return RF_OK;
}

static int check_base(const merge *m, rf_error *err)
{
    char difference[256];
    if (!rf_model_config_same_shape(&m->base.model, &m->adapter.model, difference,
                                    sizeof difference)) {
        return rf_error_set(err, RF_ERR, "%s: its adapters belong to another base than %s: %s",
                            m->adapter_path, m->base_path, difference);
    }
    if (m->base.adaptation.rank > 0 ||
        rf_checkpoint_reader_hash(m->base_reader) != m->adapter.base.hash) {
        return rf_error_set(err, RF_ERR,
                            "%s: its adapters belong to another base than %s: they were trained "
                            "with %s (parameters of hash %016" PRIx64 ")",
                            m->adapter_path, m->base_path, m->adapter.base.path,
                            m->adapter.base.hash);
    }
    return RF_OK;
}

/* --- Values ----------------------------------------------------------------------------------- */

static int hold_adapters(merge *m, rf_error *err)
{
    RF_TRY(rf_table_build_adapted(&m->table, &m->adapter.model, &m->adapter.adaptation, err));
    m->held = rf_alloc((size_t)m->table.n_tensors, sizeof *m->held);
    for (int64_t i = 0; i < m->table.n_tensors; i++) {
        const rf_tensor *t = &m->table.tensor[i];
        if (!rf_table_is_adapter(t->role)) {
            continue;
        }
        m->held[i] = malloc((size_t)t->count * sizeof **m->held);
        if (m->held[i] == NULL) {
            return rf_error_set(err, RF_ERR, "%s: no memory for its adapters", m->adapter_path);
        }
        RF_TRY(rf_checkpoint_reader_get(m->adapter_reader, m->held[i], t->name, 0, t->count, err));
    }
    return RF_OK;
}

/* The held values of an adapter of the matrix; NULL: it has none. */
static const double *held_of(const merge *m, const rf_tensor *matrix, rf_role role)
{
    const rf_tensor *t = role < RF_N_ROLES ? rf_table_role(&m->table, matrix->layer, role) : NULL;
    return t != NULL ? m->held[t - m->table.tensor] : NULL;
}

/* rf_checkpoint_source */
static int take(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                rf_error *err)
{
    merge *m = user;
    const double *a = held_of(m, tensor, rf_table_adapter_a(tensor->role));
    const double *b = held_of(m, tensor, rf_table_adapter_b(tensor->role));
    RF_TRY(rf_convert_get(&m->values, m->base_reader, tensor, first, n, err));
    if (a != NULL) {
        const rf_adaptation *of = &m->adapter.adaptation;
        rf_lora_share(m->values.value, a, b, of->alpha / (double)of->rank, of->rank,
                      tensor->shape[1], first, n);
    }
    return rf_convert_put(&m->values, out, m->type, tensor, first, n, err);
}

static void free_all(merge *m)
{
    for (int64_t i = 0; i < m->table.n_tensors && m->held != NULL; i++) {
        free(m->held[i]);
    }
    free(m->held);
    rf_table_free(&m->table);
    rf_checkpoint_reader_close(m->base_reader);
    rf_checkpoint_reader_close(m->adapter_reader);
    rf_checkpoint_info_free(&m->base);
    rf_checkpoint_info_free(&m->adapter);
    rf_convert_values_free(&m->values);
}

int rf_convert_merge(const char *base, const char *adapter, const char *path,
                     const rf_convert_options *options, rf_error *err)
{
    merge m = {.base_path = base, .adapter_path = adapter};
    RF_ASSERT(options->type != RF_F16);
    int rc;
    RF_TRY_OUT(read_headers(&m, options, err));
    RF_TRY_OUT(check_base(&m, err));
    RF_TRY_OUT(hold_adapters(&m, err));
    rf_checkpoint_info whole = m.adapter;
    whole.adaptation = (rf_adaptation){0};
    RF_TRY_OUT(rf_checkpoint_write(path, &m.adapter.model, m.type, take, &m, &whole, err));
    rf_convert_say(options, "%s: %" PRId64 " adapters of rank %" PRId64 " merged, %s", path,
                   m.table.n_adapters / 2, m.adapter.adaptation.rank, rf_type_name(m.type));
out:
    free_all(&m);
    return rc;
}
