/* Whether this machine has what a job wants to compute on. Thread: one at a time; the process must have one thread. */
#ifndef JOUST_OPS_DEVICE_PROBE_H
#define JOUST_OPS_DEVICE_PROBE_H

#include <stdint.h>

#include "proto/base/status.h"

/* Opens the device ("cpu", "cuda", "cuda:N", or "cuda:each": GPUs 0 to n - 1) as a role would, in a process of its own, so that
 * nothing of a driver stays in this one. precision: as in joust_engine_options_device. Errors: those that a role would end with. */
JOUST_MUST_USE joust_status joust_device_probe(const char *device, const char *precision,
                                               uint32_t n, joust_error *err);

#endif
