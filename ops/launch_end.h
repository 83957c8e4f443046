/* What a launch says of the store when it ends. Standard output; thread: one. */
#ifndef JOUST_OPS_LAUNCH_END_H
#define JOUST_OPS_LAUNCH_END_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the store's job is complete with that many rounds: nothing is left to run. */
bool joust_launch_is_complete(const char *store, uint32_t rounds);
/* A line a trained model: its folder, its version, and why that isn't the last round's. */
void joust_launch_print_checkpoints(const char *store);

#endif
