/* worker.h: the engine's side of a server.                                      local: the engine's thread */
#ifndef RF_SERVE_WORKER_H
#define RF_SERVE_WORKER_H

#include "serve/desk.h"

/* Answers what comes to the desk, as many at once as the engine has seats, until the desk is closed and
 * empty. A pass that fails fails those that it was for; the others go on. */
void rf_worker_run(rf_desk *desk, rf_engine *engine);

#endif
