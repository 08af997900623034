#!/bin/sh
# Installs this package of Octlet beside the version that runs, proves it here, and only then switches to it.
#
#   sh install.sh [--prefix /opt/octlet] [--no-service]   install or upgrade
#   sh install.sh [--prefix /opt/octlet] --rollback       back to the version before
#   sh install.sh [--prefix /opt/octlet] --uninstall      remove Octlet; its settings and its user stay
#
# PREFIX/releases/VERSION-HASH   one installed version: a virtual environment, the model, the unit, this script
# PREFIX/current                 a link to the version that runs; one rename switches it
# PREFIX/previous                a link to the one before
#
# Whatever stops this script, a power cut included, 'current' leads to a whole version: a new one is written
# under another name, reaches the disk, and is renamed before the link is.
# Exit codes: 0 done, 1 the machine, 2 usage, 3 this package, 4 or 5 the model file (as of 'octlet verify').
set -eu
umask 022

VERSION='@VERSION@' PYTHON='@PYTHON@' MACHINE='@MACHINE@' NEEDS_KIB='@NEEDS_KIB@'
UNIT=octlet-serve.service
UNITS=${OCTLET_UNITS:-/etc/systemd/system}           # other folders, for an image or a test
SYSTEMD=${OCTLET_SYSTEMD:-/run/systemd/system}       # there where systemd runs
PREFIX=/opt/octlet SERVICE=yes ACTION=install

say() { echo "octlet install: $*" >&2; }
fail() { code=$1; shift; say "$*"; exit "$code"; }

usage() {
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix)
                [ $# -gt 1 ] || fail 2 "--prefix needs a folder"
                PREFIX=${2%/}
                shift ;;
            --no-service) SERVICE=no ;;
            --rollback) ACTION=rollback ;;
            --uninstall) ACTION=uninstall ;;
            *) fail 2 "unknown option '$1' (--prefix DIR, --no-service, --rollback, --uninstall)" ;;
        esac
        shift
    done
    case $PREFIX in # its name goes into the unit and into a '#!' line, where a space would end it
        *[!A-Za-z0-9/._-]* | */../* | */..) fail 2 "--prefix '$PREFIX': only letters, digits and / . _ -" ;;
        /?*) ;;
        *) fail 2 "--prefix '$PREFIX' is not an absolute folder" ;;
    esac
}

alone() { # the kernel drops this lock when the process ends, however it ends
    mkdir -p "$PREFIX" 2>/dev/null || true
    [ -w "$PREFIX" ] || fail 1 "no right to write $PREFIX: run as root, or give --prefix and --no-service"
    exec 9>"$PREFIX/.lock"
    flock -n 9 || fail 1 "another installation into $PREFIX is running"
}

point() { # point LINK TARGET: one rename changes the link, when all that it leads to is on the disk
    sync -f "${1%/*}"
    ln -sfn "$2" "$1.new"
    mv -fT "$1.new" "$1"
    sync -f "${1%/*}"
}

target() { readlink "$PREFIX/$1" 2>/dev/null || true; }

check_package() {
    cd "$HERE"
    [ -f SHA256SUMS ] || fail 3 "no SHA256SUMS beside $0: unpack the package again"
    sha256sum --check --strict --quiet SHA256SUMS >&2 || fail 3 "the package is damaged: copy it again"
    release=$VERSION-$(sha256sum SHA256SUMS | cut -c1-12)
}

find_python() {
    machine=$(uname -m)
    [ "$machine" = "$MACHINE" ] || fail 3 "this package is for $MACHINE; this machine is $machine"
    for python in "python$PYTHON" python3 none; do
        "$python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$PYTHON')" 2>/dev/null && break
    done
    [ "$python" != none ] || fail 3 "this package is for Python $PYTHON, which is not here (see 'python3 -V')"
    "$python" -c 'import sys; sys.exit(sys.maxsize < 2**32)' ||
        fail 3 "$python is a 32-bit program: install a 64-bit system"
}

check_space() {
    free=$(df -Pk "$PREFIX" | awk 'END { print $4 }')
    [ "$free" -gt "$NEEDS_KIB" ] || fail 1 "$PREFIX has $free KiB free, $NEEDS_KIB are needed"
}

proven() { # proven FOLDER: it computes here what the exporting machine did, and has what it serves with
    quietly "$1/bin/python" -I -m octlet verify "$1/model.octlet" --json || return
    [ ! -f "$1/$UNIT" ] || quietly "$1/bin/python" -I -c 'import octlet.serve.app, octlet.serve.server'
}

quietly() { # what a command says is of interest only if it fails
    said=$("$@" 2>&1 >/dev/null) || {
        code=$?
        echo "$said" >&2
        return "$code"
    }
}

