# lib.sh: what the scripts share: where things lie, how progress is told, and how packages are found and installed.
# Sourced, never run: `. "$(dirname "$0")/lib.sh"` after `set -euo pipefail`. Messages go to stderr, so that a script may
# answer on stdout.
# shellcheck shell=bash

LSV_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck disable=SC2034  # used by those who source this
LSV_CACHE=$LSV_SOURCE/build/cache
lsv_started=$SECONDS

# ---- telling ---------------------------------------------------------------------------------------------------------

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
        lsv_bold=$'\e[1m' lsv_dim=$'\e[2m' lsv_red=$'\e[31m' lsv_plain=$'\e[0m'
else
        lsv_bold='' lsv_dim='' lsv_red='' lsv_plain=''
fi

# say TEXT...: one line of progress, with the seconds since the script started
say()
{
        printf '%s[%3ds]%s %s%s%s\n' "$lsv_dim" $((SECONDS - lsv_started)) "$lsv_plain" "$lsv_bold" "$*" "$lsv_plain" >&2 || true
}

# note TEXT...: a detail below the last line of progress
note()
{
        printf '       %s\n' "$*" >&2 || true
}

# die TEXT...: the end, with the reason; wrong usage ends with `usage_error` instead
die()
{
        printf '%s%s: %s%s\n' "$lsv_red" "${0##*/}" "$*" "$lsv_plain" >&2
        exit 1
}

usage_error()
{
        printf '%s: %s\nTry %s --help\n' "${0##*/}" "$*" "$0" >&2
        exit 2
}

# need_value "$@" in an option loop: the option has a value after it, or the script ends
need_value()
{
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case $2 in
        '' | --*) usage_error "$1 needs a value, not '$2'" ;;
        esac
}

have()
{
        command -v "$1" >/dev/null 2>&1
}

# quietly LOG COMMAND...: runs a command with its output in a file; on failure shows the end of the file
quietly()
{
        local log=$1 rc=0
        shift
        mkdir -p "$(dirname "$log")"
        "$@" >"$log" 2>&1 </dev/null || rc=$?
        if [ "$rc" -ne 0 ]; then
                tail -n 40 "$log" >&2
                note "(exit status $rc; all of it: $log)"
        fi
        return "$rc"
}

# ---- packages --------------------------------------------------------------------------------------------------------

