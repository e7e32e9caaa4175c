#!/usr/bin/env bash
# Rebuilds the committed guests: reconcilers/prebuilt/*.wasm, the test guests
# under reconcilers/prebuilt/test/, and the record of what they were built from.
#
#   scripts/build-reconcilers.sh [FOLDER]
#
# FOLDER is reconcilers/prebuilt unless given. Uses whichever tool chain is
# there: rustup's wasm32-unknown-unknown target, or the one that
# scripts/install-wasm-toolchain.sh unpacked (KINFOLD_WASM_TOOLCHAIN names its
# prefix if it is not in the default place). KINFOLD_BUILD_JOBS bounds cargo's
# parallelism.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=${1:-$root/reconcilers/prebuilt}
prefix=${KINFOLD_WASM_TOOLCHAIN:-${XDG_CACHE_HOME:-$HOME/.cache}/kinfold/wasm-toolchain}
jobs=(${KINFOLD_BUILD_JOBS:+"-j$KINFOLD_BUILD_JOBS"})
target=wasm32-unknown-unknown
mkdir -p "$output/test/mistakes"
output=$(cd "$output" && pwd)
cd "$root/reconcilers"
built=${CARGO_TARGET_DIR:-$root/reconcilers/target}
export CARGO_TARGET_DIR=$built

# The tool that encodes runs here, so it is built by the ordinary tool chain,
# before the environment names another one.
cargo build --quiet "${jobs[@]}" --locked --release --package kinfold-encode

cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
if [[ -d $sysroot/lib/rustlib/$target/lib ]]; then
    build=(cargo)
    std=()
elif [[ -f $prefix/complete ]]; then
    # The prefix's compiler, the ordinary cargo, and std from source: Debian
    # ships no std for this target.
    sysroot=$prefix
    linker=("$prefix"/usr/bin/wasm-ld-*)
    export RUSTC_BOOTSTRAP=1 RUSTC=$prefix/usr/bin/rustc
    export LD_LIBRARY_PATH=$prefix/usr/lib/x86_64-linux-gnu
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=${linker[0]}
    # rustup's proxy would put its own compiler's libraries first.
    build=("$(rustup which cargo 2>/dev/null || command -v cargo)")
    std=(-Zbuild-std=std,panic_abort)
else
    cat >&2 <<TEXT
no compiler for $target here; either
    rustup target add $target
or, where rustup cannot fetch,
    scripts/install-wasm-toolchain.sh
TEXT
    exit 1
fi

# No path of this machine goes into a module.
export RUSTFLAGS="--remap-path-prefix=$root=/kinfold --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$sysroot=/rust"

# compile PACKAGE: its core module, in the target folder.
compile() {
    # `cargo rustc` and one crate type: beside an rlib there would be no LTO.
    "${build[@]}" rustc --quiet "${jobs[@]}" --locked --release --target "$target" "${std[@]}" \
        --package "$1" --lib --crate-type cdylib
}
core() {
    echo "$built/$target/release/${1//-/_}.wasm"
}
encode() {
    # The tool is an ordinary program: it does without the prefix's libraries.
    env -u LD_LIBRARY_PATH "$built/release/kinfold-encode" "$@"
}

for name in lww cart-union or-cart pn-counter or-set lww-map; do
    compile "kinfold-$name"
    encode "$(core "kinfold-$name")" "$output/$name.wasm"
done
compile kinfold-misbehave
cp "$(core kinfold-misbehave)" "$output/test/misbehave.core.wasm"
encode "$(core kinfold-misbehave)" "$output/test/misbehave.wasm"
compile kinfold-imports
encode --allow-imports "$(core kinfold-imports)" "$output/test/imports.wasm"

# The guest in C stays the core module that the linker made: the server knows the
# contract's types by the names of the exports.
c_guest=reconcilers/examples/c/bitmap.c
prebuilt=$root/reconcilers/prebuilt
if command -v clang >/dev/null && command -v wasm-ld >/dev/null; then
    clang --target=wasm32 -O2 -Wall -Wextra -Werror -nostdlib -Wl,--no-entry -Wl,--strip-all \
        -o "$output/test/c-bitmap.wasm" "$root/$c_guest"
elif grep --quiet --fixed-strings "$(cd "$root" && sha256sum "$c_guest")" "$prebuilt/SOURCES.sha256"; then
    echo "no clang here: $c_guest has not changed, so what it was built to is kept" >&2
    [[ $output = "$prebuilt" ]] || cp "$prebuilt/test/c-bitmap.wasm" "$output/test/"
else
    echo "$c_guest has changed, and takes a compiler; on Debian: apt-get install clang lld" >&2
    exit 1
fi

# One guest for each mistake, all examples of one package.
"${build[@]}" build --quiet "${jobs[@]}" --locked --release --target "$target" "${std[@]}" \
    --package kinfold-mistakes --examples
for source in "$root"/reconcilers/bad/mistakes/examples/*.rs; do
    name=$(basename "$source" .rs)
    encode "$built/$target/release/examples/$name.wasm" "$output/test/mistakes/$name.wasm"
done

for module in "$output"/*.wasm "$output"/test/*.wasm "$output"/test/mistakes/*.wasm; do
    for path in "$root" "$cargo_home" "$sysroot" "$HOME"; do
        # A home such as / is in every text and gives nothing away.
        if [[ ${#path} -gt 1 ]] && grep --quiet --fixed-strings "$path/" "$module"; then
            echo "$module holds the path $path of this machine" >&2
            exit 1
        fi
    done
done

"${RUSTC:-rustc}" --version >"$output/COMPILER"
"$root/scripts/check-reconcilers.sh" --print >"$output/SOURCES.sha256"
(cd "$output" && wc -c ./*.wasm test/*.wasm test/mistakes/*.wasm)
