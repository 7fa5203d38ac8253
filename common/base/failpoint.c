#include "common/base/failpoint.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int act(const char *name, const char *action, size_t length, const char *setting,
               rf_error *err)
{
    static const struct {
        const char *name;
        int signal; /* 0: none */
    } actions[] = {{"kill", SIGKILL}, {"usr1", SIGUSR1}, {"term", SIGTERM}, {"sleep", 0}};
    if (strlen("error") == length && strncmp(action, "error", length) == 0) {
        return rf_error_set(err, RF_ERR, "failpoint %s: an error was asked for by RF_FAILPOINT",
                            name);
    }
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strlen(actions[i].name) != length || strncmp(action, actions[i].name, length) != 0) {
            continue;
        }
        if (actions[i].signal == 0) {
            sleep(1);
        } else {
            kill(getpid(), actions[i].signal);
        }
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR_USAGE,
                        "RF_FAILPOINT=%s: the actions are kill, error, sleep, usr1 and term",
                        setting);
}

int rf_failpoint_visit(const char *name, rf_error *err)
{
    static char counted[128] = ""; /* the setting whose visits are counted */
    static long n_visits = 0;
    const char *text = getenv("RF_FAILPOINT");
    if (text == NULL) {
        return RF_OK;
    }
    size_t n = strlen(name);
    if (strncmp(text, name, n) != 0 || (text[n] != ':' && text[n] != '\0')) {
        return RF_OK;
    }
    const char *action = text[n] == ':' ? text + n + 1 : "kill";
    size_t length = strcspn(action, ":");
    long hit = 1;
    if (action[length] == ':') {
        char *end = NULL;
        hit = strtol(action + length + 1, &end, 10);
        if (hit < 0 || *end != '\0') {
            return rf_error_set(err, RF_ERR_USAGE,
                                "RF_FAILPOINT=%s: the hit is not a number from 0", text);
        }
    }
    if (strncmp(counted, text, sizeof counted - 1) != 0) {
        snprintf(counted, sizeof counted, "%s", text);
        n_visits = 0;
    }
    n_visits++;
    return hit == 0 || n_visits == hit ? act(name, action, length, text, err) : RF_OK;
}
