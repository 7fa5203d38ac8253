/* page.h: the page of a conversation, put together from page.html, page.css and page.js.  all local */
#ifndef RF_SERVE_PAGE_H
#define RF_SERVE_PAGE_H

/* HTML; caller frees. */
char *rf_page_text(void);

#endif
