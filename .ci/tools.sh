#!/usr/bin/env bash
# Servers that the observability tests speak to, unpacked under var/tools: Prometheus with promtool from Debian
# bookworm, VictoriaMetrics from Debian trixie. Neither root nor a change to the system: private lists of
# packages, `apt-get download`, `dpkg -x`. Needs apt and Debian's archive keyring.
set -euo pipefail
cd "$(dirname "$0")/.."
into=${LLMOBS_TEST_TOOLS:-$PWD/var/tools}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || { echo "tools: no $keyring here, so Prometheus and VictoriaMetrics are left out" >&2; exit 0; }

fetch() {  # suite package
    [ -x "$into/usr/bin/$2" ] && return
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$into"
    echo "deb [signed-by=$keyring] $mirror $1 main" > "$work/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=$(id -un)")
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" download "$2" && dpkg -x "$2"_*.deb "$into")
    rm -rf "$work"
}

fetch bookworm prometheus
fetch trixie victoria-metrics
echo "tools: $(ls "$into/usr/bin" | tr '\n' ' ')"
