#!/bin/bash
# The contents of docker/run's tree and of the container image: one list of packages and one way to install them.
#
#   install.sh packages       print the names of the Debian packages: Caffe's and those of packages.txt
#   install.sh dpkg-options   print dpkg's options, which leave out documentation and translations
#   install.sh apt            install these packages with apt-get (in the image; mmdebstrap does it in the tree)
#   install.sh finish         install the rest inside the image or the tree: Python packages and the lrbench command
#
# Environment variables:
#   CAFFE_PACKAGES   Caffe's packages where they have other names than in Debian 11, for example
#                    "caffe-cuda python3-caffe-cuda"; empty if Caffe must already be installed
#   SECTIONS         the sections of the package archive, for example "main contrib non-free" (default: main)
#
# A base image that has a Caffe keeps it, and its Python, numpy and protobuf: apt then installs neither Caffe nor any
# package for Python, and pip installs the modules that are missing.
#
# To add a Debian package, add a line to packages.txt. To add a Python package that Debian 11 does not have, or only in a
# version that is too old, add a line below. It must be available for Python 3.7 to 3.9.
set -euo pipefail

python_packages=(
    "click==8.1.8; python_version >= '3.9'"
    "click==8.0.4; python_version < '3.9'"  # distributed 2022.2 does not start with a later one
    cloup==3.0.5
    "distributed==2024.8.0; python_version >= '3.9'"
    "distributed==2022.2.0; python_version < '3.9'"
    plotext==5.3.2
    rich==13.8.1
    threadpoolctl==3.1.0
)
# The modules that apt brings with Debian's Caffe, and pip's names of their packages.
modules=(h5py=h5py lmdb=lmdb matplotlib=matplotlib PIL=pillow psycopg2=psycopg2-binary sklearn=scikit-learn)

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# Run python3 outside of the current directory, whose modules do not count.
python() {
    (cd / && python3 "$@")
}

# A folder without __init__.py, such as one with Caffe's source, is not a module.
has_module() {
    python -c "import importlib.util, sys; sys.exit(not getattr(importlib.util.find_spec('$1'), 'origin', None))" 2> /dev/null
}

packages() {
    # shellcheck disable=SC2086  # one word for each package
    printf "%s\n" ${CAFFE_PACKAGES-caffe python3-caffe}
    sed "s/#.*//; /^ *$/d" "$(dirname "${BASH_SOURCE[0]}")/packages.txt"
}

dpkg_options() {
    printf "path-exclude=/usr/share/%s/*\n" doc info locale man
    printf "path-include=/usr/share/doc/*/copyright\n"
    printf "force-unsafe-io\n"  # an interrupted installation is thrown away
}

# Replace "main" by the sections $1, in both formats of apt's lists.
add_sections() {
    find /etc/apt -type f "(" -name "*.list" -o -name "*.sources" ")" \
        -exec sed -i -E "s/^(deb .*|Components:) main\$/\1 $1/" {} +
}

# Debian 10 has another name for this package.
rename_blas() {
    if apt-cache show libopenblas0-pthread > /dev/null 2>&1; then
        cat
    else
        sed "s/^libopenblas0-pthread$/libopenblas-base/"
    fi
}

# The packages for a base image that has a Caffe: none of Caffe; none for Python, because its modules may not fit this Python
# or its numpy; and no BLAS, because it would replace the one that this Caffe uses.
packages_beside_caffe() {
    CAFFE_PACKAGES="" packages | grep -vE "^(python3-|libopenblas)"
    has_module pip || echo python3-pip
}

check_base() {
    has_module caffe || fail "python3 of the base image does not find Caffe, and CAFFE_PACKAGES is empty: choose a base image" \
        "with pycaffe on its PYTHONPATH, or name the Debian packages of Caffe in CAFFE_PACKAGES"
    python -c "import sys; sys.exit(sys.version_info < (3, 7))" ||
        fail "the base image has $(python -V), but LRBench needs Python 3.7 or later: choose a newer base image"
}

apt() {
    local list=packages
    if [[ ! ${CAFFE_PACKAGES-default} ]] || has_module caffe; then
        check_base
        has_module pip || python -m ensurepip || true  # a Python that is not the distribution's brings its own pip
        list=packages_beside_caffe
    fi
    [[ ${SECTIONS-main} == main ]] || add_sections "$SECTIONS"
    dpkg_options > /etc/dpkg/dpkg.cfg.d/lrbench
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    $list | rename_blas | xargs apt-get install --yes --no-install-recommends
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb
}

# Keep numpy and protobuf, which pycaffe is compiled against, and the other packages that it imports.
install_python_packages() {
    local constraints module missing=()
    constraints=$(mktemp)
    python -m pip list --format freeze --disable-pip-version-check |
        grep -iE "^(numpy|protobuf|scipy|scikit[-_.]image|six)==" > "$constraints" || true
    for module in "${modules[@]}"; do
        has_module "${module%=*}" || missing+=("${module#*=}")
    done
    export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0  # override the user's settings on the host
    export PIP_BREAK_SYSTEM_PACKAGES=1  # newer distributions require it; none of their packages is replaced
    unset PIP_TARGET PIP_PREFIX
    python -c "import pip; exit(int(pip.__version__.split('.')[0]) < 20)" ||  # Debian 10's pip cannot install today's wheels
        python -m pip install --no-cache-dir "pip==24.0"
    python -m pip install --no-cache-dir --disable-pip-version-check --prefer-binary --constraint "$constraints" \
        "${python_packages[@]}" "${missing[@]}"
    rm "$constraints"
}

# A program rather than "python3 -m", which would let Python import modules from the current directory.
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
    rm -rf /etc/postgresql/* /var/lib/postgresql/* /var/log/postgresql/*  # Debian's own cluster
}

case ${1-} in
    packages) packages ;;
    dpkg-options) dpkg_options ;;
    apt) apt ;;
    finish) finish ;;
    *) sed -n "s/^# \?//; 2,/^set/p" "${BASH_SOURCE[0]}" | grep -v ^set; exit 2 ;;
esac
