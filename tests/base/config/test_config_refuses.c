/* common/base/config.h: what it refuses, and how it says so. */
#include "common/base/config/config.h"

#include "tests/base/config/config_test.h"

Test(config_refuses, unknown_names_come_with_the_nearest)
{
    expect_refused("train:\n  stepz: 1\n",
                   "a.yaml:2:3: unknown key 'train.stepz': did you mean 'train.steps'?");
    expect_refused("train:\n  comptue: f32\n", "did you mean 'train.compute'?");
    expect_refused("data:\n  lr: 1\n", "did you mean 'train.lr'?");
    expect_refused("train:\n  something_else: 1\n", "unknown key 'train.something_else': --help");
    expect_refused("trian:\n  steps: 1\n",
                   "a.yaml:1:1: unknown section 'trian': did you mean 'train'?");
    expect_refused("optimizer:\n  x: 1\n",
                   "unknown section 'optimizer': the sections are train, data");
    expect_refused("train.steps: 1\n", "write 'train:' and below it, indented, 'steps:'");
    expect_set_refused("train.stepz=1", "unknown key 'train.stepz': did you mean 'train.steps'?");
    expect_set_refused("steps=1", "unknown key 'steps': did you mean 'train.steps'?");
    expect_set_refused("train.steps", "section.key=value");
    expect_set_refused("=1", "section.key=value");
    expect_set_refused("", "section.key=value");
    char name[3000];
    memset(name, 'x', sizeof name);
    memcpy(name + sizeof name - 3, "=1", 3);
    expect_set_refused(name, "unknown key 'xxx");
    memcpy(name, "train.", 6);
    memcpy(name + sizeof name - 3, ": ", 3);
    expect_refused(name, "a.yaml:1:");
}

/* Two letters swapped are one mistake, not two. */
Test(config_refuses, swapped_letters_are_near)
{
    static const rf_config_key keys[] = {{"a.xbdcy", RF_KEY_INT, "1", 1, 8, NULL, 0, 0, 0, "x"},
                                         {"a.abcd", RF_KEY_INT, "1", 1, 8, NULL, 0, 0, 0, "x"},
                                         {0}};
    const rf_config_key *const table[] = {keys, NULL};
    rf_config *config = rf_config_new(table);
    rf_error err = {0};
    cr_expect(rf_config_set(config, "a.abdc=1", &err) == RF_ERR_USAGE);
    EXPECT_SAYS(&err, "did you mean 'a.abcd'?");
    rf_config_free(config);
}

Test(config_refuses, duplicates)
{
    expect_refused("train:\n  steps: 1\n  lr: 1\n  steps: 1\n",
                   "a.yaml:4:3: train.steps is set twice: see line 2");
    expect_refused("train:\n  steps: 1\ndata:\ntrain:\n  lr: 1\n",
                   "a.yaml:4:1: the section train is here twice: see line 1");
    expect_refused("train:\ntrain:\n", "a.yaml:2:1: the section train is here twice");
}

Test(config_refuses, wrong_nesting)
{
    expect_refused("- train\n", "a.yaml:1:1: a configuration is a mapping");
    expect_refused("train\n", "a.yaml:1:1: a configuration is a mapping");
    expect_refused("train: 5\n", "a.yaml:1:8: train is a section");
    expect_refused("train: [steps]\n", "a.yaml:1:8: train is a section");
    expect_refused("train:\n  steps:\n    x: 1\n",
                   "a.yaml:3:5: train.steps: a mapping is not possible here: write integer");
    expect_refused("train:\n  steps: [1]\n", "a.yaml:2:10: train.steps: a list is not possible");
    expect_refused("data:\n  train: {a: b}\n", "data.train: a mapping is not possible");
    expect_refused("data:\n  slot_sizes: [1, [2]]\n", "a.yaml:2:19: data.slot_sizes: a list holds");
    expect_refused("data:\n  train:\n    - a: b\n", "a.yaml:3:7: data.train: a list holds");
    expect_refused("train:\n  ? [a]\n  : 1\n", "the name of a key");
    expect_refused("? {a: b}\n: 1\n", "the name of a section");
    expect_refused("data:\n  slot_sizes: 4,8\n", "data.slot_sizes: '4,8'");
}

