/* web.h: pages of HTML that need nothing but themselves.                       all local
 *
 * A page is a template with marks: @@S@@ becomes its style sheet, @@J@@ its script, @@D@@ its data,
 * as JSON in a script tag. Style sheet and script begin with what all pages share (base.css,
 * play.css, elements.js, play.js of this folder).
 */
#ifndef RF_INFER_WEB_WEB_H
#define RF_INFER_WEB_WEB_H

#include "common/text/ids.h"

/* RF_EMBED(name, "path/from/the/root"): the file's bytes and a 0 behind them, as char name[]. The
 * assembler looks for the file as the compiler does for headers. */
#define RF_EMBED(name, file)                                                                       \
    __asm__(".pushsection .rodata\n" #name ":\n.incbin \"" file "\"\n.byte 0\n.popsection\n");     \
    extern const char name[];

/* Appends the page. html, css, js: of the page alone. json: its data, which may hold anything; NULL
 * where the template has no @@D@@. */
void rf_web_add(rf_text *out, const char *html, const char *css, const char *js, const char *json);

#endif
