#include "common/model/lora.h"

#include "common/base/rng.h"

static double factor(const rf_model *model)
{
    return model->adaptation.alpha / (double)model->adaptation.rank;
}

/* --- Dropout ---------------------------------------------------------------------------------- */

void rf_lora_drop(rf_model *model, uint64_t step, uint64_t leaf)
{
    model->drops = true;
    model->drop_step = step;
    model->drop_leaf = leaf;
}

void rf_lora_stop_dropping(rf_model *model)
{
    model->drops = false;
}

bool rf_lora_drops(const rf_model *model)
{
    return model->drops && model->adaptation.dropout > 0.0;
}

int64_t rf_lora_widest(const rf_model_config *config)
{
    int64_t widest = config->num_attention_heads * config->head_dim;
    widest = config->hidden_size > widest ? config->hidden_size : widest;
    return config->intermediate_size > widest ? config->intermediate_size : widest;
}

static void drop(rf_model *model, const rf_acts *acts, int64_t layer, rf_role role, rf_array y,
                 const void *x, int64_t in, bool accumulate)
{
    double rate = model->adaptation.dropout;
    rf_rng rng = RF_RNG_STREAM(model->adaptation.seed, RF_RNG_DROPOUT, model->drop_step,
                               model->drop_leaf, (uint64_t)layer, (uint64_t)role);
    model->ctx->backend->kernels->scale_dropout(model->ctx, y, x, 1.0 / (1.0 - rate), rate,
                                                rf_rng_u64(&rng), acts->n * in, accumulate);
}

void rf_lora_undrop(rf_model *model, const rf_acts *acts, int64_t layer, rf_role role, rf_array dx,
                    const void *dropped, int64_t in)
{
    drop(model, acts, layer, role, dx, dropped, in, true);
}

/* --- Forward ---------------------------------------------------------------------------------- */

const void *rf_lora_narrow(rf_model *model, const rf_acts *acts, const rf_block_weights *w,
                           rf_role role, const void *x, int64_t in)
{
    rf_ctx *ctx = model->ctx;
    const rf_array u = {acts->adapter_u, RF_ACTIVATION};
    int64_t n = acts->n, r = model->adaptation.rank;
    if (rf_lora_drops(model)) {
        drop(model, acts, w->layer, role, (rf_array){acts->adapter_x, RF_ACTIVATION}, x, in, false);
        x = acts->adapter_x;
    }
    ctx->backend->kernels->linear_forward(
        ctx, u, x, rf_matrix_rows(w->of[rf_table_adapter_a(role)]), NULL, NULL, n, in, r);
    ctx->backend->kernels->scale_dropout(ctx, u, u.data, factor(model), 0.0, 0, n * r, false);
    return x;
}

void rf_lora_forward(rf_model *model, const rf_acts *acts, const rf_block_weights *w, rf_role role,
                     rf_array y, const void *x, int64_t in, int64_t out)
{
    rf_ctx *ctx = model->ctx;
    const void *b = w->of[rf_table_adapter_b(role)];
    if (b != NULL) {
        rf_lora_narrow(model, acts, w, role, x, in);
        ctx->backend->kernels->linear_forward(ctx, y, acts->adapter_u, rf_matrix_rows(b), NULL,
                                              y.data, acts->n, model->adaptation.rank, out);
    }
}

/* --- Merging ---------------------------------------------------------------------------------- */

void rf_lora_share(double *w, const double *a, const double *b, double factor, int64_t rank,
                   int64_t in, int64_t first, int64_t n)
{
    for (int64_t done = 0; done < n;) {
        const int64_t row = (first + done) / in, column = (first + done) % in;
        const int64_t left = n - done, m = in - column < left ? in - column : left;
        for (int64_t k = 0; k < rank; k++) {
            const double c = factor * b[row * rank + k];
            for (int64_t j = 0; j < m; j++) {
                w[done + j] += c * a[k * in + column + j];
            }
        }
        done += m;
    }
}
