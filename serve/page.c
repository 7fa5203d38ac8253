#include "serve/page.h"

#include "common/base/error.h"
#include "infer/web/web.h"

#include <stdio.h>

RF_EMBED(rf_serve_page_html, "serve/page.html")
RF_EMBED(rf_serve_page_css, "serve/page.css")
RF_EMBED(rf_serve_page_js, "serve/page.js")

char *rf_page_text(size_t *bytes)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, bytes);
    RF_ASSERT(out != NULL);
    rf_web_print(out, rf_serve_page_html, rf_serve_page_css, rf_serve_page_js, NULL);
    RF_ASSERT(fclose(out) == 0);
    return text;
}
