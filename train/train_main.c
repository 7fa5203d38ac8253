/* refusion-train: data-parallel training. Usage: --help. */
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/manual/manual.h"
#include "train/loop.h"
#include "train/plan.h"
#include "train/run/signals.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *config_path; /* NULL: presets */
    rf_option_list resumes;  /* auto, no, paths, as given */
    rf_resume resume;
    const char *resume_path; /* NULL: not given */
    rf_option_list change;   /* section.key=value */
    int64_t ranks, hosts;    /* to plan for; 0: those there are */
    bool dry_run, folder, print_config;
    int first; /* of the arguments behind the options: configuration file and settings */
} options;

static const rf_option option_table[] = {
    {"dry-run", NULL, "checks everything, prints the plan of memory and disk, and stops",
     RF_OPTION_FLAG, .at = offsetof(options, dry_run)},
    {"ranks", "N",
     "with --dry-run: the plan of N ranks, from one process; all on this host, unless --hosts "
     "says otherwise",
     RF_OPTION_INTEGER, .at = offsetof(options, ranks), .min = 1, .max = 1 << 20},
    {"hosts", "H",
     "with --ranks: evenly on H hosts (default 1) that have the memory and cores of this one",
     RF_OPTION_INTEGER, .at = offsetof(options, hosts), .min = 1, .max = 1 << 20},
    {"folder", NULL, "prints the run folder, and stops", RF_OPTION_FLAG,
     .at = offsetof(options, folder)},
    {"resume", "auto|PATH|no",
     "auto goes on from the newest checkpoint of the run folder that is not damaged, and begins "
     "where there is none; PATH from this checkpoint; no (default): begins. May be given twice: "
     "auto counts, and beside it PATH, or no, where the run folder has no checkpoint",
     RF_OPTION_LIST, .at = offsetof(options, resumes)},
    {"change", "KEY=VALUE",
     "with --resume: a setting of the run that is another from here on; may be given several "
     "times, for the keys of which the list below says so",
     RF_OPTION_LIST, .at = offsetof(options, change)},
    {"print-config", NULL,
     "prints the configuration as YAML, each key with what it is, its range, its default and where "
     "its value comes from, and stops; without CONFIG.yaml: one to begin with",
     RF_OPTION_FLAG, .at = offsetof(options, print_config)},
    {0}};

static const rf_manual manual = {
    .name = "refusion-train",
    .summary = "trains language models on the ranks of MPI",
    .synopsis = "refusion-train CONFIG.yaml [section.key=value ...] [options]\n"
                "mpirun -n 2 refusion-train ...       or: train/launch.sh -n 2 CONFIG.yaml ...\n",
    .text = "Trains a model on the corpora of data.train and keeps config.yaml, metrics.jsonl,\n"
            "samples.jsonl and checkpoints in the run folder (log.dir). train/launch.sh\n"
            "(refusion-launch where it is installed) starts ranks so that Ctrl-C, SIGTERM and\n"
            "Slurm's --signal save a checkpoint first.\n",
    .option = option_table,
    .key = rf_train_tables,
    .key_title = "Keys",
    .resumes = true,
    .exit_status = "0 done, 1 permanent error, 2 wrong usage, 3 stopped on request after a "
                   "checkpoint, 4 diverged, 5 worth a retry."};

/* --- Command line ----------------------------------------------------------------------------- */

/* auto goes before all else: who starts a job again adds it to what was given. */
static int read_resumes(options *o, rf_error *err)
{
    bool is_auto = false;
    for (int i = 0; i < o->resumes.n; i++) {
        const char *resume = o->resumes.item[i];
        if (resume[0] == '\0' || resume[0] == '-') {
            return rf_error_set(err, RF_ERR_USAGE, "--resume: write --resume auto, a path, or no");
        }
        if (strcmp(resume, "auto") == 0) {
            is_auto = true;
        } else if (strcmp(resume, "no") != 0) {
            if (o->resume_path != NULL && strcmp(o->resume_path, resume) != 0) {
                return rf_error_set(err, RF_ERR_USAGE,
                                    "--resume %.200s and --resume %.200s: a run goes on from one",
                                    o->resume_path, resume);
            }
            o->resume_path = resume;
        }
    }
    o->resume = is_auto ? RF_RESUME_AUTO : o->resume_path != NULL ? RF_RESUME_PATH : RF_RESUME_NO;
    return RF_OK;
}

