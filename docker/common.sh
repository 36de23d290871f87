# Sourced by docker/run: messages, and what the container and the tree have in common.
# shellcheck shell=bash
# shellcheck disable=SC2154  # docker, project and cache are set by docker/run

note() {
    printf "docker/run: %s\n" "$*" >&2
}

fail() {
    note "$*"
    exit 1
}

# A hash of the files' contents (without arguments: of standard input) and of the machine's architecture.
fingerprint() {
    (cat "$@" && uname -m) | sha256sum | head -c 12
}

# Print the host's folders that keep their paths inside: all but those of the operating system itself.
shared_folders() {
    local folder
    for folder in /*/ /var/*/ /run/user/; do
        case $folder in
            /bin/ | /boot/ | /dev/ | /etc/ | /lib*/ | /lost+found/ | /proc/ | /run/ | /sbin/ | /sys/ | /usr/ | /var/) ;;
            /var/backups/ | /var/cache/ | /var/lib/ | /var/local/ | /var/lock/ | /var/log/ | /var/mail/ | /var/opt/) ;;
            /var/run/ | /var/spool/) ;;
            *) echo "${folder%/}" ;;
        esac
    done
    for folder in "${HOME-}" "$PWD" "$project"; do
        case $folder in
            /usr/src/* | /usr/local/src/* | /var/lib/?*) echo "$folder" ;;
        esac
    done
}

# Print PYTHONPATH for the inside: the project and the user's own modules, but no Caffe or numpy made for another Python.
python_path() {
    local path=$project folder IFS=:
    for folder in ${PYTHONPATH-}; do
        [[ -d $folder/caffe || -d $folder/numpy ]] || path+=:$folder
    done
    echo "$path"
}

# Print the host's time zone, because the inside has an /etc/localtime of its own: its name, or without a name the rule at
# the end of the file $1, such as CET-1CEST,M3.5.0,M10.5.0/3.
host_zone() {
    local file
    file=$(readlink -f "$1") || return 0
    if [[ $file == */zoneinfo/* ]]; then
        echo "${file##*/zoneinfo/}"
    elif [[ -f $file && $(head -c 5 "$file") == TZif[2-9] ]]; then
        tail -n 1 "$file"
    fi
}

set_environment() {
    PYTHONPATH=$(python_path)
    export PYTHONPATH PYTHONNOUSERSITE=1 LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    unset PYTHONHOME LD_LIBRARY_PATH LD_PRELOAD
    [[ ${TZ+set} ]] || TZ=$(host_zone /etc/localtime)
    [[ ! $TZ ]] || export TZ
}

# Print the host's lines of passwd or group for these ids: some programs, such as initdb, need the user's name.
host_lines() {
    ((EUID == 0)) || getent "$@" || true
}

# Only one call at a time builds the image or the tree. The lock is the file descriptor $lock.
take_lock() {
    mkdir -p "$cache"
    exec {lock}> "$cache/lock"
    if ! flock --nonblock "$lock"; then
        note "waiting for another call, which is building Caffe's environment"
        flock "$lock"
    fi
}

# Copy standard input to a log file and show progress: on a terminal the last line, elsewhere a line for each stage. When
# docker/run ends, the build ends too, because nothing reads its output any more.
show_progress() {
    local log=$1 line stage shown="" last=-9 width
    : > "$log"
    width=$(tput cols 2> /dev/null || echo 80)
    while IFS= read -r line && kill -0 $$ 2> /dev/null; do
        printf "%s\n" "$line" >> "$log"
        case $line in
            *Get:*) stage="downloading packages" ;;
            *"Unpacking "*) stage="unpacking packages" ;;
            *"Setting up "*) stage="setting up packages" ;;
            *"Collecting "*) stage="installing Python packages" ;;
            *) stage=$shown ;;
        esac
        if [[ -t 2 ]]; then
            printf "\r\e[K%4d s  %s" "$SECONDS" "${line:0:width - 9}" >&2
        elif [[ $stage != "$shown" ]] && ((SECONDS >= last + 9)); then
            printf "%4d s  %s\n" "$SECONDS" "$stage" >&2
            shown=$stage last=$SECONDS
        fi
    done
    [[ ! -t 2 ]] || printf "\r\e[K" >&2
}
