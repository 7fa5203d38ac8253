#include "infer/web/web.h"

#include <string.h>

RF_EMBED(rf_web_base_css, "infer/web/base.css")
RF_EMBED(rf_web_play_css, "infer/web/play.css")
RF_EMBED(rf_web_elements_js, "infer/web/elements.js")
RF_EMBED(rf_web_play_js, "infer/web/play.js")

/* JSON inside of a script tag: what HTML would read as its end or as a comment, and line ends that
 * only JSON takes for ordinary characters, are written as escapes of JSON. */
static void add_data(rf_text *out, const char *json)
{
    for (const char *c = json; *c != '\0'; c++) {
        if (*c == '<' || *c == '>' || *c == '&') {
            rf_text_print(out, "\\u%04x", (unsigned)*c);
        } else if (strncmp(c, "\xE2\x80\xA8", 3) == 0 || strncmp(c, "\xE2\x80\xA9", 3) == 0) {
            rf_text_add_string(out, c[2] == '\xA8' ? "\\u2028" : "\\u2029");
            c += 2;
        } else {
            rf_text_add(out, c, 1);
        }
    }
}

void rf_web_add(rf_text *out, const char *html, const char *css, const char *js, const char *json)
{
    const char *at = html;
    for (const char *mark; (mark = strstr(at, "@@")) != NULL;) {
        rf_text_add(out, at, (size_t)(mark - at));
        at = mark + strlen("@@X@@");
        switch (mark[2]) {
        case 'S':
            rf_text_print(out, "%s%s%s", rf_web_base_css, rf_web_play_css, css);
            break;
        case 'D':
            add_data(out, json);
            break;
        default:
            rf_text_print(out, "%s%s\n%s", rf_web_elements_js, rf_web_play_js, js);
            break;
        }
    }
    rf_text_add_string(out, at);
}
