#!/usr/bin/env bash
# Says whether the committed guests are built from the sources beside them.
#
#   scripts/check-reconcilers.sh             fails when they are stale
#   scripts/check-reconcilers.sh --rebuild   also builds them again, elsewhere,
#                                            and says whether the bytes are the
#                                            same; other compilers make other
#                                            bytes, so that alone is no failure
#   scripts/check-reconcilers.sh --print     what SOURCES.sha256 should hold
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prebuilt=$root/reconcilers/prebuilt

# One line for each file that a module is made from: manifests, lock, Rust, C, WIT,
# the tool that encodes, and the script that runs it all. Not the law check, which
# judges modules, nor the histories of tests: they are in none.
sources() {
    cd "$root"
    find wit reconcilers scripts/build-reconcilers.sh \
        \( -path reconcilers/target -o -path reconcilers/prebuilt -o -path reconcilers/laws \
        -o -path reconcilers/histories \) -prune -o -type f \
        \( -name '*.rs' -o -name '*.c' -o -name '*.wit' -o -name Cargo.toml -o -name Cargo.lock \
        -o -path '*/.cargo/*' -o -name build-reconcilers.sh \) -print0 |
        LC_ALL=C sort --zero-terminated |
        xargs --null sha256sum
}

case ${1:-} in
--print)
    sources
    exit
    ;;
--rebuild | '') ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac

if ! difference=$(diff "$prebuilt/SOURCES.sha256" <(sources)); then
    echo "reconcilers/prebuilt is stale: these changed since it was built" >&2
    sed -n 's/^[<>] [0-9a-f]* [ *]/    /p' <<<"$difference" | LC_ALL=C sort --unique >&2
    echo "run scripts/build-reconcilers.sh and commit reconcilers/prebuilt" >&2
    exit 1
fi
missing=0
for module in lww cart-union or-cart pn-counter or-set lww-map test/misbehave.core test/misbehave \
    test/imports test/c-bitmap; do
    if [[ ! -s $prebuilt/$module.wasm ]]; then
        echo "reconcilers/prebuilt/$module.wasm is not there: run scripts/build-reconcilers.sh" >&2
        missing=1
    fi
done
for source in "$root"/reconcilers/bad/mistakes/examples/*.rs; do
    module=test/mistakes/$(basename "$source" .rs)
    if [[ ! -s $prebuilt/$module.wasm ]]; then
        echo "reconcilers/prebuilt/$module.wasm is not there: run scripts/build-reconcilers.sh" >&2
        missing=1
    fi
done
[[ $missing = 0 ]] || exit 1
echo "reconcilers/prebuilt is built from these sources, by $(cat "$prebuilt/COMPILER")"

if [[ ${1:-} = --rebuild ]]; then
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    # From nothing, or cargo would hand back what it built last time.
    CARGO_TARGET_DIR=$fresh/target "$root/scripts/build-reconcilers.sh" "$fresh/prebuilt" >/dev/null
    cd "$fresh/prebuilt"
    for module in *.wasm test/*.wasm test/mistakes/*.wasm; do
        if cmp --silent "$module" "$prebuilt/$module"; then
            echo "same bytes   $module"
        else
            echo "other bytes  $module, by $(cat COMPILER)"
        fi
    done
fi
