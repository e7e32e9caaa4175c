#!/usr/bin/env bash
# Counts the instructions of the parts of a put and of a get, and holds them against
# benches/instructions.toml; with --accept it writes that file anew. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --locked --config benches/optimised.toml --profile dev \
  --bench instructions -- "$@"
