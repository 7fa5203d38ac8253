/* pass.h: one forward pass of an engine.                                       all local */
#ifndef RF_INFER_PASS_H
#define RF_INFER_PASS_H

#include "infer/engine.h"

/* What the sequences with a seat want computed is computed once for all, and each is told. */
RF_MUST_CHECK int rf_pass_run(rf_engine *engine, rf_error *err);

#endif
