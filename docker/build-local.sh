#!/usr/bin/env bash
# Build the image without a Docker engine, run it, and check it: buildah in a chroot, on a base made
# by debootstrap. Needs root, buildah and debootstrap (Debian packages of these names).
#
#   docker/build-local.sh [--flavor cpu|cuda] [--air-gapped] [--clean] [-- OPTIONS OF buildah build]
#
#   --flavor      cpu (the default here) or cuda
#   --air-gapped  install from docker/wheelhouse alone, as on a machine without a package index
#   --clean       remove everything that this script keeps between builds, and end
#
# pip asks the index that `pip config list` names on this machine; its settings are mounted into the
# build and stay out of the image. Images and layers are kept in $MBREC_BUILD_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${MBREC_BUILD_DIR:-/var/tmp/mbrec-image}
flavor=cpu
air_gapped=
clean=
while [ $# -gt 0 ]; do
    case $1 in
        --flavor) flavor=${2:?--flavor needs cpu or cuda}; shift 2 ;;
        --air-gapped) air_gapped=yes; shift ;;
        --clean) clean=yes; shift ;;
        --) shift; break ;;
        *) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' docker/build-local.sh >&2; exit 2 ;;
    esac
done
case $flavor in cpu | cuda) ;; *) echo "--flavor is cpu or cuda, not $flavor." >&2; exit 2 ;; esac
for tool in buildah debootstrap python3; do
    command -v "$tool" > /dev/null || { echo "$tool is missing." >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root." >&2; exit 1; }

export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
base=localhost/mbrec-base
image=localhost/mbrec:$flavor
mkdir -p "$work/store" "$work/run" "$work/tmp"
exec 9> "$work/lock"
flock --nonblock 9 || { echo "Another build is using $work." >&2; exit 1; }
export TMPDIR=$work/tmp  # the caches of apt and pip, too
step() { printf '\n== %s (%s)\n' "$1" "$(date +%T)"; }
storage() { buildah --root "$work/store" --runroot "$work/run" "$@"; }

# What a build that was interrupted left mounted; buildah may have forgotten some of it.
storage rm --all > /dev/null 2>&1 || true
if [ -n "$clean" ]; then
    rm -rf "$work"
    echo "Removed $work."
    exit
fi

if ! storage inspect --type image "$base" > /dev/null 2>&1; then
    step "The base: Debian 12 by debootstrap"
    rm -rf "$work/rootfs"
    debootstrap --variant=minbase bookworm "$work/rootfs" > "$work/debootstrap.log" \
        || { tail "$work/debootstrap.log" >&2; exit 1; }
    container=$(storage from scratch)
    storage add --quiet "$container" "$work/rootfs" / > /dev/null
    storage commit --quiet "$container" "$base" > /dev/null
    storage rm "$container" > /dev/null
    rm -rf "$work/rootfs"
fi

if [ -n "$air_gapped" ]; then
    step "The wheelhouse"
    docker/wheelhouse.sh "$flavor"
    options=(--build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheelhouse)
else
    mapfile -t options < <(python3 docker/pip_settings.py "$work/pip.conf")
fi
torch=$(sed -n 's/^ARG TORCH_WHEEL=.*\///p' docker/Dockerfile)
if [ "$flavor" = cpu ]; then
    # Where pip knows a place for this wheel, it is not asked for at its address.
    python3 -m pip download --quiet --no-deps --dest docker/wheelhouse \
        "torch==$(echo "${torch//%2B/+}" | cut -d- -f2)" || echo "Taking torch from its address."
    [ ! -f "docker/wheelhouse/${torch//%2B/+}" ] \
        || options+=(--build-arg "TORCH_WHEEL=file:///wheelhouse/$torch")
fi

step "The image, flavor $flavor"
time storage build --layers --format docker --build-arg BASE_IMAGE="$base" \
    --build-arg FLAVOR="$flavor" "${options[@]}" "$@" --file docker/Dockerfile --tag "$image" .

step "What it is"
storage images
storage inspect --type image --format 'user {{.Docker.Config.User}}, entry point {{.Docker.Config.Entrypoint}}
volumes {{.Docker.Config.Volumes}}, health check {{.Docker.Config.Healthcheck.Test}}' "$image"

step "How it runs"
container=$(storage from "$image")
outside=$(mktemp -d)
trap 'storage rm "$container" > /dev/null; rm -rf "$outside"' EXIT
install --directory --mode=1777 "$outside/data" "$outside/runs"
inside() {
    printf '\n$ %s\n' "$*"
    storage run --volume "$outside/data:/data" --volume "$outside/runs:/runs" "$container" -- "$@"
}
# shellcheck disable=SC2016
inside sh -c 'id; test "$(id -u)" != 0 && touch /data/it /runs/it && ! touch /opt/mbrec/it'
inside mbrec --help
inside mbrec doctor
inside mbrec demo --out /runs/demo
# shellcheck disable=SC2016
inside sh -c 'mbrec --version && test -w /runs && { test ! -e /dev/nvidiactl || nvidia-smi -L; }'
inside python /opt/mbrec/share/curves.py --runs /runs --check
step "Done: $image in $work/store"
