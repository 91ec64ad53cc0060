#!/usr/bin/env bash
# What a newcomer waits for: `make submit`, again, `make score` and `make test` in a fresh clone with an empty .venv.
# usage: benchmarks/fresh_clone.sh [FOLDER]     (a temporary one by default; prints what each command printed and took)
set -euo pipefail
source=$(git -C "$(dirname "$0")/.." rev-parse --show-toplevel)
folder=${1:-$(mktemp -d)}
git clone --quiet "$source" "$folder/podium"
cd "$folder/podium"
unset MAKEFLAGS MAKELEVEL VIRTUAL_ENV
TIMEFORMAT='took %R s (%U s user, %S s system)'
for command in "make setup" "make submit" "make submit" "make submit" "make submit" "make score" "make test"; do
    printf '\n$ %s\n' "$command"
    time $command 2>&1
done
