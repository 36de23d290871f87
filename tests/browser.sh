#!/bin/bash
# tests/browser.sh: unpacks a headless Chromium for the tests of pages into the user's cache and
# prints its folder. If that is not possible, it fails and prints why on standard error.
#
# Run it in the environment of docker/run. Debian's packages are unpacked and not installed: this
# needs no rights, and the environment does not grow.
set -euo pipefail

packages=(chromium chromium-driver)
selenium=selenium==4.27.1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lrbench-caffe
folder=$cache/browser-$(sha256sum "${BASH_SOURCE[0]}" | head -c 12)

# Unpacks Chromium, the packages that it needs and this system lacks, and selenium into $building.
unpack() {
    local options=(
        -o Dir::State="$building/state" -o Dir::State::status=/var/lib/dpkg/status
        -o Dir::Cache="$building/apt" -o Debug::NoLocking=1 -o APT::Sandbox::User=root
        -o APT::Install-Recommends=false
    )
    mkdir -p "$building"/state/lists/partial "$building"/apt/archives/partial
    apt-get "${options[@]}" update
    apt-get "${options[@]}" --download-only --yes install "${packages[@]}"
    for package in "$building"/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$building/root"
    done
    python3 -m pip install --no-cache-dir --disable-pip-version-check \
        --target "$building/python" "$selenium"
    rm -rf "$building/state" "$building/apt" "$building"/root/usr/share/{doc,man,locale}
}

mkdir -p "$cache"
exec {lock}> "$cache/browser.lock"
flock "$lock"
if [[ ! -d $folder ]]; then
    building=$(mktemp -d "$cache/browser.XXXXXX")
    trap 'rm -rf "$building"; [[ -d $folder ]] || tail -n 3 "$cache/browser.log" >&2' EXIT
    echo "tests/browser.sh: unpacking Chromium in $folder (once, about a minute, 430 MB)" >&2
    (unpack) > "$cache/browser.log" 2>&1  # not in a condition, where bash ignores set -e
    chmod 755 "$building"
    mv "$building" "$folder"
fi
echo "$folder"
