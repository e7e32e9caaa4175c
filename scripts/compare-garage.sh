#!/usr/bin/env bash
# Runs kinfold and Garage K2V side by side, with the same load, on this machine.
#
#   scripts/compare-garage.sh                        LMDB, no fsync, 32 connections
#   scripts/compare-garage.sh --connections 32,256   and 256
#   scripts/compare-garage.sh --engine sqlite        Garage on SQLite
#   scripts/compare-garage.sh --fsync                Garage syncs, too
#   scripts/compare-garage.sh --json figures.json    all figures, for scripts
#   scripts/compare-garage.sh --build-only           builds both and stops
#   cargo bench --bench garage -- --help             all flags, when it is built
#
# Builds Garage from crates.io the first time, with its K2V, LMDB and SQLite, in
# release mode, which takes some 20 minutes of one core and 1 GB of disk, and keeps
# only the program: $XDG_CACHE_HOME/kinfold/garage-VERSION, or
# ~/.cache/kinfold/garage-VERSION. Then builds kinfold and the bench, in release
# mode, too, and runs them. Nothing is installed, and nothing outside of that
# folder, target/ and a temporary folder is written.
#
# Needs: Linux, for /proc; Rust as in Cargo.toml; a C compiler and make, for the
# libraries that the two bring along (SQLite, LMDB, libsodium, zstd); crates.io the
# first time. Three nodes of each and the client share this machine: leave it
# alone while it runs, five minutes a number of connections.
#
#   GARAGE_VERSION   another version of Garage [2.5.0]
#   COMPARE_GARAGE   a garage program that is there already, built with K2V
#   COMPARE_SERVER   another kinfold program
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=${GARAGE_VERSION:-2.5.0}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kinfold/garage-$version

fail() {
    echo "compare-garage: $1" >&2
    exit 1
}

build_only=0
for argument; do
    case $argument in
    --help | -h)
        sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit
        ;;
    --build-only) build_only=1 ;;
    esac
done

[[ -r /proc/self/stat ]] || fail "processor time is read from /proc, which is not here: run it on Linux"
for tool in cargo cc make; do
    command -v "$tool" >/dev/null || fail "$tool is missing: install Rust (rustup.rs), a C compiler and make"
done

if [[ -n ${COMPARE_GARAGE:-} ]]; then
    garage=$COMPARE_GARAGE
    [[ -x $garage ]] || fail "COMPARE_GARAGE=$garage is no program: unset it, and Garage is built"
else
    garage=$cache/bin/garage
    if [[ ! -x $garage ]]; then
        echo "building Garage $version from crates.io into $cache; that takes a while, once" >&2
        # Its K2V, both databases and no metrics: what it serves with, and no more.
        # Its own lock, so that it is the Garage that its authors tested.
        CARGO_TARGET_DIR=$cache/target cargo install garage --version "$version" --locked \
            --no-default-features --features bundled-libs,lmdb,sqlite,k2v --root "$cache" ||
            fail "Garage $version does not build; name one that is built with COMPARE_GARAGE"
        rm -rf "$cache/target"
    fi
fi
"$garage" --version | grep -q '\bk2v\b' || fail "$garage was built without k2v: name another one, or unset COMPARE_GARAGE"

cd "$root"
if [[ $build_only = 1 ]]; then
    cargo build --release --bin kinfold
    exec cargo bench --bench garage --no-run
fi
COMPARE_GARAGE=$garage exec cargo bench --quiet --bench garage -- "$@"
