# Sourced by docker/run: the environment as a Docker container.
# shellcheck shell=bash
# shellcheck disable=SC2154  # docker, project and cache are set by docker/run
#
# An engine ends all processes of a container with its first one. So each user has one container that keeps running, and
# every command joins it: a PostgreSQL server that one command starts is still there for the next.

image=lrbench-caffe:$(fingerprint "$docker"/{packages.txt,install.sh,Dockerfile})

# An engine on another machine cannot use this machine's files.
docker_is_installed() {
    type -P docker > /dev/null && [[ ${DOCKER_HOST-unix:} == unix:* ]]
}

engine_answers() {
    timeout 5 docker version > /dev/null 2>&1
}

image_exists() {
    timeout 5 docker image inspect "$image" > /dev/null 2>&1
}

# Build the image, or wait until another call has built it.
get_image() {
    local status=0
    take_lock
    image_exists || build_image || status=1
    exec {lock}>&-
    return $status
}

build_image() {
    local log=$cache/image.log options=() file
    for file in /etc/ssl/certs/ca-certificates.crt "${PIP_CERT-}"; do
        [[ ! -f $file ]] || options+=(--secret "id=ca,src=$file")
    done
    for file in /etc/pip.conf ~/.config/pip/pip.conf "${PIP_CONFIG_FILE-}"; do
        [[ ! -f $file ]] || options+=(--secret "id=pip,src=$file")
    done
    note "building the container image $image with Caffe and PostgreSQL: once, about 2 minutes, 1.1 GB"
    if ! DOCKER_BUILDKIT=1 docker build --network host --target environment --tag "$image" --file "$docker/Dockerfile" \
        --progress plain --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
        "${options[@]}" "$project" 2>&1 | show_progress "$log"; then
        note "the image could not be built, see $log; using a Debian 11 tree instead"
        return 1
    fi
    note "built it in $SECONDS s"
}

# Set container_options to the options of this user's container, and container to a name that depends on them and the image.
name_container() {
    local folder group
    container_options=(--user "$EUID:$(id -g)" --pid host --ipc host --network host --security-opt label=disable)
    for group in $(id -G); do
        container_options+=(--group-add "$group")
    done
    while IFS= read -r folder; do
        container_options+=(--mount "type=bind,source=$folder,target=$folder")
    done < <(shared_folders)
    container=lrbench-caffe-$EUID-$(fingerprint <<< "$image ${container_options[*]}")
}

container_runs() {
    [[ $(timeout 5 docker container inspect --format "{{.State.Running}}" "$container" 2> /dev/null) == true ]]
}

# Start the container, or wait until another call has started it.
start_container() {
    take_lock
    if ! container_runs; then
        docker run --detach --rm --name "$container" "${container_options[@]}" "$image" sleep infinity > /dev/null {lock}>&-
        docker exec --interactive --user 0 "$container" sh -c "cat >> /etc/passwd" < <(host_lines passwd "$EUID")
        # shellcheck disable=SC2046  # one word for each group
        docker exec --interactive --user 0 "$container" sh -c "cat >> /etc/group" < <(host_lines group $(id -G))
    fi
    exec {lock}>&-
}

# The engine passes no signals to a command that joins a container. The command's process id is the host's, so this process
# can pass them on.
run_in_container() {
    local client options=(--interactive --workdir "$PWD") pid_file name signal status interrupted=yes
    client=$(type -P docker)
    set_environment
    for name in $(compgen -e); do
        options+=(--env "$name")
    done
    [[ ! -t 0 || ! -t 1 || ! -t 2 ]] || options+=(--tty)  # a tty of docker exec has no stderr of its own
    pid_file=$(mktemp /tmp/lrbench-caffe.XXXXXX)
    for signal in HUP INT QUIT TERM USR1 USR2; do
        # shellcheck disable=SC2064  # the name of the signal is that of this turn
        trap "interrupted=yes; pass_on $signal" "$signal"
    done
    # shellcheck disable=SC2016  # the container's bash expands it
    "$client" exec "${options[@]}" "$container" \
        bash -c 'echo $$ > "$1"; shift; exec "$@"' docker/run "$pid_file" "$@" <&0 &
    while [[ $interrupted ]]; do
        interrupted=""
        wait $! && status=0 || status=$?
    done
    rm -f "$pid_file"
    exit $status
}

pass_on() {
    while [[ ! -s $pid_file ]] && kill -0 $! 2> /dev/null; do
        sleep 0.1
    done
    kill -s "$1" "$(< "$pid_file")" 2> /dev/null || true
}