# Everything that we ask a distribution for, in one place. Columns: purposes (comma separated), the check that says whether
# it is there already, the Debian package, the Fedora package ("-" where a distribution has none or does not need one).
# Checks: cmd:NAME a command on PATH, pc:MODULE a pkg-config module, file:PATH a file, py:MODULE a module of the
# system's Python, lws-uv libwebsockets' plug-in for libuv, which it loads at run time. Purposes: build (the daemon), run (scripts/run besides that), web (the page's libraries), fetch (llama-server
# out of Debian's packages), test (scripts/test), chroot (tests/chroot), packages (packaging/build, packaging/root), system
# (tests/system), fuzz (scripts/fuzz), bench (tests/bench).
lsv_packages()
{
        cat <<'TABLE'
build         cmd:gcc                            gcc                         gcc
build         file:/usr/include/stdio.h          libc6-dev                   glibc-devel
build         cmd:cmake                          cmake                       cmake
build         cmd:ninja                          ninja-build                 ninja-build
build         cmd:pkg-config                     pkg-config                  pkgconf-pkg-config
build         cmd:gzip                           gzip                        gzip
build         pc:libuv                           libuv1-dev                  libuv-devel
build         pc:json-c                          libjson-c-dev               json-c-devel
build         pc:libcrypto                       libssl-dev                  openssl-devel
build         pc:libxcrypt                       libcrypt-dev                libxcrypt-devel
build         pc:libssl                          libssl-dev                  openssl-devel
build         pc:libsystemd                      libsystemd-dev              systemd-devel
build         pc:libcurl                         libcurl4-openssl-dev        libcurl-devel
build         pc:libwebsockets                   libwebsockets-dev           libwebsockets-devel
build         pc:libnats                         libnats-dev                 -
run,test      lws-uv                             libwebsockets-evlib-uv      -
run,test      cmd:python3                        python3                     python3
run           cmd:curl                           curl                        curl
fetch         cmd:patchelf                       patchelf                    patchelf
fetch         file:/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring -
test          pc:cmocka                          libcmocka-dev               libcmocka-devel
test          file:/usr/bin/python3              python3                     python3
test          py:pytest                          python3-pytest              python3-pytest
test          py:yaml                            python3-yaml                python3-pyyaml
test          py:jsonschema                      python3-jsonschema          python3-jsonschema
test          py:websockets                      python3-websockets          python3-websockets
test          cmd:promtool                       prometheus                  -
test          py:h11                             python3-h11                 python3-h11
web,test      cmd:npm                            npm                         nodejs-npm
test          cmd:node                           nodejs                      nodejs
test          cmd:chromium                       chromium                    chromium
test          cmd:curl                           curl                        curl
test          cmd:openssl                        openssl                     openssl
test          cmd:nats-server                    nats-server                 -
test          cmd:git                            git                         git
test          cmd:clang-format                   clang-format                clang-tools-extra
test          cmd:clang-tidy                     clang-tidy                  clang-tools-extra
test          cmd:mandoc                         mandoc                      mandoc
test          cmd:ss                             iproute2                    iproute
test          cmd:ps                             procps                      procps-ng
test          cmd:systemd-analyze                systemd                     systemd
test          cmd:mount                          mount                       util-linux
test          asan                               libgcc-12-dev               libasan
test          ubsan                              libgcc-12-dev               libubsan
fuzz          cmd:clang                          clang                       clang
fuzz          clang-rt                           libclang-rt-dev             compiler-rt
bench         cmd:haproxy                        haproxy                     haproxy
bench         cmd:nginx                          nginx                       nginx
bench         cmd:perf                           linux-perf                  perf
chroot,packages,system cmd:mmdebstrap            mmdebstrap                  -
chroot,packages,system cmd:unshare               util-linux                  util-linux
chroot,packages cmd:git                          git                         git
packages      cmd:mount                          mount                       util-linux
packages      cmd:ip                             iproute2                    iproute
packages      cmd:xz                             xz-utils                    xz
system        cmd:systemd-nspawn                 systemd-container           systemd-container
system        cmd:qemu-system-x86_64             qemu-system-x86             qemu-system-x86-core
system        cmd:mkfs.ext4                      e2fsprogs                   e2fsprogs
TABLE
}

lsv_package_manager()
{
        if have apt-get && have dpkg; then
                echo apt
        elif have dnf; then
                echo dnf
        else
                echo none
        fi
}

# is_there CHECK: one check of the table
is_there()
{
        case $1 in
        cmd:*) have "${1#cmd:}" ;;
        pc:*) have pkg-config && pkg-config --exists "${1#pc:}" ;;
        file:*) [ -e "${1#file:}" ] ;;
        py:*) /usr/bin/python3 -c "import ${1#py:}" >/dev/null 2>&1 ;;
        lws-uv) compgen -G '/usr/lib*/*/libwebsockets-evlib_uv.so' >/dev/null || compgen -G '/usr/lib*/libwebsockets-evlib_uv.so' >/dev/null ;;
        asan) ! have gcc || [ "$(gcc -print-file-name=libasan.so)" != libasan.so ] ;;
        clang-rt) have clang && compgen -G "$(clang -print-runtime-dir)/libclang_rt.fuzzer*.a" >/dev/null ;;
        ubsan) ! have gcc || [ "$(gcc -print-file-name=libubsan.so)" != libubsan.so ] ;;
        *) die "lib.sh: unknown check '$1'" ;;
        esac
}

# missing_packages PURPOSE...: prints the packages that are not there, one a line
missing_packages()
{
        local purposes check apt dnf wanted package manager
        manager=$(lsv_package_manager)
        while read -r purposes check apt dnf; do
                for wanted in "$@"; do
                        case ",$purposes," in
                        *",$wanted,"*) ;;
                        *) continue ;;
                        esac
                        is_there "$check" && continue
                        if [ "$manager" = dnf ]; then package=$dnf; else package=$apt; fi
                        # A sanitizer's runtime comes with the compiler's own version of this package.
                        case $check:$manager in
                        asan:apt | ubsan:apt) package=libgcc-$(gcc -dumpversion | cut -d. -f1)-dev ;;
                        esac
                        if [ "$package" != - ]; then echo "$package"; fi
                done
        done < <(lsv_packages) | sort -u
}

# as_root COMMAND...: directly for root, else through sudo; fails when there is no way
as_root()
{
        if [ "$(id -u)" -eq 0 ]; then
                "$@"
        elif have sudo; then
                sudo "$@"
        else
                return 1
        fi
}

