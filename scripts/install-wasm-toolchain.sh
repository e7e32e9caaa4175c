#!/usr/bin/env bash
# Puts together a Rust that compiles guests to wasm32-unknown-unknown, from
# Debian's packages, for machines where `rustup target add
# wasm32-unknown-unknown` cannot fetch. Where it can, use that and not this.
#
#   scripts/install-wasm-toolchain.sh [PREFIX]
#
# PREFIX is ${XDG_CACHE_HOME:-$HOME/.cache}/kinfold/wasm-toolchain unless given.
# Needs no root and installs nothing: the packages are unpacked side by side
# (installing them would conflict with rustup). Debian bookworm-security or
# newer, amd64, with package lists that `apt-get update` brought up to date.
set -euo pipefail

prefix=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/kinfold/wasm-toolchain}

if [[ -f $prefix/complete ]]; then
    echo "already there: $prefix ($(cat "$prefix/complete"))"
    exit 0
fi

command -v apt-get >/dev/null && command -v dpkg >/dev/null || {
    echo "this machine has no apt-get and dpkg; use rustup target add wasm32-unknown-unknown" >&2
    exit 1
}

# The package that holds the compiler's library carries its version in its name,
# and so does the LLVM that it wants: ask for both, they move with Debian.
dependency() {
    apt-cache depends --no-recommends --no-suggests "$1" 2>/dev/null |
        sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1
}
std=$(dependency libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')
[[ -n $std ]] || {
    echo "apt knows no libstd-rust-web-dev: run apt-get update, on bookworm-security or newer" >&2
    exit 1
}
llvm=$(dependency "$std" 'libllvm[0-9]*')
[[ -n $llvm ]] || {
    echo "$std names no libllvm package: this script has to learn about a new packaging" >&2
    exit 1
}

if [[ -e $prefix ]]; then
    echo "$prefix holds something else: remove it, or name another folder" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt drops its privileges to a user that must be able to write here.
chmod 755 "$work"
(
    cd "$work"
    apt-get download rustc-web "$std" libstd-rust-web-dev rust-web-src rust-web-llvm \
        "$llvm" "lld-${llvm#libllvm}"
)

for package in "$work"/*.deb; do
    dpkg -x "$package" "$work/prefix"
done
version=$(LD_LIBRARY_PATH=$work/prefix/usr/lib/x86_64-linux-gnu "$work/prefix/usr/bin/rustc" --version)
ls "$work"/prefix/usr/bin/wasm-ld-* >/dev/null
echo "$version" >"$work/prefix/complete"

# Moved only when whole, so that an interrupted run leaves nothing behind.
mkdir -p "$(dirname "$prefix")"
mv "$work/prefix" "$prefix"
echo "installed $version in $prefix"
