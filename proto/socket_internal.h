/* What the loop needs of a socket. */
#ifndef JOUST_PROTO_SOCKET_INTERNAL_H
#define JOUST_PROTO_SOCKET_INTERNAL_H

#include "proto/socket.h"

void *joust_socket_handle(const joust_socket *socket);         /* ZeroMQ's */
void *joust_socket_monitor_handle(const joust_socket *socket); /* NULL if it has none */

#endif