# lsv_debian_mirrors: the archives in this machine's apt sources, the one with the most of it first
lsv_debian_mirrors()
{
        if [ -n "${LSV_DEBIAN_MIRROR:-}" ]; then
                echo "$LSV_DEBIAN_MIRROR"
                return
        fi
        apt-get --print-uris -o Debug::NoLocking=true update 2>/dev/null |
                sed -n "s#^'\\(.*\\)/dists/.*#\\1/#p" | grep -v security | sort | uniq -c | sort -rn | awk '{ print $2 }'
}

# lsv_bootstrap SUITE TARGET MMDEBSTRAP-ARGUMENTS...: a new Debian root (a folder, or a .tar) from this machine's own mirrors
lsv_bootstrap()
{
        local suite=$1 target=$2 mirror='' settings
        shift 2
        settings=$(mktemp -d)
        for mirror in $(lsv_debian_mirrors); do
                # Only what matters for reaching a server; mmdebstrap keeps it in the new root.
                apt-config dump | grep '^Acquire::' | grep -v '^Acquire::\(IndexTargets\|Languages\|CompressionTypes\)' \
                        >"$settings/99machine" || true
                # One packet lost among some hundred files is no reason to begin anew.
                echo 'Acquire::Retries "5";' >>"$settings/99machine"
                if mmdebstrap --quiet --variant=apt --aptopt="$settings/99machine" "$@" "$suite" "$target" \
                        "deb $mirror $suite main" >"$settings/log" 2>&1; then
                        rm -rf "$settings"
                        return
                fi
        done
        tail -n 20 "$settings/log" >&2 || true
        rm -rf "$settings"
        return 1
}

# install_packages PURPOSE...: installs what the table asks for and is missing, and says so; nothing missing costs
# milliseconds and neither network nor rights.
install_packages()
{
        local packages manager
        mapfile -t packages < <(missing_packages "$@")
        [ ${#packages[@]} -gt 0 ] || return 0
        manager=$(lsv_package_manager)
        say "installing: ${packages[*]}"
        case $manager in
        apt) set -- apt-get install -y --no-install-recommends "${packages[@]}" ;;
        dnf) set -- dnf install -y --setopt=install_weak_deps=False "${packages[@]}" ;;
        none) die "neither apt-get nor dnf is here; please install what provides these Debian packages: ${packages[*]}" ;;
        esac
        if [ "$(id -u)" -ne 0 ] && ! have sudo; then
                die "these packages are missing, and without sudo only root can install them:
       $*"
        fi
        if [ "$manager" = apt ]; then
                # A list of packages from last month names files that the mirror no longer has.
                lsv_apt update || note "apt-get update failed; going on with the package lists that are here"
        fi
        if [ "$manager" = apt ]; then
                shift
                lsv_apt "$@" || die "could not install: ${packages[*]}"
        else
                as_root "$@" >&2 </dev/null || die "could not install: ${packages[*]}"
        fi
}

# lsv_apt ARGUMENTS...: apt-get without questions, told in short; all of it on failure
lsv_apt()
{
        local log rc=0
        log=$(mktemp)
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" \
                >"$log" 2>&1 </dev/null || rc=$?
        if [ "$rc" -ne 0 ]; then tail -n 30 "$log" >&2; fi
        rm -f "$log"
        return "$rc"
}

# node_modules FOLDER: what its package-lock.json says, into FOLDER/node_modules; nothing when it is there already
node_modules()
{
        local dir=$LSV_SOURCE/$1 stamp
        stamp=$(sha256sum <"$dir/package-lock.json")
        [ "$(cat "$dir/node_modules/.lsv-stamp" 2>/dev/null)" != "$stamp" ] || return 0
        say "installing: node modules of $1"
        mkdir -p "$LSV_SOURCE/build"
        ( cd "$dir" && quietly "$LSV_SOURCE/build/node.log" npm ci --no-audit --no-fund --ignore-scripts ) ||
                die "npm could not install the modules of $1"
        echo "$stamp" >"$dir/node_modules/.lsv-stamp"
}

# ---- building --------------------------------------------------------------------------------------------------------

