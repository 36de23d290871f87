#!/bin/bash
# What docker/run's tree and the container image are made of: one list of packages and one way to install them.
#
#   install.sh packages       prints the names of the Debian packages: Caffe's and those of packages.txt
#   install.sh dpkg-options   prints dpkg's options: which files of the packages to leave out
#   install.sh apt            installs these packages with apt-get (the image; mmdebstrap does it for the tree)
#   install.sh finish         does the rest, inside the image or the tree: Python packages, the lrbench command
#
# Where Caffe is not called as in Debian 11, CAFFE_PACKAGES names it: "caffe-cuda python3-caffe-cuda", or "" where it is there.
# SECTIONS names the archive's sections to use beside main, the only one that an image of Debian lists.
#
# To add a Debian package, add a line to packages.txt. To add a Python package that Debian 11 lacks, or has too old, add a line
# below; it has to exist for Python 3.7 to 3.9.
set -euo pipefail

python_packages=(
    "click==8.1.8; python_version >= '3.9'"
    "click==8.0.4; python_version < '3.9'"  # what distributed 2022.2 can be started with
    "distributed==2024.8.0; python_version >= '3.9'"
    "distributed==2022.2.0; python_version < '3.9'"
    plotext==5.3.2
    rich==13.8.1
    threadpoolctl==3.1.0
)
# Of plotly the report needs plotly.js and no Python: left uncompiled, it takes half the room.
uncompiled_packages=(
    "plotly==6.5.2; python_version >= '3.8'"
    "plotly==5.18.0; python_version < '3.8'"
)

packages() {
    printf "%s\n" ${CAFFE_PACKAGES-caffe python3-caffe}
    sed "s/#.*//; /^ *$/d" "$(dirname "${BASH_SOURCE[0]}")/packages.txt"
}

dpkg_options() {
    printf "path-exclude=/usr/share/%s/*\n" doc info locale man
    printf "path-include=/usr/share/doc/*/copyright\n"
    printf "force-unsafe-io\n"  # an interrupted installation is never used
}

# Instead of "main" alone, in either of the two forms of apt's lists.
add_sections() {
    find /etc/apt -type f "(" -name "*.list" -o -name "*.sources" ")" \
        -exec sed -i -E "s/^(deb .*|Components:) main\$/\1 $1/" {} +
}

# As Debian 10 calls it.
rename_blas() {
    if apt-cache show libopenblas0-pthread > /dev/null 2>&1; then
        cat
    else
        sed "s/^libopenblas0-pthread$/libopenblas-base/"
    fi
}

apt() {
    [[ ${SECTIONS-main} == main ]] || add_sections "$SECTIONS"
    dpkg_options > /etc/dpkg/dpkg.cfg.d/lrbench
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    packages | rename_blas | xargs apt-get install --yes --no-install-recommends
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
}

# Debian's packages stay as they are: pycaffe is compiled against Debian's numpy, and reads messages with Debian's protobuf.
install_python_packages() {
    local constraints
    constraints=$(mktemp)
    python3 -m pip freeze --all | grep -iE "^(numpy|protobuf)==" > "$constraints"
    export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0  # a user's own settings for pip on the host
    export PIP_BREAK_SYSTEM_PACKAGES=1  # newer distributions ask for it; nothing of theirs is replaced
    unset PIP_TARGET PIP_PREFIX
    python3 -c "import pip; exit(int(pip.__version__.split('.')[0]) < 20)" ||  # Debian 10's takes no wheel of today
        python3 -m pip install --no-cache-dir "pip==24.0"
    python3 -m pip install --no-cache-dir --disable-pip-version-check --constraint "$constraints" "${python_packages[@]}"
    python3 -m pip install --no-cache-dir --disable-pip-version-check --no-compile "${uncompiled_packages[@]}"
    rm "$constraints"
}

# A program instead of a shell's "python3 -m", which would let Python import what lies in the current directory.
install_command() {
    cat > /usr/local/bin/lrbench <<-"END"
	#!/usr/bin/env python3
	import runpy

	runpy.run_module("lrbench_caffe", run_name="__main__", alter_sys=True)
	END
    chmod 755 /usr/local/bin/lrbench
}

finish() {
    install_python_packages
    install_command
    rm -rf /etc/postgresql/* /var/lib/postgresql/* /var/log/postgresql/*  # Debian's own database server
}

case ${1-} in
    packages) packages ;;
    dpkg-options) dpkg_options ;;
    apt) apt ;;
    finish) finish ;;
    *) sed -n "s/^# \?//; 2,/^set/p" "${BASH_SOURCE[0]}" | grep -v ^set; exit 2 ;;
esac
