# lib.sh: what packaging/root and packaging/build (and tests of packages) share: where roots lie, and how to work in one.
# Sourced after scripts/lib.sh.
# shellcheck shell=bash

# Outside the tree: a root is half a gigabyte and the same for every checkout.
LSV_ROOTS=${LSV_ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/llama-supervisor/roots}

# need_suite SUITE
need_suite()
{
        case ${1:-} in
        bookworm | trixie) ;;
        '') usage_error "which SUITE? bookworm or trixie" ;;
        *) usage_error "SUITE is bookworm or trixie, not '$1'" ;;
        esac
}

# in_root ROOT DIR [--network] COMMAND...: runs a command as the first process of namespaces of its own, in a throw-away layer over
# ROOT, which stays as it is. DIR/up is the layer, and can be filled before and read after. Without --network there is only lo.
in_root()
{
        local root=$1 dir=$2 net=--net
        shift 2
        if [ "$1" = --network ]; then net='' && shift; fi
        mkdir -p "$dir/up" "$dir/work" "$dir/root"
        # shellcheck disable=SC2086  # $net is an option or nothing
        root=$root dir=$dir unshare --mount --pid --fork --kill-child --ipc --uts $net --propagation private \
                bash -c 'set -euo pipefail; . "$0"; enter_root "$@"' "$LSV_SOURCE/packaging/lib.sh" "$@" </dev/null
}

# The inner half of in_root: mounts what a program expects, and goes in.
enter_root()
{
        local node
        # shellcheck disable=SC2154  # root and dir come from in_root
        mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/up,workdir=$dir/work" "$dir/root"
        cd "$dir/root" || exit
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys 2>/dev/null || true
        mount -t tmpfs -o mode=755,size=1m dev dev
        for node in null zero full random urandom tty; do
                : >"dev/$node"
                mount --bind "/dev/$node" "dev/$node"
        done
        mkdir dev/shm dev/pts
        mount -t tmpfs -o mode=1777 shm dev/shm
        mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        mount -t tmpfs -o mode=1777 tmp tmp
        ip link set lo up 2>/dev/null || true
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
                chroot . "$@"
}
