#include "common/base/alloc.h"
#include "data/convert/convert_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Names of one kind of trouble, as many as fit. */
typedef struct names {
    rf_text text;
    int64_t n, left_out;
} names;

/* Takes the name over. */
static void add_name(names *list, char *name)
{
    enum { MOST = 480 }; /* bytes of all */
    list->n++;
    if (list->left_out > 0 || strlen(name) + 2 >= MOST - list->text.bytes) {
        list->left_out++;
    } else {
        rf_text_print(&list->text, "%s%s", list->text.bytes > 0 ? ", " : "", name);
    }
    free(name);
}

/* Frees the list. */
static void print_names(rf_text *out, const char *what, names *list)
{
    if (list->n > 0) {
        rf_text_print(out, "; %" PRId64 " %s: %s", list->n, what,
                      list->text.data != NULL ? list->text.data : "");
    }
    if (list->left_out > 0) {
        rf_text_print(out, " and %" PRId64 " more", list->left_out);
    }
    rf_text_free(&list->text);
}

static void print_shape(rf_text *out, const int64_t *shape, int n_dims)
{
    for (int i = 0; i < n_dims; i++) {
        rf_text_print(out, "%s%" PRId64, i > 0 ? "," : "[", shape[i]);
    }
    rf_text_add_string(out, n_dims > 0 ? "]" : "[]");
}

static bool has_shape(const rf_safetensor *t, const rf_tensor *wanted)
{
    bool same = t->n_dims == wanted->n_dims;
    for (int i = 0; i < wanted->n_dims && same; i++) {
        same = t->shape[i] == wanted->shape[i];
    }
    return same;
}

typedef struct findings {
    names missing, surplus, shape, type;
    bool all_bf16;
} findings;

static void look_for(findings *f, const rf_tensor *wanted, const rf_safetensors *set)
{
    const rf_safetensor *t = rf_safetensors_find(set, wanted->name);
    if (t == NULL) {
        add_name(&f->missing, rf_alloc_string(wanted->name));
        return;
    }
    if (!has_shape(t, wanted)) {
        rf_text line = {0};
        rf_text_print(&line, "%s is ", wanted->name);
        print_shape(&line, t->shape, t->n_dims);
        rf_text_add_string(&line, " instead of ");
        print_shape(&line, wanted->shape, wanted->n_dims);
        add_name(&f->shape, line.data);
    }
    if (t->type == RF_N_TYPES || t->type == RF_F64) {
        add_name(&f->type, rf_alloc_format("%s is %s", wanted->name, t->dtype));
    }
    f->all_bf16 = f->all_bf16 && t->type == RF_BF16;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The head of a tied model, when it is what the configuration says that it is. */
static bool is_tied_head(const rf_safetensor *t, const rf_safetensors *set,
                         const rf_model_config *config)
{
    const rf_safetensor *embed = rf_safetensors_find(set, "model.embed_tokens.weight");
    if (!config->tie_word_embeddings || strcmp(t->name, "lm_head.weight") != 0 || embed == NULL ||
        embed->type != t->type || embed->bytes != t->bytes) {
        return false;
    }
    const size_t piece = (size_t)16 << 20;
    for (size_t at = 0; at < t->bytes; at += piece) {
        size_t n = t->bytes - at < piece ? t->bytes - at : piece;
        if (memcmp(t->data + at, embed->data + at, n) != 0) {
            return false;
        }
        rf_safetensors_forget(t, at, n);
        rf_safetensors_forget(embed, at, n);
    }
    return true;
}

static int report(findings *f, const char *folder, rf_error *err)
{
    rf_text text = {0};
    print_names(&text, "missing", &f->missing);
    print_names(&text, "surplus", &f->surplus);
    print_names(&text, "of the wrong shape", &f->shape);
    print_names(&text, "of types other than F32, F16 and BF16", &f->type);
    int rc = rf_error_set(err, RF_ERR,
                          "%s: its tensors are not those of its config.json%s: use a complete "
                          "folder of one model",
                          folder, text.data);
    rf_text_free(&text);
    return rc;
}

int rf_convert_match(rf_type *type, const rf_safetensors *set, const rf_model_config *config,
                     const char *folder, rf_error *err)
{
    rf_table table;
    findings f = {.all_bf16 = true};
    RF_TRY(rf_table_build(&table, config, err));
    for (int64_t i = 0; i < table.n_tensors; i++) {
        look_for(&f, &table.tensor[i], set);
    }
    for (int64_t i = 0; i < set->n; i++) {
        const rf_safetensor *t = &set->tensor[i];
        if (rf_table_find(&table, t->name) == NULL && !ends_with(t->name, ".rotary_emb.inv_freq") &&
            !is_tied_head(t, set, config)) {
            add_name(&f.surplus, rf_alloc_string(t->name));
        }
    }
    rf_table_free(&table);
    *type = f.all_bf16 ? RF_BF16 : RF_F32;
    bool ok = f.missing.n + f.surplus.n + f.shape.n + f.type.n == 0;
    return ok ? RF_OK : report(&f, folder, err);
}
