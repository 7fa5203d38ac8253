/* Which tensors are trained: patterns, the table's two spaces, what a file says about it. */
#include "tests/model/tiny.h"

#include <jansson.h>

static const tiny_switches biased = {.qk_norm = true, .qkv_bias = true};

Test(adapt, patterns)
{
    const char *name = "model.layers.12.self_attn.q_proj.weight";
    const char *const yes[] = {"q_proj",
                               "layers.12",
                               "model.layers.12.self_attn.q_proj.weight",
                               "*",
                               "*.q_proj.weight",
                               "model.layers.1*weight",
                               "x,*q_proj*,y",
                               "self_attn.q_proj",
                               "weight",
                               "up_proj,model",
                               "*layers*self*weight",
                               "layers.1*",
                               "self_attn.*",
                               "*q_proj",
                               "q_proj*",
                               "q_*j",
                               "12.*"};
    const char *const no[] = {"",           "q",     "layers.1",  "proj",       "q_proj.bias",
                              "*q_pro",     "proj*", "layers.2*", "model.x",    "*.13.*",
                              "self_attn.", ",",     "x,y,q_pro", "odel.layers"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        cr_assert(rf_adapt_matches(yes[i], name), "%s", yes[i]);
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        cr_assert(!rf_adapt_matches(no[i], name), "%s", no[i]);
    }
}

static rf_adaptation make(const char *only, int64_t rank, const char *targets)
{
    rf_adaptation a = {.rank = rank, .alpha = 8};
    snprintf(a.only, sizeof a.only, "%s", only);
    snprintf(a.targets, sizeof a.targets, "%s", targets);
    return a;
}

/* Trainable tensors fill [0, n_elements) in order, each layer from a multiple of RF_SUM_RUN on; frozen
 * ones [n_elements, n_stored). */
static void check_spaces(const rf_table *table)
{
    int64_t end[2] = {table->n_elements, 0}, count[2] = {0, 0}, layer = -2;
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *t = &table->tensor[i];
        const int64_t own = t->role == RF_ROLE_EMBED ? -3 : t->layer;
        if (t->trainable && own != layer) {
            end[1] = rf_sum_runs(end[1]) * RF_SUM_RUN;
            layer = own;
        }
        cr_assert(t->offset == end[t->trainable] && t->offset % 16 == 0, "%s", t->name);
        end[t->trainable] += (t->count + 15) / 16 * 16;
        count[t->trainable] += t->count;
    }
    cr_assert(end[1] == table->n_elements && end[0] == table->n_stored);
    cr_assert(count[1] == table->n_trainable && count[0] + count[1] == table->n_parameters);
}

/* The example of the README: the fourth block and all norms. */
Test(adapt, stars_match_parts)
{
    static const char *const pairs[][2] = {{"layers.3*,*norm*", "layers.3,*norm.weight"},
                                           {"layers.1.*", "layers.1"},
                                           {"mlp.*", "mlp"}};
    rf_model_config config = tiny_config(biased);
    config.num_hidden_layers = 5;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        rf_adaptation with = make(pairs[i][0], 0, ""), without = make(pairs[i][1], 0, "");
        rf_table a, b;
        TINY_MUST(rf_table_build_adapted(&a, &config, &with, tiny_error()));
        TINY_MUST(rf_table_build_adapted(&b, &config, &without, tiny_error()));
        cr_assert(a.n_trainable > 0 && a.n_trainable < a.n_parameters);
        for (int64_t j = 0; j < a.n_tensors; j++) {
            cr_assert(a.tensor[j].trainable == b.tensor[j].trainable, "%s", a.tensor[j].name);
        }
        rf_table_free(&a);
        rf_table_free(&b);
    }
}

Test(adapt, spaces)
{
    rf_model_config config = tiny_config(biased);
    rf_table full, part, lora;
    rf_adaptation only = make("layers.1,*norm.weight", 0, "");
    rf_adaptation adapters = make("", 3, "q_proj,*.0.mlp.down_proj.*");
    TINY_MUST(rf_table_build(&full, &config, tiny_error()));
    TINY_MUST(rf_table_build_adapted(&part, &config, &only, tiny_error()));
    TINY_MUST(rf_table_build_adapted(&lora, &config, &adapters, tiny_error()));
    check_spaces(&full);
    check_spaces(&part);
    check_spaces(&lora);
    cr_assert(full.n_stored == full.n_elements && full.n_trainable == full.n_parameters);
    cr_assert(part.n_stored <= full.n_stored && part.n_tensors == full.n_tensors);
    cr_assert(rf_table_find(&part, "model.norm.weight")->trainable);
    cr_assert(!rf_table_find(&part, "model.embed_tokens.weight")->trainable);
    cr_assert(lora.n_tensors == full.n_tensors + 6 && lora.n_adapters == 6);
    const rf_tensor *a = rf_table_find(&lora, "model.layers.0.mlp.down_proj.lora_A.weight");
    const rf_tensor *b = rf_table_find(&lora, "model.layers.0.mlp.down_proj.lora_B.weight");
    cr_assert(a != NULL && a->shape[0] == 3 && a->shape[1] == config.intermediate_size);
    cr_assert(b != NULL && b->shape[0] == config.hidden_size && b->shape[1] == 3);
    cr_assert(rf_table_role(&lora, 0, RF_ROLE_DOWN_A) == a);
    cr_assert_null(rf_table_find(&lora, "model.layers.1.mlp.down_proj.lora_A.weight"));
    rf_table_free(&full);
    rf_table_free(&part);
    rf_table_free(&lora);
}

