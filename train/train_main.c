/* refusion-train: data-parallel training. Usage: --help. */
#include "common/base/log.h"
#include "common/base/options.h"
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
    const char *resume_path; /* NULL: not given */
    rf_option_list change;   /* section.key=value */
    int64_t ranks;           /* to plan for; 0: those there are */
    bool dry_run, folder, help, version;
    int first; /* of the arguments behind the options: configuration file and settings */
} options;

static const char usage[] =
    "Usage: refusion-train CONFIG.yaml [section.key=value ...] [--dry-run [--ranks N]]\n"
    "                      [--resume auto|PATH|no] [--change KEY=VALUE]\n"
    "       mpirun -n 2 refusion-train ...       or: train/launch.sh -n 2 CONFIG.yaml ...\n"
    "\n"
    "Trains a model on the corpora of data.train and keeps config.yaml, metrics.jsonl,\n"
    "samples.jsonl and checkpoints in the run folder (log.dir).\n"
    "\n"
    "  --dry-run       checks everything, prints the plan of memory and disk, and stops\n"
    "  --ranks N       with --dry-run: the plan of N ranks on this host, from one process\n"
    "  --folder        prints the run folder, and stops\n"
    "  --resume auto   goes on from the newest checkpoint of the run folder that verifies;\n"
    "                  a folder without checkpoints begins\n"
    "  --resume PATH   goes on from this checkpoint\n"
    "  --change KEY=VALUE\n"
    "                  with --resume: a setting of the run that is another from here on; may be\n"
    "                  given several times, for the keys of which the list below says so\n"
    "  -h, --help      this text and all keys\n"
    "  --version       prints the version\n"
    "\n"
    "Exit status: 0 done, 1 permanent error, 2 wrong usage, 3 stopped on request after a\n"
    "checkpoint, 4 diverged, 5 worth a retry.\n"
    "\n"
    "Keys:\n";

/* --- Command line ----------------------------------------------------------------------------- */

static int parse(options *o, int argc, char **argv, rf_error *err)
{
    const rf_option table[] = {{"dry-run", RF_OPTION_FLAG, &o->dry_run, 0, 0},
                               {"resume", RF_OPTION_TEXT, &o->resume_path, 0, 0},
                               {"ranks", RF_OPTION_INTEGER, &o->ranks, 1, 1 << 20},
                               {"folder", RF_OPTION_FLAG, &o->folder, 0, 0},
                               {"change", RF_OPTION_LIST, &o->change, 0, 0},
                               {"help", RF_OPTION_STOP, &o->help, 0, 0},
                               {"version", RF_OPTION_STOP, &o->version, 0, 0},
                               {0}};
    RF_TRY(rf_options_parse(&o->first, argc, argv, table, "see refusion-train --help", err));
    if (o->ranks > 0 && !o->dry_run) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--ranks goes with --dry-run: mpirun -n starts ranks that train");
    }
    const char *resume = o->resume_path;
    if (resume != NULL && (resume[0] == '\0' || resume[0] == '-')) {
        return rf_error_set(err, RF_ERR_USAGE, "--resume: write --resume auto, a path, or no");
    }
    o->resume = resume == NULL || strcmp(resume, "no") == 0 ? RF_RESUME_NO
                : strcmp(resume, "auto") == 0               ? RF_RESUME_AUTO
                                                            : RF_RESUME_PATH;
    if (o->change.n > 0 && o->resume == RF_RESUME_NO) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--change is for a run that goes on: give --resume, or write %.200s "
                            "without --change",
                            o->change.item[0]);
    }
    for (int i = o->first; i < argc; i++) {
        if (strchr(argv[i], '=') != NULL) {
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
    const char *name = rf_file_name(config_path);
    int n = (int)strcspn(name, ".");
    if (n == 0 ||
        snprintf(setting, sizeof setting, "log.dir=runs/%.*s", n, name) >= (int)sizeof setting) {
        return RF_OK; /* the settings ask for log.dir */
    }
    return rf_config_set(config, setting, err);
}

static int set_changes(rf_config *config, const options *o, rf_error *err)
{
    for (int i = 0; i < o->change.n; i++) {
        const char *text = o->change.item[i];
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(text, "="), text);
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
        if (strchr(argv[i], '=') != NULL) {
            RF_TRY(rf_config_set(config, argv[i], err));
        }
    }
    RF_TRY(set_changes(config, o, err));
    return set_folder(config, o->config_path, err);
}

