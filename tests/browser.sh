#!/bin/bash
# tests/browser.sh: a headless Chromium for the tests of pages, kept in the user's cache beside the environment and not in it.
#
# Runs where docker/run runs commands. Debian's packages are unpacked, not installed, so no rights are needed and neither the tree
# nor the image grows. Prints the folder; says why on standard error, and fails, where Chromium cannot be had.
set -euo pipefail

packages=(chromium chromium-driver)
selenium=selenium==4.27.1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lrbench-caffe
folder=$cache/browser-$(sha256sum "${BASH_SOURCE[0]}" | head -c 12)

# The packages that Chromium needs and this system lacks, into $building.
unpack() {
    local options=(-o Dir::State="$building/state" -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$building/apt"
                   -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Install-Recommends=false)
    mkdir -p "$building"/state/lists/partial "$building"/apt/archives/partial
    apt-get "${options[@]}" update
    apt-get "${options[@]}" --download-only --yes install "${packages[@]}"
    for package in "$building"/apt/archives/*.deb; do
        dpkg-deb --extract "$package" "$building/root"
    done
    python3 -m pip install --no-cache-dir --disable-pip-version-check --target "$building/python" "$selenium"
    rm -rf "$building/state" "$building/apt" "$building"/root/usr/share/{doc,man,locale}
}

mkdir -p "$cache"
exec {lock}> "$cache/browser.lock"
flock "$lock"
if [[ ! -d $folder ]]; then
    building=$(mktemp -d "$cache/browser.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    echo "tests/browser.sh: unpacking Chromium for the tests of pages in $folder: once, about a minute, 400 MB" >&2
    unpack > "$cache/browser.log" 2>&1 || { tail -n 3 "$cache/browser.log" >&2; exit 1; }
    chmod 755 "$building"
    mv "$building" "$folder"
fi
echo "$folder"
