#!/bin/bash
# Build the image where there is no container registry and no daemon, and play a federation in it.
#
#   sudo deploy/image/rehearse.sh FOLDER [PREFIX]
#
# FOLDER gets what is made (6 GB). PREFIX is where a Python 3.11 built for moving lies (bin/python3.11, lib/): by default
# that of `python3.11`. The base is a stand-in for python:3.11-slim: Debian by debootstrap, and this Python in /usr/local.
# Everything else is Containerfile as it is, by buildah, with pip as it is set up on this machine.
# Needs: apt-get install buildah crun debootstrap
set -euo pipefail
folder=$(realpath -m "$1")
prefix=${2:-$(python3.11 -c 'import sys; print(sys.base_prefix)')}
root=$(cd "$(dirname "$0")/../.." && pwd)
store=(--root "$folder/storage" --runroot "$folder/run")
export BUILDAH_ISOLATION=chroot
mkdir -p "$folder"

if ! buildah "${store[@]}" inspect localhost/base >/dev/null 2>&1; then
    mirror=$(grep -hE '^(URIs:|deb )' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        grep -oE 'https?://[^ ]+' | grep -v security | head -1)
    debootstrap --variant=minbase --include=ca-certificates,libsqlite3-0,libssl3,libffi8,libreadline8,libexpat1 \
        bookworm "$folder/base" "$mirror"
    mkdir -p "$folder/base/usr/local/bin"
    cp -a "$prefix/bin/python3.11" "$folder/base/usr/local/bin/"
    ln -sf python3.11 "$folder/base/usr/local/bin/python"
    cp -a "$prefix"/lib/libpython3* "$folder/base/usr/local/lib/" 2>/dev/null || true
    tar -C "$prefix/lib" --exclude='*/site-packages/*' --exclude=python3.11/test --exclude=__pycache__ -cf - python3.11 |
        tar -C "$folder/base/usr/local/lib" -xf -
    chroot "$folder/base" ldconfig
    container=$(buildah "${store[@]}" from scratch)
    cp -a "$folder/base/." "$(buildah "${store[@]}" mount "$container")"
    buildah "${store[@]}" config --env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah "${store[@]}" commit --rm "$container" localhost/base
fi

# What pip of this machine reads: its settings, and folders of files that they name.
mounts=()
for place in /etc/pip.conf /etc/xdg/pip "${HOME}/.config/pip" /etc/ssl/certs ${PIP_PLACES:-}; do
    [ -e "$place" ] && mounts+=(--volume "$place:$place:ro")
done
buildah "${store[@]}" bud --format docker --layers --network host "${mounts[@]}" \
    --build-arg BASE=localhost/base --build-arg TORCH_INDEX= --file "$root/deploy/Containerfile" --tag fedhello "$root"

container=$(buildah "${store[@]}" from --pull-never localhost/fedhello)
inside=$(buildah "${store[@]}" mount "$container")
echo "/opt/fedhello: $(du -sm "$inside/opt/fedhello" | cut -f1) MB; the base's place is taken by $(du -sm --exclude opt "$inside" | cut -f1) MB"
buildah "${store[@]}" run "$container" -- fedhello server --local 3 run.name=rehearsal
buildah "${store[@]}" rm "$container" >/dev/null
