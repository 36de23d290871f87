# Sourced by docker/run: the environment as a Debian 11 tree in the user's cache directory.
# shellcheck shell=bash
# shellcheck disable=SC2154  # docker, project and cache are set by docker/run
#
# mmdebstrap unpacks Debian's packages into the tree, install.sh adds the Python packages, and bubblewrap makes the namespace
# ("the room") in which the tree is the root directory.

building=$cache/building  # an unfinished tree; the holder of the lock may remove it

# Install the programs that make and enter the tree, or name the missing ones.
require_tree_programs() {
    local missing=() log=$cache/apt.log
    type -P bwrap > /dev/null || missing+=(bubblewrap)
    [[ -d $tree ]] || type -P mmdebstrap > /dev/null || missing+=(mmdebstrap)
    ((EUID == 0)) || [[ -d $tree ]] || type -P newuidmap > /dev/null || missing+=(uidmap)
    ((${#missing[@]})) || return 0
    type -P apt-get > /dev/null || fail "Caffe's environment needs Docker or ${missing[*]}: install one of them"
    ((EUID == 0)) || fail "Caffe's environment needs ${missing[*]}: sudo apt-get install ${missing[*]}"
    note "installing ${missing[*]} with apt-get"
    mkdir -p "$cache"
    apt_install "${missing[@]}" > "$log" 2>&1 || fail "apt-get could not install ${missing[*]}, see $log"
}

apt_install() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@")
    "${install[@]}" || { apt-get update && "${install[@]}"; }
}

# Build the tree, or wait until another call has built it.
get_tree() {
    take_lock
    [[ -d $tree ]] || build_tree
    exec {lock}>&-
}

build_tree() {
    local log=$cache/tree.log
    check_user_ids
    remove_unfinished
    note "building Debian 11 with Caffe and PostgreSQL in $tree: once, about 1.5 minutes, 1.1 GB"
    mkdir "$building"
    if ! (bootstrap && finish) 2>&1 | show_progress "$log"; then
        tail -n 5 "$log" >&2
        fail "Caffe's environment could not be built, see $log"
    fi
    mv "$building/tree" "$tree"
    remove_unfinished
    note "built it in $SECONDS s"
}

# Without root, mmdebstrap uses the user ids that the system has reserved for each user.
check_user_ids() {
    ((EUID == 0)) && return
    local user file
    user=$(id -un)
    for file in /etc/subuid /etc/subgid; do
        grep -qsE "^($user|$EUID):" "$file" || fail "building Caffe's environment needs a range of user ids for $user" \
            "in $file: sudo usermod --add-subuids 200000-265535 --add-subgids 200000-265535 $user"
    done
}

# Remove an unfinished tree and mmdebstrap's working directory, whose files belong to other user ids unless root made them.
remove_unfinished() {
    local scratch
    if scratch=$(readlink "$building/scratch") && [[ -d $scratch ]]; then
        mmdebstrap --unshare-helper find "$scratch" -mindepth 2 -delete || true
        rm -rf "$scratch"
    fi
    rm -rf --one-file-system "$building"
}

# Unpack Debian's packages into $building/tree. Without root the tree is made as an archive and unpacked here: then its files
# belong to the user, who can remove them. mmdebstrap works in /var/tmp, because its user ids cannot enter a private home
# directory.
bootstrap() {
    local options=(--variant=apt --verbose --include="$("$docker/install.sh" packages | paste -sd,)") proxies
    DPKG_OPTIONS=$("$docker/install.sh" dpkg-options)
    export DPKG_OPTIONS  # mmdebstrap's own option for this is slower by 20 s
    # shellcheck disable=SC2016  # the hook's shell expands it
    options+=(--essential-hook='echo "$DPKG_OPTIONS" > "$1/etc/dpkg/dpkg.cfg.d/lrbench"')
    proxies=$(apt-config dump --format "%f \"%v\";%n" Acquire::http::Proxy Acquire::https::Proxy | grep -v '""' || true)
    [[ ! $proxies ]] || options+=(--aptopt="$proxies")
    mkdir "$building/tree"
    cd /
    if ((EUID == 0)); then
        unshare --mount mmdebstrap --mode=root "${options[@]}" bullseye "$building/tree"  # its mounts end with it
    else
        ln -s "$(mktemp -d /var/tmp/lrbench-caffe.XXXXXX)" "$building/scratch"
        chmod 755 "$building/scratch/"
        TMPDIR=$(readlink "$building/scratch") mmdebstrap --mode=unshare --format=tar "${options[@]}" bullseye - |
            tar --extract --directory="$building/tree" --exclude="./dev/*"
    fi
}

# A tree is named after everything that it is made from.
tree=$cache/bullseye-$( (cat "$docker"/{packages.txt,install.sh} && declare -f bootstrap) | fingerprint)

# Run the last step of install.sh inside the tree.
finish() {
    local room=() as_root=()
    furnish "$building/tree"
    ((EUID == 0)) || as_root=(--unshare-user --uid 0 --gid 0)
    set_environment
    bwrap "${room[@]}" "${as_root[@]}" "$docker/install.sh" finish
}

# Set room to bubblewrap's arguments for the tree $1 with the host's devices, processes, network and shared folders.
furnish() {
    local folder file
    room=(--bind "$1" / --dev-bind /dev /dev --bind /proc /proc --ro-bind /sys /sys --tmpfs /run)
    while IFS= read -r folder; do
        room+=(--bind-try "$folder" "$folder")
    done < <(shared_folders)
    [[ ! -e /etc/ssl/certs/ca-certificates.crt ]] || room+=(--ro-bind /etc/ssl/certs /etc/ssl/certs)
    for file in /etc/resolv.conf /etc/hosts /etc/pip.conf {SSL_CERT_FILE,REQUESTS_CA_BUNDLE,CURL_CA_BUNDLE,PIP_CERT}; do
        [[ $file == /* ]] || file=${!file-}
        [[ ! -f $file ]] || room+=(--ro-bind "$file" "$file")
    done
}

# Bubblewrap makes the room, and this process then enters it. So its process id, terminal, signals and exit status are the
# command's, and a server that the command starts outlives it. The tree itself is read-only.
run_in_tree() {
    local enter pid mount user
    coproc keeper { keep_room; }
    read -r pid <&"${keeper[0]}" || fail "bubblewrap could not enter $tree. Where users may not create namespaces, run as" \
        "root or use Docker"
    exec {mount}< "/proc/$pid/ns/mnt" {user}< "/proc/$pid/ns/user"
    eval "exec ${keeper[0]}<&- ${keeper[1]}>&-"
    # shellcheck disable=SC2154  # bash sets it with coproc
    wait "$keeper_PID" || true
    enter=(nsenter --mount="/proc/self/fd/$mount")
    ((EUID == 0)) || enter+=(--user="/proc/self/fd/$user" --preserve-credentials)
    set_environment
    # shellcheck disable=SC2016  # the inner shell expands it
    exec "${enter[@]}" bash -c "exec $mount<&- $user<&-;"' cd "$1" && shift && exec "$@"' docker/run "$PWD" "$@"
}

# Hold the room open until standard input ends, and print the process id that it can be found by.
keep_room() {
    local room=()
    furnish "$tree"
    if ((EUID != 0)); then  # the tree has no entry for this user
        room+=(--ro-bind-data 8 /etc/passwd --ro-bind-data 9 /etc/group)
        # shellcheck disable=SC2046  # one word for each group
        exec 8< <(cat "$tree/etc/passwd"; host_lines passwd "$EUID") 9< <(cat "$tree/etc/group"; host_lines group $(id -G))
    fi
    # shellcheck disable=SC2016  # the room's shell expands it
    exec bwrap "${room[@]}" --remount-ro / sh -c 'echo $$; read -r end'
}
