#!/bin/sh
# fresh_system.sh [SUITE ...]: bootstraps Debian systems (bookworm and trixie unless others are named) that hold nothing
# but the base and git, clones this commit into each and runs ops/quickstart from there to its end, twice. Needs root,
# debootstrap and this machine's own apt configuration (mirror, proxies); works below a folder of its own in /tmp,
# which it removes. CHECK=yes runs ops/check too.
set -eu
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- bookworm trixie
commit=$(git rev-parse HEAD)
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
top=$(mktemp -d /tmp/joust-fresh-XXXXXX)

unmount() {
    for at in proc dev/pts dev sys; do
        if mountpoint -q "$1/$at"; then
            umount -l "$1/$at"
        fi
    done
}

leave() {
    status=$?
    for root in "$top"/*; do
        unmount "$root"
    done
    rm -rf --one-file-system "$top"
    exit $status
}
trap leave EXIT
trap 'exit 130' INT TERM

# in_system ROOT COMMAND: with this machine's proxies and nothing else of its environment.
in_system() {
    root=$1
    shift
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
        ${http_proxy+"http_proxy=$http_proxy"} ${https_proxy+"https_proxy=$https_proxy"} \
        ${no_proxy+"no_proxy=$no_proxy"} chroot "$root" sh -c "$*"
}

for suite; do
    root=$top/$suite
    began=$(date +%s)
    debootstrap --variant=minbase --include=git,ca-certificates "$suite" "$root" "$mirror" >"$top/$suite.log" 2>&1 || {
        tail -n 20 "$top/$suite.log" >&2
        exit 1
    }
    # The base's own sources, over this machine's way to the mirror.
    for file in /etc/apt/apt.conf.d/*; do
        if grep -qi -e proxy -e acquire "$file" && ! [ -e "$root$file" ]; then
            cp "$file" "$root$file"
        fi
    done
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    mount --bind /sys "$root/sys"
    git clone -q --no-hardlinks . "$root/root/joust"
    in_system "$root" "cd /root/joust && git checkout -q $commit"
    packages_before=$(in_system "$root" "dpkg-query -W | wc -l")
    echo "== $suite: Debian $(cat "$root/etc/debian_version"), $packages_before packages, bootstrapped in $(($(date +%s) - began)) s"
    for run in first second; do
        began=$(date +%s)
        in_system "$root" "/root/joust/ops/quickstart </dev/null"
        echo "== $suite: $run run of ops/quickstart ended well in $(($(date +%s) - began)) s"
    done
    if [ "${CHECK-}" = yes ]; then
        in_system "$root" "/root/joust/ops/check </dev/null"
    fi
    unmount "$root"
done
echo "== commit $commit, $(date -u +%Y-%m-%d), $(nproc) cores: quickstart runs from nothing in: $*"
