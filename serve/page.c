#include "serve/page.h"

#include "infer/web/web.h"

RF_EMBED(rf_serve_page_html, "serve/page.html")
RF_EMBED(rf_serve_page_css, "serve/page.css")
RF_EMBED(rf_serve_page_js, "serve/page.js")

char *rf_page_text(void)
{
    rf_text text = {0};
    rf_web_add(&text, rf_serve_page_html, rf_serve_page_css, rf_serve_page_js, NULL);
    return text.data;
}