Test(config_refuses, values_that_are_missing)
{
    static const char *const nothing[] = {"", "~", "null", "NULL"};
    for (size_t i = 0; i < 4; i++) {
        char text[100];
        snprintf(text, sizeof text, "data:\n  valid: %s\n", nothing[i]);
        expect_refused(text, "data.valid: there is no value: write \"\"");
        snprintf(text, sizeof text, "data:\n  train: [a, %s, b]\n", nothing[i]);
        expect_refused(text, "a.yaml:2:");
        snprintf(text, sizeof text, "train:\n  steps: %s\n", nothing[i]);
        expect_refused(text, "train.steps: there is no value");
    }
    rf_config_free(load(""));
    rf_config_free(load("# nothing\n"));
    rf_config_free(load("---\n...\n"));
    rf_config_free(load("train:\ndata:\n  # valid: x\n"));
    rf_config *config = load("data: {valid: 'null'}\n");
    cr_expect_str_eq(rf_config_string(config, "data.valid"), "null");
    rf_config_free(config);
}

Test(config_refuses, yaml_that_is_not_for_settings)
{
    expect_refused("train: &t\n  steps: 1\n", "a.yaml:1:8: anchors (&) and aliases (*)");
    expect_refused("data:\n  valid: &x a\n  train: *x\n", "a.yaml:2:10: anchors");
    expect_refused("data:\n  train: *x\n", "a.yaml:2:10: anchors");
    expect_refused("data:\n  train: &x [a]\n", "anchors");
    expect_refused("train:\n  <<: *x\n", "unknown key 'train.<<'");
    expect_refused("data:\n  valid: !!str 5\n", "a.yaml:2:10: tags (!)");
    expect_refused("data: !x {valid: 5}\n", "tags (!)");
    expect_refused("data:\n  train: !x [5]\n", "tags (!)");
    expect_refused("train: {steps: 1}\n---\ntrain: {lr: 1}\n", "a.yaml:2:1: a second document");
    expect_refused("train: {steps: 1}\n...\n---\n", "a.yaml:3:1: a second document");
    expect_refused("data: {valid: \"a\\0b\"}\n", "0 byte");
    expect_refused("train: {\"steps\\0b\": 7}\n", "a.yaml:1:9: the name 'steps' has a 0 byte");
    expect_refused("\"train\\0b\": {steps: 7}\n", "0 byte");
}

Test(config_refuses, syntax_errors_have_a_place)
{
    expect_refused("train:\n\tsteps: 1\n", "a.yaml:2:1: a tab in the indentation: indent with");
    expect_refused("train:\n  steps: 1\n \tlr: 1\n", "a.yaml:3:");
    expect_refused("train:\n  steps: 1\n lr: 1\n", "a.yaml:3:2: ");
    expect_refused("train: {steps: 1\n", "a.yaml:2:1: ");
    expect_refused("data: {valid: \"x\n", "a.yaml:2:1: ");
    expect_refused("train:\n  steps 1\n  lr: 1\n", "a.yaml:2:3: train is a section");
    expect_refused("train:\n  steps: 1: 2\n", "a.yaml:2:11: ");
    expect_refused("%YAML 3.0\n---\ntrain:\n", "a.yaml:1:");
    expect_refused("data:\n  valid: \xFF\n", "a.yaml:2:10: ");
    expect_refused("data:\n  valid: \x01\n", "a.yaml:2:10: ");
    expect_refused("data:\n  valid: \xED\xA0\x80\n", "a.yaml:2:10: ");
    expect_refused("\xFF\xFEt", "a.yaml:1:1: ");
}

Test(config_refuses, deep_nesting)
{
    char *deep = malloc(200001);
    memset(deep, '[', 200000);
    deep[200000] = '\0';
    expect_refused(deep, "a.yaml:1:1: a configuration is a mapping");
    memcpy(deep, "data: {train: ", 14);
    expect_refused(deep, "a.yaml:1:16: data.train: a list holds");
    free(deep);
}

Test(config_refuses, command_line_lists)
{
    expect_set_refused("data.slot_sizes=4,,8", "data.slot_sizes: '4,,8' has an empty element");
    expect_set_refused("data.slot_sizes=4,", "empty element");
    expect_set_refused("data.slot_sizes=,", "empty element");
    expect_set_refused("data.slot_sizes=4,x", "data.slot_sizes: 'x'");
    expect_set_refused("data.slot_sizes=[4,65]", "data.slot_sizes: '65'");
    expect_set_refused("data.slot_sizes=[4", "data.slot_sizes: ");
    expect_set_refused("data.slot_sizes=[4] 5", "data.slot_sizes: ");
    expect_set_refused("data.slot_sizes=[4]\n---\n[5]", "second document");
    expect_set_refused("data.slot_sizes=[4]\n: x", "data.slot_sizes: ");
    expect_set_refused("data.train=[a, [b]]", "nothing nested");
    expect_set_refused("data.train=[a, *b]", "anchors");
    expect_set_refused("data.valid=\xFF", "data.valid: the text is not UTF-8");
    expect_set_refused("data.train=a,\xC3", "not UTF-8");
}