Test(adapt, refused)
{
    rf_model_config config = tiny_config(biased);
    const struct {
        rf_adaptation adaptation;
        const char *words;
    } cases[] = {
        {make("q_prj", 0, ""), "train.only: no tensor of the model matches \"q_prj\""},
        {make("q_proj,a*b", 0, ""), "\"a*b\""},
        {make("*****", 0, ""), "stars"},
        {make("a,,b", 0, ""), "empty"},
        {make("q_proj", 2, "q_proj"), "leave out one"},
        {make("", 2, "norm"), "lora.targets: no matrix"},
        {make("", 2, "q_proj.bias"), "lora.targets: no matrix"},
        {make("", 2, "embed_tokens"), "no matrix of a block"},
        {make("", 2, "lm_head"), "no matrix of a block"},
        {make("", 2, ""), "lora.targets is empty"},
        {make("", -1, "q_proj"), "lora.rank"},
        {make("", INT64_MAX, "q_proj"), "lora.rank"},
    };
    rf_table table;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = rf_table_build_adapted(&table, &config, &cases[i].adaptation, tiny_error());
        cr_assert(rc == RF_ERR_USAGE && table.tensor == NULL, "%zu", i);
        cr_assert(strstr(tiny_error()->message, cases[i].words) != NULL, "%s",
                  tiny_error()->message);
    }
    rf_adaptation a = make("", 2, "q_proj");
    a.alpha = (double)NAN;
    cr_assert(rf_adapt_check(&a, tiny_error()) == RF_ERR_USAGE);
    a.alpha = 1.0;
    a.dropout = 1.0;
    cr_assert(rf_adapt_check(&a, tiny_error()) == RF_ERR_USAGE);
}

Test(adapt, json_there_and_back)
{
    rf_adaptation a = make("", 3, "q_proj,*.0.mlp.down_proj.*"), b;
    rf_adapt_base base = {.path = "/some where/base \"1\".h5", .hash = UINT64_MAX - 5}, back;
    a.dropout = 0.1;
    a.seed = 77;
    json_t *json = rf_adapt_json(&a, &base);
    TINY_MUST(rf_adapt_parse(&b, &back, json, "x.h5", tiny_error()));
    cr_assert(rf_adapt_same(&a, &b) && b.seed == a.seed && !(b.dropout > a.dropout) &&
              !(b.dropout < a.dropout));
    cr_assert(back.hash == base.hash && strcmp(back.path, base.path) == 0);
    json_decref(json);
    a = make("layers.1,norm", 0, "");
    json = rf_adapt_json(&a, &base);
    TINY_MUST(rf_adapt_parse(&b, &back, json, "x.h5", tiny_error()));
    cr_assert(rf_adapt_same(&a, &b) && b.rank == 0);
    json_decref(json);
}

Test(adapt, damaged_json)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"train_only\":1}",
        "{\"train_only\":\"a\",\"x\":1}",
        "{\"rank\":2}",
        "{\"rank\":0,\"alpha\":1,\"targets\":\"q_proj\",\"dropout\":0,\"seed\":1,\"base\":\"\","
        "\"base_hash\":\"0000000000000001\"}",
        "{\"rank\":2,\"alpha\":-1,\"targets\":\"q_proj\",\"dropout\":0,\"seed\":1,\"base\":\"\","
        "\"base_hash\":\"0000000000000001\"}",
        "{\"rank\":2,\"alpha\":1,\"targets\":\"\",\"dropout\":0,\"seed\":1,\"base\":\"\","
        "\"base_hash\":\"0000000000000001\"}",
        "{\"rank\":2,\"alpha\":1,\"targets\":\"q_proj\",\"dropout\":2,\"seed\":1,\"base\":\"\","
        "\"base_hash\":\"0000000000000001\"}",
        "{\"rank\":2,\"alpha\":1,\"targets\":\"q_proj\",\"dropout\":0,\"seed\":1,\"base\":\"\","
        "\"base_hash\":\"00000000000000x1\"}",
        "{\"rank\":2,\"alpha\":1,\"targets\":\"q_proj\",\"dropout\":0,\"seed\":\"\",\"base\":\"\","
        "\"base_hash\":\"0000000000000001\"}",
    };
    rf_adaptation a;
    rf_adapt_base base;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *json = json_loads(texts[i], 0, NULL);
        cr_assert(json != NULL);
        cr_assert(rf_adapt_parse(&a, &base, json, "x.h5", tiny_error()) != RF_OK, "%s", texts[i]);
        cr_assert(strstr(tiny_error()->message, "x.h5") != NULL);
        json_decref(json);
    }
}