build() {
    part=$PREFIX/releases/.$release.part
    mkdir -p "$part"
    "$python" -m venv --without-pip --symlinks "$part"
    "$part/bin/python" -I unpack.py "$PREFIX/releases/$release" wheels/*.whl
    cp install.sh package.json model.octlet "$part"
    if [ -f "$UNIT" ]; then sed "s|@PREFIX@|$PREFIX|g" "$UNIT" >"$part/$UNIT"; fi
    say "checking the model on this machine"
    proven "$part" || {
        code=$?
        rm -rf "$part"
        fail "$code" "$release does not work on this machine; nothing was changed"
    }
    sync -f "$part"
    mv -T "$part" "$PREFIX/releases/$release"
}

switch() { # switch TARGET: what ran is kept as the previous version
    old=$(target current)
    if [ -n "$old" ] && [ "$old" != "$1" ]; then point "$PREFIX/previous" "$old"; fi
    point "$PREFIX/current" "$1"
}

prune() { # what neither link leads to, and what a stopped installation left
    for folder in "$PREFIX"/releases/* "$PREFIX"/releases/.*.part; do
        case releases/${folder##*/} in
            "$(target current)" | "$(target previous)") ;;
            *) rm -rf "$folder" ;;
        esac
    done
}

systemd_runs() { [ "$SERVICE" = yes ] && [ -d "$SYSTEMD" ]; }

restart() {
    if systemd_runs && [ -f "$PREFIX/current/$UNIT" ]; then
        systemctl daemon-reload && systemctl restart "$UNIT"
    fi
}

enable_service() {
    [ -f "$PREFIX/current/$UNIT" ] || { disable_service; return; }
    if [ "$SERVICE" = no ] || [ -L "$UNITS/$UNIT" ]; then return; fi # there, or masked
    getent passwd octlet >/dev/null ||
        useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin octlet ||
        fail 1 "cannot make the user 'octlet': run as root, or give --no-service"
    # Links to the unit of the current version: switching the version switches it, too.
    mkdir -p "$UNITS/multi-user.target.wants"
    point "$UNITS/multi-user.target.wants/$UNIT" "../$UNIT"
    point "$UNITS/$UNIT" "$PREFIX/current/$UNIT"
}

disable_service() {
    [ "$(readlink "$UNITS/$UNIT")" = "$PREFIX/current/$UNIT" ] || return 0
    if systemd_runs; then systemctl stop "$UNIT" || true; fi
    rm -f "$UNITS/multi-user.target.wants/$UNIT" "$UNITS/$UNIT"
    if systemd_runs; then systemctl daemon-reload; fi
}

install_release() {
    check_package
    find_python
    alone
    rm -rf "$PREFIX"/releases/.*.part
    if [ -d "$PREFIX/releases/$release" ] && proven "$PREFIX/releases/$release"; then
        say "$release is there already, and works"
    else
        # Not in the place of a broken one of this name, which may be running.
        while [ -e "$PREFIX/releases/$release" ]; do broken=releases/$release release=$release.again; done
        check_space
        say "installing $release into $PREFIX"
        build
    fi
    old=$(target current)
    if [ "$old" = "${broken:-}" ]; then point "$PREFIX/current" "releases/$release"; else switch "releases/$release"; fi
    enable_service
    restart || {
        [ "${old:-releases/$release}" != "releases/$release" ] ||
            fail 1 "$UNIT does not start: see 'journalctl -u $UNIT'"
        point "$PREFIX/current" "$old"
        restart || true
        fail 1 "$UNIT of $release does not start: back to ${old#releases/} (see 'journalctl -u $UNIT')"
    }
    prune
    say "done: $PREFIX/current/bin/octlet is $release"
}

rollback() {
    alone
    back=$(target previous)
    if [ -z "$back" ] || [ "$back" = "$(target current)" ] || [ ! -d "$PREFIX/$back" ]; then
        fail 1 "no earlier version to go back to"
    fi
    proven "$PREFIX/$back" || fail $? "${back#releases/} does not work on this machine; nothing was changed"
    switch "$back"
    enable_service
    restart || fail 1 "$UNIT does not start: see 'journalctl -u $UNIT'"
    say "done: $PREFIX/current/bin/octlet is ${back#releases/}"
}

uninstall() {
    [ -e "$PREFIX/releases" ] || [ -e "$PREFIX/.lock" ] || { say "nothing is installed in $PREFIX"; return; }
    alone
    disable_service
    rm -f "$PREFIX/current" "$PREFIX/previous" "$PREFIX"/*.new
    rm -rf "$PREFIX/releases"
    rm -f "$PREFIX/.lock"
    rmdir "$PREFIX" 2>/dev/null || true # a package manager may keep a folder of its own there
    say "done: Octlet is removed from $PREFIX"
}

main() {
    usage "$@"
    HERE=$(cd "$(dirname "$0")" && pwd -P)
    case $ACTION in
        install) install_release ;;
        rollback) rollback ;;
        uninstall) uninstall ;;
    esac
}

main "$@"
exit # the shell reads no further: this file may just have been removed