/* --- Running ---------------------------------------------------------------------------------- */

static int dry_run(const rf_setup *s, rf_error *err)
{
    rf_plan plan;
    RF_TRY(rf_dist_agree(s->dist, rf_run_check(&s->run, err), err));
    RF_TRY(rf_dist_agree(s->dist, rf_plan_make(&plan, s, err), err));
    const rf_disk_plan disk = rf_disk_plan_make(s);
    if (rf_dist_rank(s->dist) == 0) {
        printf("%" PRId64 " parameters, %" PRId64 " of them trained, %" PRId64
               " steps, run folder %s%s%s\n",
               s->n_parameters, s->n_trainable, s->set.steps, s->set.folder,
               s->run.resume[0] != '\0' ? ", going on from " : "", s->run.resume);
        rf_plan_print(&plan, &disk, s, stdout);
        if (fflush(stdout) != 0) {
            return rf_error_set(err, RF_ERR, "the plan cannot be written to stdout");
        }
    }
    return rf_dist_agree(s->dist, rf_plan_check(&plan, &disk, s, err), err);
}

static int train(rf_dist *dist, rf_config *config, const options *o, rf_error *err)
{
    rf_setup setup;
    rf_trainer trainer = {0};
    int rc = RF_OK;
    RF_TRY_OUT(rf_setup_open(&setup, dist, config, o->resume, o->resume_path, o->change.item,
                             o->change.n, err));
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

static int suppose_ranks(rf_dist *dist, const options *o, rf_error *err)
{
    if (o->ranks > 0 && rf_dist_size(dist) > 1) {
        return rf_error_set(err, RF_ERR_USAGE, "--ranks plans from one process: leave out mpirun");
    }
    if (o->ranks > 0) {
        rf_dist_suppose(dist, (int)o->ranks);
    }
    return RF_OK;
}

static int run(rf_dist *dist, rf_config *config, const options *o, int argc, char **argv, int rc,
               rf_error *err)
{
    if (rc == RF_OK) {
        rc = configure(config, o, argc, argv, err);
    }
    RF_TRY(rf_dist_agree(dist, rc, err));
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
    int rc = parse(&o, argc, argv, &err);
    if (rc == RF_OK && o.help) {
        fputs(usage, stdout);
        rf_config_help(config, stdout);
        goto out;
    }
    if (rc == RF_OK && o.version) {
        printf("refusion-train %s\n", RF_VERSION);
        goto out;
    }
    if (rc == RF_OK && o.folder) {
        rc = configure(config, &o, argc, argv, &err);
        if (rc == RF_OK) {
            puts(rf_config_string(config, "log.dir"));
        }
        rf_log_error(&err);
        goto out;
    }
    /* All ranks have the same command line: they fail alike, and rank 0 speaks for them. */
    int opened = rf_dist_open(&dist, &argc, &argv, &open_error);
    if (opened != RF_OK) {
        rc = opened;
        rf_log_error(&open_error);
        goto out;
    }
    rf_signals_set_quiet(rf_dist_rank(dist) != 0);
    rc = run(dist, config, &o, argc, argv, rc, &err);
    if (rc != RF_OK && rf_dist_rank(dist) == 0) {
        rf_log_set_rank(0, 1); /* the message names the rank that failed */
        rf_log_error(&err);
    }
    if (rc == RF_ERR_RETRY) {
        /* Other ranks may wait in a call that this one will never make. */
        rf_dist_abort(dist, rf_error_exit_status(rc));
    }
out:
    free(o.change.item);
    rf_config_free(config);
    rf_dist_close(dist);
    return rf_error_exit_status(rc);
}
