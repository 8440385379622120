#!/usr/bin/env bash
# Write tools/dev.lock anew: everything that `make check` and `make test` need, with the hashes of its
# files, for Python 3.11 on x86-64 Linux. `make install LOCKED=1` installs from it.
#
#   tools/lock.sh [--find-links DIR]
#
# Needs uv, and the CPU wheel of torch, from a folder (--find-links) or an index that has it
# (--index https://download.pytorch.org/whl/cpu). The versions are those of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

grep -v '^torch==' constraints.txt > "$work/constraints.txt"
torch=$(sed -n 's/^torch==//p' constraints.txt)
printf 'torch==%s+cpu\nsetuptools\n' "$torch" > "$work/more.in"

uv pip compile --quiet --no-annotate --generate-hashes --python-version 3.11.7 \
    --python-platform x86_64-manylinux_2_28 --custom-compile-command tools/lock.sh \
    setup.py --extra dev "$work/more.in" --constraint "$work/constraints.txt" "$@" \
    --output-file tools/dev.lock

grep -c '^[a-zA-Z].*==' tools/dev.lock
