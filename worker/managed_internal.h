/* Inside managed servers: managed.c (making, versions), managed_step.c (what each server goes through). */
#ifndef JOUST_WORKER_MANAGED_INTERNAL_H
#define JOUST_WORKER_MANAGED_INTERNAL_H

#include "worker/child.h"
#include "worker/http_call.h"
#include "worker/managed.h"

#define JOUST_SERVER_URL_BYTES 40u

typedef enum joust_server_state {
    JOUST_SERVER_OFF, /* started at at_ms */
    JOUST_SERVER_STARTING,
    JOUST_SERVER_LIVE,
    JOUST_SERVER_CALLING,  /* its calls are made one after the other */
    JOUST_SERVER_STOPPING, /* then OFF */
    JOUST_SERVER_ASLEEP,
    JOUST_SERVER_LOST
} joust_server_state;

/* One POST to a server. */
typedef struct joust_server_call {
    const char *path;
    const char
        *body; /* JSON with %s where the folder and %llu where the version stands; NULL: {} */
} joust_server_call;

typedef struct joust_server {
    char name[160];                   /* "worker-0-policy-2" */
    char url[JOUST_SERVER_URL_BYTES]; /* with /v1: the endpoint's too */
    char *gpus;                       /* "CUDA_VISIBLE_DEVICES=0", or NULL */
    char *log;
    uint16_t port;
    joust_server_state state;
    joust_child *child;
    int64_t at_ms;  /* OFF: of its start; else: its deadline; LIVE: since when */
    int64_t ask_ms; /* STARTING: of the next question whether it is ready */
    int64_t turned_ms,
        unproved_ms;      /* LIVE: the last turn; how long it has been looked at without success */
    uint32_t failures;    /* in a row */
    joust_digest has;     /* manifest of the weights that it was given last, or zero */
    joust_digest healing; /* manifest that it was started once more with, since it was unfit */
    joust_http_call *call;
    const joust_server_call *calls; /* those still to make; path NULL ends them */
    bool to_sleep;                  /* what the calls are for */
    char why[256];
} joust_server;

struct joust_managed {
    const joust_job_model *model;
    const joust_job_serve *serve;
    joust_job_endpoint settings; /* its urls are the servers' */
    joust_endpoint *endpoint;
    char *folder, *program;
    char *dir, *before; /* of the version that is wanted, and of the one before */
    char *served;       /* {model}: dir, or a link to it that stays */
    joust_model_ref version;
    bool wanted, resting;
    uint32_t n;
    joust_server servers[JOUST_MAX_URLS];
};

/* Brings one server on. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_server_turn(joust_managed *m, uint32_t i, int64_t now_ms,
                                              joust_error *err);
/* Gives a server a port that is free: its own if that is. False if there is none. */
bool joust_server_choose_port(joust_managed *m, uint32_t i);

#endif
