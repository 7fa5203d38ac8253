#include "common/model/table.h"

#include "tests/model/tiny.h"

#include <criterion/criterion.h>

static rf_table build(tiny_switches s)
{
    rf_model_config config = tiny_config(s);
    rf_table table = {0};
    TINY_MUST(rf_table_build(&table, &config, tiny_error()));
    return table;
}

Test(table, names_and_shapes_are_hugging_faces)
{
    static const struct {
        const char *name;
        rf_role role;
        int layer;
        int64_t rows, columns; /* 0: a vector */
    } expected[] = {
        {"model.embed_tokens.weight", RF_ROLE_EMBED, -1, 37, 24},
        {"model.layers.0.input_layernorm.weight", RF_ROLE_ATTENTION_NORM, 0, 24, 0},
        {"model.layers.0.self_attn.q_proj.weight", RF_ROLE_Q, 0, 40, 24},
        {"model.layers.0.self_attn.q_proj.bias", RF_ROLE_Q_BIAS, 0, 40, 0},
        {"model.layers.1.self_attn.k_proj.weight", RF_ROLE_K, 1, 20, 24},
        {"model.layers.1.self_attn.k_proj.bias", RF_ROLE_K_BIAS, 1, 20, 0},
        {"model.layers.1.self_attn.v_proj.weight", RF_ROLE_V, 1, 20, 24},
        {"model.layers.1.self_attn.v_proj.bias", RF_ROLE_V_BIAS, 1, 20, 0},
        {"model.layers.1.self_attn.q_norm.weight", RF_ROLE_Q_NORM, 1, 10, 0},
        {"model.layers.1.self_attn.k_norm.weight", RF_ROLE_K_NORM, 1, 10, 0},
        {"model.layers.1.self_attn.o_proj.weight", RF_ROLE_O, 1, 24, 40},
        {"model.layers.1.self_attn.o_proj.bias", RF_ROLE_O_BIAS, 1, 24, 0},
        {"model.layers.1.post_attention_layernorm.weight", RF_ROLE_MLP_NORM, 1, 24, 0},
        {"model.layers.1.mlp.gate_proj.weight", RF_ROLE_GATE, 1, 36, 24},
        {"model.layers.1.mlp.up_proj.weight", RF_ROLE_UP, 1, 36, 24},
        {"model.layers.1.mlp.down_proj.weight", RF_ROLE_DOWN, 1, 24, 36},
        {"model.norm.weight", RF_ROLE_FINAL_NORM, -1, 24, 0},
        {"lm_head.weight", RF_ROLE_HEAD, -1, 37, 24},
    };
    rf_table table = build((tiny_switches){false, true, true, true});
    cr_assert(table.n_tensors == 3 + 2 * 15);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const rf_tensor *t = rf_table_find(&table, expected[i].name);
        cr_assert(t != NULL, "%s", expected[i].name);
        cr_assert(t == rf_table_role(&table, expected[i].layer, expected[i].role));
        cr_assert(t->shape[0] == expected[i].rows, "%s", t->name);
        cr_assert(t->n_dims == (expected[i].columns > 0 ? 2 : 1), "%s", t->name);
        cr_assert(t->shape[1] == (expected[i].columns > 0 ? expected[i].columns : 1));
        cr_assert(t->count == t->shape[0] * t->shape[1]);
        cr_assert(t->decay == (t->n_dims == 2), "%s", t->name);
    }
    cr_assert_null(rf_table_find(&table, "model.layers.2.mlp.up_proj.weight"));
    rf_table_free(&table);
}

Test(table, tensors_lie_apart_in_order)
{
    rf_table table = build((tiny_switches){false, true, false, false});
    int64_t end = 0, count = 0;
    for (int64_t i = 0; i < table.n_tensors; i++) {
        const rf_tensor *t = &table.tensor[i];
        const bool begins = i == 0 || t->layer != table.tensor[i - 1].layer; /* a layer */
        const int64_t multiple = begins ? RF_SUM_RUN : 16;
        cr_assert(t->offset % multiple == 0 && t->offset >= end && t->offset < end + multiple, "%s",
                  t->name);
        end = t->offset + t->count;
        count += t->count;
    }
    cr_assert(table.n_elements % 16 == 0 && table.n_elements >= end);
    cr_assert(table.n_elements < end + 16);
    cr_assert(table.n_parameters == count);
    rf_table_free(&table);
}

Test(table, switches_take_tensors_away)
{
    rf_table table = build((tiny_switches){true, false, false, false});
    cr_assert(table.n_tensors == 2 + 2 * 9);
    cr_assert_null(rf_table_find(&table, "lm_head.weight"));
    cr_assert_null(rf_table_role(&table, 0, RF_ROLE_Q_NORM));
    cr_assert_null(rf_table_role(&table, 0, RF_ROLE_Q_BIAS));
    cr_assert_null(rf_table_role(&table, 0, RF_ROLE_O_BIAS));
    rf_table_free(&table);
    rf_table_free(&table); /* a zeroed table is fine */
}

Test(table, refuses_what_cannot_be)
{
    rf_table table = {0};
    rf_error err = {0};
    rf_model_config config = tiny_config((tiny_switches){0});
    config.head_dim = 7;
    cr_assert(rf_table_build(&table, &config, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "head_dim"));
    cr_assert(table.tensor == NULL && table.n_tensors == 0);

    config = tiny_config((tiny_switches){0});
    config.vocab_size = INT32_MAX;
    config.hidden_size = 1 << 20;
    cr_assert(rf_table_build(&table, &config, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "parameters"));
    cr_assert(table.tensor == NULL && table.n_tensors == 0);
}

/* Layers cover the trainable space, in order; what a part of the model does not train is empty. */
Test(table, ranges_of_layers_cover_the_space)
{
    static const char *const only[] = {"", "mlp", "layers.1", "norm", "embed_tokens"};
    for (size_t k = 0; k < sizeof only / sizeof *only; k++) {
        for (int tied = 0; tied < 2; tied++) {
            rf_model_config config = tiny_config((tiny_switches){tied, true, true, true});
            rf_adaptation adaptation = {0};
            rf_table table;
            int64_t at = 0;
            snprintf(adaptation.only, sizeof adaptation.only, "%s", only[k]);
            TINY_MUST(rf_table_build_adapted(&table, &config, &adaptation, tiny_error()));
            for (int64_t layer = 0; layer <= table.n_layers + 1; layer++) {
                rf_range range = rf_table_range(&table, layer, true);
                cr_expect(range.begin == at && range.end >= at, "%s: layer %d", only[k],
                          (int)layer);
                at = range.end;
                for (int64_t i = 0; i < table.n_tensors; i++) {
                    const rf_tensor *t = &table.tensor[i];
                    const bool inside =
                        t->trainable && t->offset >= range.begin && t->offset < range.end;
                    const int64_t of = t->role == RF_ROLE_EMBED ? 0
                                       : t->layer >= 0          ? t->layer + 1
                                                                : table.n_layers + 1;
                    cr_expect_eq(inside, t->trainable && of == layer, "%s: %s", only[k], t->name);
                }
            }
            cr_expect_eq(at, table.n_elements);
            rf_table_free(&table);
        }
    }
}