/* section.key=value; a file may be called so too, or lie in a folder that is. */
static bool is_setting(const char *argument)
{
    return strchr(argument, '=') != NULL &&
           (!rf_path_exists(argument) || rf_path_is_folder(argument));
}

static int parse(options *o, int argc, char **argv, rf_error *err)
{
    RF_TRY(rf_manual_parse(&o->first, o, argc, argv, &manual, err));
    if (o->ranks > 0 && !o->dry_run) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--ranks goes with --dry-run: mpirun -n starts ranks that train");
    }
    if (o->hosts > (o->ranks > 0 ? o->ranks : 0)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--hosts goes with --ranks, and a host has one rank at least: give "
                            "--dry-run --ranks N with N from %" PRId64 " on",
                            o->hosts);
    }
    RF_TRY(read_resumes(o, err));
    if (o->change.n > 0 && o->resume == RF_RESUME_NO) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--change is for a run that goes on: give --resume, or write %.200s "
                            "without --change",
                            o->change.item[0]);
    }
    for (int i = o->first; i < argc; i++) {
        if (is_setting(argv[i])) {
            continue;
        }
        if (o->config_path != NULL) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "two configuration files, %.200s and %.200s: give one; settings "
                                "are written section.key=value",
                                o->config_path, argv[i]);
        }
        o->config_path = argv[i];
    }
    return argc > 1
               ? RF_OK
               : rf_error_set(err, RF_ERR_USAGE, "no configuration: name a file; --help shows how");
}

/* runs/<name of the configuration file>, where log.dir is not given. */
static int set_folder(rf_config *config, const char *config_path, rf_error *err)
{
    char setting[512];
    if (rf_config_string(config, "log.dir")[0] != '\0' || config_path == NULL) {
        return RF_OK;
    }
    const char *name = rf_path_name(config_path);
    const char *end = strrchr(name, '.');
    const bool is_named = end != NULL && (strcmp(end, ".yaml") == 0 || strcmp(end, ".yml") == 0);
    int n = (int)(is_named ? (size_t)(end - name) : strlen(name));
    if (n == 0 ||
        snprintf(setting, sizeof setting, "log.dir=runs/%.*s", n, name) >= (int)sizeof setting) {
        return RF_OK; /* the settings ask for log.dir */
    }
    return rf_config_derive(config, setting, "name of the configuration file", err);
}

static int set_changes(rf_config *config, const options *o, rf_error *err)
{
    for (int i = 0; i < o->change.n; i++) {
        const char *text = o->change.item[i];
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(text, "="), text);
        for (int k = 0; k < i; k++) {
            if (strncmp(o->change.item[k], text, strlen(key) + 1) == 0) {
                return rf_error_set(err, RF_ERR_USAGE,
                                    "--change %.200s and --change %.200s: give one of them",
                                    o->change.item[k], text);
            }
        }
        RF_TRY(rf_config_set(config, text, err));
        if ((rf_config_flags(config, key) & (RF_KEY_MAY_CHANGE | RF_KEY_ON_REQUEST)) == 0) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "--change %.200s: the run so far stands on %s: begin a new run "
                                "with model.init",
                                text, key);
        }
    }
    return RF_OK;
}

static int configure(rf_config *config, const options *o, int argc, char **argv, rf_error *err)
{
    if (o->config_path != NULL) {
        RF_TRY(rf_config_load(config, o->config_path, err));
    }
    for (int i = o->first; i < argc; i++) {
        if (is_setting(argv[i])) {
            RF_TRY(rf_config_set(config, argv[i], err));
        }
    }
    RF_TRY(set_changes(config, o, err));
    return set_folder(config, o->config_path, err);
}

/* What is known without data, and without other ranks. */
static int print(rf_config *config, const options *o, int argc, char **argv, rf_error *err)
{
    RF_TRY(configure(config, o, argc, argv, err));
    if (o->print_config) {
        rf_config_print_commented(config, stdout);
    } else {
        puts(rf_config_string(config, "log.dir"));
    }
    return rf_error_of_stdout(err);
}

/* --- Running ---------------------------------------------------------------------------------- */