# build_preset PRESET TARGET CMAKE-ARGUMENTS...: configures and builds build/PRESET (TARGET: "all" or one program)
build_preset()
{
        local preset=$1 target=$2 dir=$LSV_SOURCE/build/$1
        shift 2
        mkdir -p "$LSV_SOURCE/build" 2>/dev/null || true
        [ -w "$LSV_SOURCE/build" ] ||
                die "build/ is not yours (it belongs to $(stat -c %U "$LSV_SOURCE/build" 2>/dev/null || echo nobody)); run as that user, or remove it"
        # A build folder remembers absolute paths; in a checkout that was moved or copied it must go.
        if [ -e "$dir/CMakeCache.txt" ] &&
           ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$LSV_SOURCE" "$dir/CMakeCache.txt"; then
                rm -rf "$dir"
        fi
        # Configured once; from then on ninja runs cmake again by itself when that is needed.
        if ! [ -e "$dir/build.ninja" ] || [ "$(cat "$dir/.configured" 2>/dev/null)" != "$*" ]; then
                say "configuring build/$preset"
                ( cd "$LSV_SOURCE" && quietly "$dir.configure.log" cmake --preset "$preset" "$@" ) ||
                        die "cmake could not configure build/$preset"
                echo "$*" >"$dir/.configured"
        fi
        say "building build/$preset"
        cmake --build "$dir" --target "$target" -j "$(lsv_jobs)" 2>&1 </dev/null | tee "$dir.build.log" | lsv_progress || {
                grep -v '^\[[0-9]*/[0-9]*\]' "$dir.build.log" | tail -n 40 >&2
                die "build/$preset does not compile (all of it: $dir.build.log)"
        }
}

# lsv_progress: ninja's "[12/80] ..." lines as one moving line on a terminal, as nothing elsewhere
lsv_progress()
{
        local line width
        if ! [ -t 2 ]; then
                cat >/dev/null
                return
        fi
        width=$(tput cols 2>/dev/null || echo 80)
        while IFS= read -r line; do
                case $line in
                \[*/*\]*) printf '\r\e[K       %s' "${line:0:$((width - 8))}" >&2 ;;
                esac
        done
        printf '\r\e[K' >&2
}

# lsv_jobs: as many compilers as there are cores, unless LSV_JOBS says otherwise
lsv_jobs()
{
        echo "${LSV_JOBS:-$(nproc)}"
}

# ---- llama-server and a model ----------------------------------------------------------------------------------------

LSV_UNPACKED=$LSV_SOURCE/build/llama-server
LSV_TINY_MODEL=$LSV_SOURCE/build/models/tiny.gguf

# find_llama_server: prints the llama-server to use: the one on PATH, else one that the distribution packages, else
# Debian's, unpacked below build/. May install and download; says so.
find_llama_server()
{
        local package=''
        if have llama-server; then
                command -v llama-server
                return
        fi
        if [ -x "$LSV_UNPACKED/usr/bin/llama-server" ]; then
                # It was fetched before; fetch-llama-server repairs it where that is needed.
                "$LSV_SOURCE/scripts/fetch-llama-server" "$LSV_UNPACKED"
                return
        fi
        case $(lsv_package_manager) in
        apt) if apt-cache show llama.cpp-tools >/dev/null 2>&1; then package=llama.cpp-tools; fi ;;
        dnf) if dnf -q list --available llama-cpp >/dev/null 2>&1; then package=llama-cpp; fi ;;
        esac
        if [ -n "$package" ] && { [ "$(id -u)" -eq 0 ] || have sudo; }; then
                say "installing: $package"
                case $(lsv_package_manager) in
                apt) lsv_apt install -y --no-install-recommends "$package" || true ;;
                dnf) as_root dnf install -y "$package" >&2 </dev/null || true ;;
                esac
                if have llama-server; then
                        command -v llama-server
                        return
                fi
        fi
        "$LSV_SOURCE/scripts/fetch-llama-server" "$LSV_UNPACKED"
}

# tiny_model: prints the path of the tiny model, which is made when it is not there (or the maker is newer)
tiny_model()
{
        if ! [ "$LSV_TINY_MODEL" -nt "$LSV_SOURCE/scripts/make-tiny-model" ]; then
                say "making a tiny model: ${LSV_TINY_MODEL#"$LSV_SOURCE"/}"
                mkdir -p "$(dirname "$LSV_TINY_MODEL")"
                python3 "$LSV_SOURCE/scripts/make-tiny-model" "$LSV_TINY_MODEL" >/dev/null
        fi
        echo "$LSV_TINY_MODEL"
}
