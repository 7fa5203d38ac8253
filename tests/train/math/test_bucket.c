/* Buckets are runs of whole layers that cover the trainable space, and are long enough. */
#include "train/math/bucket.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

static void build(rf_table *table, int64_t width, int64_t layers, const char *only)
{
    rf_error err = {0};
    rf_model_config c = {.architecture = "Qwen3ForCausalLM",
                         .vocab_size = 32 * width,
                         .hidden_size = width,
                         .intermediate_size = 3 * width,
                         .num_hidden_layers = layers,
                         .num_attention_heads = 4,
                         .num_key_value_heads = 4,
                         .head_dim = width / 4,
                         .max_position_embeddings = 64,
                         .rms_norm_eps = 1e-6,
                         .rope_theta = 1e4,
                         .initializer_range = 0.02,
                         .qk_norm = true};
    rf_adaptation adaptation = {0};
    snprintf(adaptation.only, sizeof adaptation.only, "%s", only);
    cr_assert(rf_table_build_adapted(table, &c, &adaptation, &err) == RF_OK, "%s", err.message);
}

/* Does a layer begin at this element? */
static bool begins_layer(const rf_table *table, int64_t at)
{
    int before = -2; /* the layer of the tensor before */
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *tensor = &table->tensor[i];
        if (tensor->trainable && tensor->offset == at) {
            return tensor->layer != before;
        }
        before = tensor->trainable ? tensor->layer : before;
    }
    return at == table->n_elements;
}

static int64_t check(const rf_table *table, size_t element_bytes)
{
    rf_range *bucket = NULL;
    int64_t n = rf_bucket_cut(&bucket, table, element_bytes), at = 0;
    for (int64_t i = 0; i < n; i++) {
        cr_assert(bucket[i].begin == at && bucket[i].end > at);
        cr_assert(begins_layer(table, at), "element %lld", (long long)at);
        cr_assert(n == 1 || (bucket[i].end - at) * (int64_t)element_bytes >= RF_BUCKET_BYTES);
        at = bucket[i].end;
    }
    cr_assert(at == table->n_elements);
    free(bucket);
    return n;
}

Test(bucket, runs_of_whole_layers)
{
    rf_table table = {0};
    build(&table, 64, 6, ""); /* all of it is shorter than a bucket */
    cr_assert(check(&table, 4) == 1);
    rf_table_free(&table);
    build(&table, 512, 6,
          ""); /* 8 M elements outside, twice; 3.4 M in a block: 32 MB, 2 times 27 */
    cr_assert(check(&table, 4) == 5, "%d", (int)check(&table, 4));
    cr_assert(check(&table, 8) == 8, "%d", (int)check(&table, 8));
    rf_table_free(&table);
    build(&table, 512, 6, "layers.3,norm"); /* what is trained of a layer */
    cr_assert(check(&table, 4) == 1);
    rf_table_free(&table);
}

Test(bucket, nothing_to_train)
{
    rf_table table = {0};
    rf_range *bucket = NULL;
    cr_assert(rf_bucket_cut(&bucket, &table, 4) == 0);
    free(bucket);
}
