#!/usr/bin/env bash
# Where no registry is reached: a stand-in for the Containerfile's base image, from Debian's packages alone, with
# Debian's Python 3.11. Needs root, buildah and mmdebstrap.
#
#   deploy/image/base.sh localhost/llmobs-base:bookworm && buildah bud --build-arg BASE_IMAGE=localhost/llmobs-base:bookworm .
#
# BUILDAH_OPTIONS (for example --root and --runroot) go before buildah's command.
set -euo pipefail
tag=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
# The official slim images leave the same paths out.
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,usr-is-merged \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/debconf/*-old' \
    bookworm "$folder/root.tar"
printf 'FROM scratch\nADD root.tar /\nCMD ["python3"]\n' > "$folder/Containerfile"
# shellcheck disable=SC2086  # several options
buildah ${BUILDAH_OPTIONS:-} bud --quiet --pull-never --isolation chroot -t "$tag" "$folder"
