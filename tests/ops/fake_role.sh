#!/bin/sh
# Stands in for the roles in the launcher's tests. FAKE_DIR/started gets a line "PID ROLE" a start. The coordinator
# prints FAKE_DIR/says and ends with the status that is written into the pipe FAKE_DIR/finish; the others run until they are ended, at
# once with status 7 if FAKE_DIR/fail or FAKE_DIR/fail-ROLE exists, with 2 if FAKE_DIR/refuse-ROLE does, and deaf to SIGTERM if FAKE_DIR/stubborn does.
role=$1
echo "$$ $role" >>"$FAKE_DIR/started"
if [ "$role" = coordinator ]; then
    [ ! -e "$FAKE_DIR/says" ] || cat "$FAKE_DIR/says"
    read -r status <"$FAKE_DIR/finish"
    exit "$status"
fi
if [ -e "$FAKE_DIR/fail" ] || [ -e "$FAKE_DIR/fail-$role" ]; then
    echo "this role can't live"
    exit 7
fi
if [ -e "$FAKE_DIR/refuse-$role" ]; then
    echo "this role is of another class"
    exit 2
fi
if [ -e "$FAKE_DIR/stubborn" ]; then
    trap '' TERM
fi
exec sleep 600
