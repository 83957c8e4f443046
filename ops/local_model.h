/* A model that a verb uses in this process: engine, weights, tokenizer. */
#ifndef JOUST_OPS_LOCAL_MODEL_H
#define JOUST_OPS_LOCAL_MODEL_H

#include "worker/engine/engine.h"
#include "worker/engine/model.h"
#include "worker/engine/text/chat.h"
#include "worker/engine/text/tokenizer.h"

typedef struct joust_local_model {
    joust_engine *engine;
    joust_model *model;
    joust_tokenizer *tokenizer;
    joust_chat *chat; /* or NULL, and why */
    joust_error why_no_chat;
} joust_local_model;

/* Whether the folder's tokenizer fits its model. Errors: JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_local_model_check(const char *dir,
                                                    const joust_tokenizer *tokenizer,
                                                    const joust_model_config *config,
                                                    joust_error *err);
/* What it computes on. */
typedef struct joust_local_place {
    uint32_t threads;               /* 0: as many as the processor has */
    const char *device, *precision; /* as in joust_engine_options_device; may be NULL */
} joust_local_place;
/* The options that set it. */
#define JOUST_LOCAL_PLACE_OPTIONS(place)                                                           \
    {"--threads", JOUST_OPTION_U32, &(place)->threads, "N", "the processor's by default"},         \
        {"--device", JOUST_OPTION_TEXT, &(place)->device, "DEVICE",                                \
         "cpu (default), cuda or cuda:N"},                                                         \
    {                                                                                              \
        "--precision", JOUST_OPTION_TEXT, &(place)->precision, "P",                                \
            "of weights: f32 (default), or bf16 (a GPU's default)"                                 \
    }

/* Loads the folder, or the hub id, called name. Errors name the file, or say what is missing of the device. ret is
 * caller's storage. */
JOUST_MUST_USE joust_status joust_local_model_open(const char *name, const joust_local_place *place,
                                                   joust_local_model *ret, joust_error *err);
void joust_local_model_close(joust_local_model *m);
/* Appends what a person wrote, special tokens recognised; special: between those that the tokenizer's post-processor
 * adds (unless the text begins with them), and the model's bos where nothing results. Errors: JOUST_INVALID if nothing results. */
JOUST_MUST_USE joust_status joust_local_model_prompt(const joust_local_model *m, const char *text,
                                                     bool special, joust_tokens *to,
                                                     joust_error *err);
/* Appends the tokens (or, if text isn't NULL, to it the text) of the conversation in a JSON file, as the model's chat
 * template renders it with the words that begin an answer. Errors: those of joust_chat_render, and of reading. */
JOUST_MUST_USE joust_status joust_local_model_messages(const joust_local_model *m, const char *path,
                                                       joust_tokens *to, joust_buf *text,
                                                       joust_error *err);

#endif
