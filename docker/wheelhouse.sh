#!/usr/bin/env bash
# Fill docker/wheelhouse with what a build needs from package indexes, so that it needs none.
#
#   docker/wheelhouse.sh cpu|cuda
#
# Run it where there is an index, on Linux x86-64 with the pip of a Python 3.11. Every file is
# checked against its hash in locks/.
set -euo pipefail
cd "$(dirname "$0")"

flavor=${1:?cpu or cuda}
fetch() { python3 -m pip download --quiet --no-deps --dest wheelhouse "$@"; }

fetch --require-hashes -r locks/requirements.lock -r "locks/$flavor.lock"
case $flavor in
    cpu) name=TORCH ;;
    cuda) name=DGL ;;
esac
# The one wheel that comes by its address: by its file name if pip is configured to find it.
url=$(sed -n "s/^ARG ${name}_WHEEL=//p" Dockerfile)
file=${url##*/}
file=${file//%2B/+}
if [ ! -f "wheelhouse/$file" ]; then
    version=$(echo "$file" | cut -d- -f2)
    fetch "${name,,}==$version" || fetch "$url" || {
        echo "Put $file into docker/wheelhouse yourself: $url" >&2
        exit 1
    }
fi
du -sh wheelhouse
