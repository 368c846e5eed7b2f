#!/usr/bin/env bash
# What tests of the pages, the image and the cluster need from Debian: installed where we are root and apt is here, and said
# where not. Tests that miss one are left out and say so.
set -euo pipefail
declare -A packages=([buildah]=buildah [podman]=podman [runc]=runc [mmdebstrap]=mmdebstrap [etcd]=etcd-server
    [containerd]=containerd [chromium]=chromium [curl]=curl [/usr/lib/cni/bridge]=containernetworking-plugins)
wanted=()
for tool in "${!packages[@]}"; do
    command -v "$tool" > /dev/null || wanted+=("${packages[$tool]}")
done
# What the wheels with PostgreSQL's programs and llama.cpp's server are linked to.
for library in libxml2.so.2:libxml2 libgssapi_krb5.so.2:libgssapi-krb5-2 liblz4.so.1:liblz4-1 libzstd.so.1:libzstd1 libssl.so.3:libssl3 \
    libgomp.so.1:libgomp1; do
    ldconfig -p 2> /dev/null | grep -q "${library%%:*}" || wanted+=("${library##*:}")
done
[ ${#wanted[@]} -eq 0 ] && { echo "debian: all here"; exit 0; }
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "debian: left out, for want of root or apt: ${wanted[*]}" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if apt-get -qq update && apt-get -qq install -y --no-install-recommends "${wanted[@]}" > /dev/null; then
    echo "debian: installed ${wanted[*]}"
else
    echo "debian: left out, for apt could not install them: ${wanted[*]}" >&2
fi
