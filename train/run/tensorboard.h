/* tensorboard.h: curves for TensorBoard, in an event file.                      all local
 *
 * The file is records (TFRecord; tensorflow/core/lib/io/record_writer.h), all little-endian:
 *
 *     u64 n | u32 masked CRC of these 8 bytes | n bytes | u32 masked CRC of the n bytes
 *
 * CRC is CRC32C (RFC 3720, B.4); masked: rotated right by 15 bits, plus 0xa282ead8 (crc32c.h there).
 * The n bytes are a protobuf message, Event (tensorflow/core/util/event.proto). The first holds the
 * version of the format, the second says where a process goes on, so that the reader drops what an
 * earlier file of the folder has of later steps; then one for each rf_tensorboard_write.
 *
 * An event that cannot be written is warned about once, and the next ones are tried.
 */
#ifndef RF_TRAIN_RUN_TENSORBOARD_H
#define RF_TRAIN_RUN_TENSORBOARD_H

#include "common/base/error.h"

#include <stdint.h>

typedef struct rf_tensorboard rf_tensorboard;

enum { RF_TENSORBOARD_VALUES = 24 }; /* at most so many of one event */

/* Creates <folder>/events.out.tfevents.SECONDS.refusion, whose name comes after those of all event
 * files there, as TensorBoard reads them in that order. Steps up to `step` are done. Caller closes. */
RF_MUST_CHECK int rf_tensorboard_open(rf_tensorboard **out, const char *folder, int64_t step,
                                      rf_error *err);
/* Below, NULL is fine and does nothing. */
void rf_tensorboard_close(rf_tensorboard *board);
/* Adds the value of the curve "<group>/<name>", at most 63 bytes, to the next event. In f32, also
 * what is not finite: TensorBoard marks it. */
void rf_tensorboard_add(rf_tensorboard *board, const char *group, const char *name, double value);
/* Writes what was added since the last event; it is in the hands of the system on return. */
void rf_tensorboard_write(rf_tensorboard *board, int64_t step);
/* Makes everything written so far durable, as far as the file system can. */
void rf_tensorboard_sync(rf_tensorboard *board);

#endif
