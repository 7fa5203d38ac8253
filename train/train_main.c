/* refusion-train: data-parallel training. Usage: --help. */
#include "common/base/log.h"
#include "train/loop.h"
#include "train/plan.h"
#include "train/run/signals.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *config_path; /* NULL: presets */
    rf_resume resume;
    const char *resume_path;
    bool dry_run, help, version;
} options;

static const char usage[] =
    "Usage: refusion-train CONFIG.yaml [section.key=value ...] [--dry-run]\n"
    "                      [--resume auto|PATH|no]\n"
    "       mpirun -n 2 refusion-train ...       or: train/launch.sh -n 2 CONFIG.yaml ...\n"
    "\n"
    "Trains a model on the corpora of data.train and keeps config.yaml, metrics.jsonl,\n"
    "samples.jsonl and checkpoints in the run folder (log.dir).\n"
    "\n"
    "  --dry-run       checks everything, prints the memory plan, and stops\n"
    "  --resume auto   goes on from the newest checkpoint of the run folder that verifies;\n"
    "                  a folder without checkpoints begins\n"
    "  --resume PATH   goes on from this checkpoint\n"
    "  --help          this text and all keys\n"
    "  --version       prints the version\n"
    "\n"
    "Exit status: 0 done, 1 permanent error, 2 wrong usage, 3 stopped on request after a\n"
    "checkpoint, 4 diverged, 5 worth a retry.\n"
    "\n"
    "Keys:\n";

/* --- Command line ----------------------------------------------------------------------------- */

static int parse_resume(options *o, const char *value, rf_error *err)
{
    if (value == NULL || value[0] == '\0' || value[0] == '-') {
        return rf_error_set(err, RF_ERR_USAGE, "--resume: write --resume auto, a path, or no");
    }
    o->resume = strcmp(value, "auto") == 0 ? RF_RESUME_AUTO
                : strcmp(value, "no") == 0 ? RF_RESUME_NO
                                           : RF_RESUME_PATH;
    o->resume_path = value;
    return RF_OK;
}

static int parse_argument(options *o, int *i, int argc, char **argv, rf_error *err)
{
    const char *argument = argv[*i];
    if (strcmp(argument, "--dry-run") == 0) {
        o->dry_run = true;
    } else if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
        o->help = true;
    } else if (strcmp(argument, "--version") == 0) {
        o->version = true;
    } else if (strncmp(argument, "--resume=", 9) == 0) {
        return parse_resume(o, argument + 9, err);
    } else if (strcmp(argument, "--resume") == 0) {
        (*i)++;
        return parse_resume(o, *i < argc ? argv[*i] : NULL, err);
    } else if (argument[0] == '-') {
        return rf_error_set(err, RF_ERR_USAGE, "unknown option %.100s: --help lists all", argument);
    } else if (strchr(argument, '=') == NULL) {
        if (o->config_path != NULL) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "two configuration files, %.200s and %.200s: give one; settings "
                                "are written section.key=value",
                                o->config_path, argument);
        }
        o->config_path = argument;
    }
    return RF_OK;
}

static int parse(options *o, int argc, char **argv, rf_error *err)
{
    int rc = RF_OK;
    *o = (options){0};
    for (int i = 1; rc == RF_OK && i < argc; i++) {
        rc = parse_argument(o, &i, argc, argv, err);
    }
    if (rc == RF_OK && argc == 1) {
        rc = rf_error_set(err, RF_ERR_USAGE, "no configuration: name a file; --help shows how");
    }
    return rc;
}

/* runs/<name of the configuration file>, where log.dir is not given. */
static int set_folder(rf_config *config, const char *config_path, rf_error *err)
{
    char setting[512];
    if (rf_config_string(config, "log.dir")[0] != '\0' || config_path == NULL) {
        return RF_OK;
    }
    const char *slash = strrchr(config_path, '/');
    const char *name = slash != NULL ? slash + 1 : config_path;
    int n = (int)strcspn(name, ".");
    if (n == 0 ||
        snprintf(setting, sizeof setting, "log.dir=runs/%.*s", n, name) >= (int)sizeof setting) {
        return RF_OK; /* the settings ask for log.dir */
    }
    return rf_config_set(config, setting, err);
}

static int configure(rf_config *config, const options *o, int argc, char **argv, rf_error *err)
{
    int rc = o->config_path != NULL ? rf_config_load(config, o->config_path, err) : RF_OK;
    for (int i = 1; rc == RF_OK && i < argc; i++) {
        if (strcmp(argv[i], "--resume") == 0) {
            i++;
        } else if (argv[i][0] != '-' && strchr(argv[i], '=') != NULL) {
            rc = rf_config_set(config, argv[i], err);
        }
    }
    return rc == RF_OK ? set_folder(config, o->config_path, err) : rc;
}

/* --- Running ---------------------------------------------------------------------------------- */

static int dry_run(const rf_setup *s, rf_error *err)
{
    rf_plan plan;
    RF_TRY(rf_dist_agree(s->dist, rf_plan_make(&plan, s, err), err));
    if (rf_dist_rank(s->dist) == 0) {
        printf("%" PRId64 " parameters, %" PRId64 " of them trained, %" PRId64
               " steps, run folder %s%s%s\n",
               s->n_parameters, s->n_trainable, s->set.steps, s->set.folder,
               s->run.resume[0] != '\0' ? ", going on from " : "", s->run.resume);
        rf_plan_print(&plan, s, stdout);
        if (fflush(stdout) != 0) {
            return rf_error_set(err, RF_ERR, "the plan cannot be written to stdout");
        }
    }
    return RF_OK;
}

static int train(rf_dist *dist, rf_config *config, const options *o, rf_error *err)
{
    rf_setup setup;
    rf_trainer trainer = {0};
    int rc = RF_OK;
    RF_TRY_OUT(rf_setup_open(&setup, dist, config, o->resume, o->resume_path, err));
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

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_dist *dist = NULL;
    options o = {0};
    rf_config *config = NULL;
    rf_signals_install();
    rf_log_set_program("refusion-train");
    int rc = parse(&o, argc, argv, &err);
    if (rc == RF_OK && o.help) {
        config = rf_config_new(rf_train_tables);
        fputs(usage, stdout);
        rf_config_help(config, stdout);
        goto out;
    }
    if (rc == RF_OK && o.version) {
        printf("refusion-train %s\n", RF_VERSION);
        goto out;
    }
    /* All ranks have the same command line: they fail alike, and rank 0 speaks for them. */
    rf_error open_error = {0};
    int opened = rf_dist_open(&dist, &argc, &argv, &open_error);
    if (opened != RF_OK) {
        rc = opened;
        err = open_error;
        rf_log_error(&err);
        goto out;
    }
    config = rf_config_new(rf_train_tables);
    if (rc == RF_OK) {
        rc = configure(config, &o, argc, argv, &err);
    }
    rc = rf_dist_agree(dist, rc, &err);
    if (rc == RF_OK) {
        rc = train(dist, config, &o, &err);
    }
    if (rc != RF_OK && rf_dist_rank(dist) == 0) {
        rf_log_set_rank(0, 1); /* the message names the rank that failed */
        rf_log_error(&err);
    }
    if (rc == RF_ERR_RETRY) {
        /* Other ranks may wait in a call that this one will never make. */
        rf_dist_abort(dist, rf_error_exit_status(rc));
    }
out:
    rf_config_free(config);
    rf_dist_close(dist);
    return rf_error_exit_status(rc);
}
