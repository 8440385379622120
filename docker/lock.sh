#!/usr/bin/env bash
# Write locks/*.lock anew: every package of the image with its version and the hashes of its files.
#
#   docker/lock.sh [--find-links DIR]
#
# Needs uv, and the CPU wheel of torch, from a folder (--find-links) or an index that has it
# (--index https://download.pytorch.org/whl/cpu). The versions are those of constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

locks=docker/locks
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() {
    uv pip compile --quiet --no-annotate --generate-hashes --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --custom-compile-command docker/lock.sh "$@"
}

torch=$(sed -n 's/^torch==//p' constraints.txt)
grep -v '^torch' constraints.txt > "$work/constraints.txt"
echo "torch==$torch+cpu" > "$work/torch.in"

# What both flavors share. torch, torchdata and DGL are left to the flavors.
compile setup.py "$locks/image.in" "$work/torch.in" --constraint "$work/constraints.txt" "$@" \
    --no-emit-package torch --no-emit-package torchdata --no-emit-package dgl \
    --output-file "$locks/requirements.lock"

compile --no-deps "$locks/cpu.in" --output-file "$locks/cpu.lock"

# What torch needs beyond the shared packages: CUDA's libraries and triton.
shared=()
while read -r name; do
    shared+=(--no-emit-package "$name")
done < <(sed -n 's/^\([a-zA-Z0-9._-]*\)==.*/\1/p' "$locks/requirements.lock")
compile "$locks/cuda.in" --constraint "$locks/requirements.lock" "${shared[@]}" \
    --output-file "$locks/cuda.lock"

grep -c '^[a-z].*==' "$locks"/*.lock