static int dry_run(rf_setup *s, rf_error *err)
{
    rf_plan plan;
    RF_TRY(rf_dist_agree(s->dist, rf_run_check(&s->run, err), err));
    const int rc = rf_dist_rank(s->dist) == 0 ? rf_trainer_check(s, err) : RF_OK;
    RF_TRY(rf_dist_agree(s->dist, rc, err));
    RF_TRY(rf_plan_make(&plan, s, err));
    const rf_disk_plan disk = rf_disk_plan_make(s);
    if (rf_dist_rank(s->dist) == 0) {
        printf("%" PRId64 " parameters, %" PRId64 " of them trained, %" PRId64
               " steps, run folder %s%s%s\n",
               s->n_parameters, s->n_trainable, s->set.steps, s->set.folder,
               s->run.resume[0] != '\0' ? ", going on from " : "", s->run.resume);
        rf_plan_print(&plan, &disk, s, stdout);
        RF_TRY(rf_error_of_stdout(err));
    }
    return rf_dist_agree(s->dist, rf_plan_check(&plan, &disk, s, err), err);
}

static int train(rf_dist *dist, rf_config *config, const options *o, rf_error *err)
{
    rf_setup setup;
    rf_trainer trainer = {0};
    int rc = RF_OK;
    RF_TRY_OUT(rf_setup_open(&setup, dist, config, o->config_path, o->resume, o->resume_path,
                             o->change.item, o->change.n, err));
    if (o->dry_run) {
        RF_TRY_OUT(dry_run(&setup, err));
    } else {
        RF_TRY_OUT(rf_trainer_start(&trainer, &setup, err));
        RF_TRY_OUT(rf_loop_run(&trainer, err));
    }
out:
    rf_trainer_free(&trainer);
    rf_setup_close(&setup);
    return rc;
}

/* Collective. What the command line asks for is the same on all ranks, or they would wait for each other. */
static int agree_on_command(rf_dist *dist, const options *o, rf_error *err)
{
    char text[RF_PATH_BYTES + 128];
    snprintf(text, sizeof text,
             "--dry-run %s\n--ranks %" PRId64 "\n--hosts %" PRId64 "\n--resume %s\n%s%s\n",
             o->dry_run ? "yes" : "no", o->ranks, o->hosts,
             o->resume == RF_RESUME_AUTO ? "auto" : "no", o->resume_path != NULL ? "--resume " : "",
             o->resume_path != NULL ? o->resume_path : "");
    return rf_dist_same_text(dist, text, err);
}

static int suppose_ranks(rf_dist *dist, const options *o, rf_error *err)
{
    if (o->ranks > 0 && rf_dist_size(dist) > 1) {
        return rf_error_set(err, RF_ERR_USAGE, "--ranks plans from one process: leave out mpirun");
    }
    if (o->ranks > 0) {
        const int64_t hosts = o->hosts > 0 ? o->hosts : 1;
        rf_dist_suppose(dist, (int)o->ranks, (int)((o->ranks + hosts - 1) / hosts));
    }
    return RF_OK;
}

static int run(rf_dist *dist, rf_config *config, const options *o, int rc, rf_error *err)
{
    RF_TRY(rf_dist_agree(dist, rc, err));
    RF_TRY(agree_on_command(dist, o, err));
    RF_TRY(suppose_ranks(dist, o, err));
    return train(dist, config, o, err);
}

int main(int argc, char **argv)
{
    rf_error err = {0}, open_error = {0};
    rf_dist *dist = NULL;
    options o = {0};
    rf_signals_install();
    rf_log_set_program("refusion-train");
    rf_config *config = rf_config_new(rf_train_tables);
    bool answered;
    int rc = rf_manual_answer(&answered, &manual, argc, argv, &err);
    if (answered) {
        rf_log_error(&err);
        goto out;
    }
    rc = parse(&o, argc, argv, &err);
    if (rc == RF_OK && (o.print_config || o.folder)) {
        rc = print(config, &o, argc, argv, &err);
        rf_log_error(&err);
        goto out;
    }
    rc = rc == RF_OK ? configure(config, &o, argc, argv, &err) : rc;
    if (rc == RF_OK) {
        rc = rf_failpoint_visit("begin", &err);
    }
    /* All ranks have the same command line: they fail alike, and rank 0 speaks for them. */
    int opened = rf_dist_open(&dist, &argc, &argv, &open_error);
    if (opened != RF_OK) {
        rc = opened;
        rf_log_error(&open_error);
        goto out;
    }
    rf_signals_set_quiet(rf_dist_rank(dist) != 0);
    rc = run(dist, config, &o, rc, &err);
    rf_dist_report(dist, rc, &err);
out:
    free(o.resumes.item);
    free(o.change.item);
    rf_config_free(config);
    rf_dist_close(dist);
    return rf_error_exit_status(rc);
}
