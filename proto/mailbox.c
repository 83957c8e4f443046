#include "proto/peer_internal.h"

joust_status joust_mailbox_init(joust_mailbox *box, joust_error *err)
{
    if (pthread_mutex_init(&box->lock, NULL) != 0)
        return joust_fail(err, JOUST_NOMEM, "mailbox: no mutex");
    if (pthread_cond_init(&box->changed, NULL) != 0) {
        pthread_mutex_destroy(&box->lock);
        return joust_fail(err, JOUST_NOMEM, "mailbox: no condition");
    }
    return JOUST_OK;
}

static void drop_all(joust_mailbox *box)
{
    for (uint32_t i = 0; i < box->n; i++)
        joust_message_fini(&box->mail[i]);
    box->n = 0;
}

void joust_mailbox_fini(joust_mailbox *box)
{
    drop_all(box);
    pthread_cond_destroy(&box->changed);
    pthread_mutex_destroy(&box->lock);
}

void joust_mailbox_reset(joust_mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    drop_all(box);
    box->again = box->interrupted = false;
    pthread_mutex_unlock(&box->lock);
}

void joust_mailbox_put(joust_mailbox *box, joust_message *m)
{
    pthread_mutex_lock(&box->lock);
    if (box->n < JOUST_PEER_MAIL) {
        box->mail[box->n++] = *m;
        *m = (joust_message){0};
        pthread_cond_signal(&box->changed);
    }
    pthread_mutex_unlock(&box->lock);
    joust_message_fini(m);
}

static void set(joust_mailbox *box, bool *flag)
{
    pthread_mutex_lock(&box->lock);
    *flag = true;
    pthread_cond_signal(&box->changed);
    pthread_mutex_unlock(&box->lock);
}

void joust_mailbox_again(joust_mailbox *box)
{
    set(box, &box->again);
}

void joust_mailbox_interrupt(joust_mailbox *box)
{
    set(box, &box->interrupted);
}

bool joust_mailbox_interrupted(joust_mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    bool interrupted = box->interrupted;
    pthread_mutex_unlock(&box->lock);
    return interrupted;
}

joust_status joust_mailbox_take(joust_mailbox *box, joust_message *ret, joust_error *err)
{
    joust_status st = JOUST_OK;
    pthread_mutex_lock(&box->lock);
    while (!box->interrupted && !box->again && box->n == 0)
        pthread_cond_wait(&box->changed, &box->lock);
    if (box->interrupted) {
        st = joust_fail(err, JOUST_INTERRUPTED, "the work isn't wanted any more");
    } else if (box->again) {
        box->again = false;
        drop_all(box);
        st = joust_fail(err, JOUST_AGAIN, "another coordinator: ask again");
    } else {
        *ret = box->mail[0];
        box->n--;
        for (uint32_t i = 0; i < box->n; i++)
            box->mail[i] = box->mail[i + 1];
    }
    pthread_mutex_unlock(&box->lock);
    return st;
}
