#include "common/base/failpoint.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        if (hit < 1 || *end != '\0') {
            return rf_error_set(err, RF_ERR_USAGE,
                                "RF_FAILPOINT=%s: the hit is not a number from 1", text);
        }
    }
    bool is_kill = length == 4 && strncmp(action, "kill", 4) == 0;
    bool is_error = length == 5 && strncmp(action, "error", 5) == 0;
    if (!is_kill && !is_error) {
        return rf_error_set(err, RF_ERR_USAGE, "RF_FAILPOINT=%s: the actions are kill and error",
                            text);
    }
    if (strncmp(counted, text, sizeof counted - 1) != 0) {
        snprintf(counted, sizeof counted, "%s", text);
        n_visits = 0;
    }
    n_visits++;
    if (n_visits != hit) {
        return RF_OK;
    }
    if (is_kill) {
        raise(SIGKILL);
    }
    return rf_error_set(err, RF_ERR, "failpoint %s: an error was asked for by RF_FAILPOINT", name);
}
