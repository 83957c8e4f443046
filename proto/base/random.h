/* Random streams that are counters: the i-th number of a stream is a pure function of (key, i), so it
 * doesn't matter who draws it, when, or in which batch. Philox4x32-10.
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef JOUST_PROTO_BASE_RANDOM_H
#define JOUST_PROTO_BASE_RANDOM_H

#include <stdint.h>

/* What a stream is for. Stored in records: never renumber. */
typedef enum joust_purpose {
    JOUST_PURPOSE_SAMPLE = 1,  /* token sampling; index = position in the response */
    JOUST_PURPOSE_SHUFFLE = 2, /* order of prompts, of pairs in training */
    JOUST_PURPOSE_INIT = 3,    /* weights; index = element */
    JOUST_PURPOSE_JUDGE = 4,   /* a random judge's score */
    JOUST_PURPOSE_STATISTICS = 5,
    JOUST_PURPOSE_TEST = 6
} joust_purpose;

/* Everything that names a stream; unused fields are 0. `stage` is the stage's position in the plan. */
typedef struct joust_stream_name {
    uint64_t job_seed;
    uint32_t stage, round;
    uint64_t prompt; /* position of the prompt in the stage's list, or another index */
    uint32_t sample;
    uint32_t purpose; /* joust_purpose */
} joust_stream_name;

typedef struct joust_stream {
    uint32_t key[2];     /* Philox key */
    uint32_t counter[2]; /* high half of the Philox counter */
} joust_stream;

/* 128 bits of BLAKE2b-256 over the name's fields, big-endian. */
joust_stream joust_stream_open(const joust_stream_name *name);
/* The index-th block of the stream: four independent 32-bit numbers. */
void joust_stream_block(const joust_stream *s, uint64_t index, uint32_t ret[4]);
uint64_t joust_stream_u64(const joust_stream *s, uint64_t index);
/* Uniform in [0, 1): 24 bits (float) or 53 bits (double). */
float joust_stream_float(const joust_stream *s, uint64_t index);
double joust_stream_double(const joust_stream *s, uint64_t index);
/* Uniform in 0 .. n-1 (n >= 1) by multiply-shift of 64 bits; bias below n / 2^64. */
uint64_t joust_stream_below(const joust_stream *s, uint64_t index, uint64_t n);
/* Standard normal, by Box-Muller from block `index`, with our own log, cos (proto/base/math.h). */
double joust_stream_normal(const joust_stream *s, uint64_t index);
/* Permutes items[0..n-1] in place (Fisher-Yates, numbers index 0 .. n-2 of the stream). */
void joust_stream_shuffle(const joust_stream *s, uint32_t *items, uint32_t n);

#endif
