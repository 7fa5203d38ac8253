/* thread.h: threads beside the main one.                                       all local */
#ifndef RF_BASE_THREAD_H
#define RF_BASE_THREAD_H

#include "common/base/error.h"

#include <pthread.h>

/* Starts a thread that takes no signals but those of its own faults: a handler may count on running
 * in the main thread. what: "the thread that builds batches", for the message. Caller joins. */
RF_MUST_CHECK int rf_thread_start(pthread_t *thread, void *(*run)(void *), void *argument,
                                  const char *what, rf_error *err);

#endif
