#!/bin/sh
# Runs tensorflow_model_server in its official image, for machines on which the program itself is not installed:
#   --option tfserving.binary=cluster/model_servers/in_docker.sh
# The flags are passed on unchanged. The folder of the models is mounted at its own path, and the container uses the
# network of the machine, so no path or address changes. IMAGE and DOCKER name another image and program (podman).
image=${IMAGE:-tensorflow/serving} folder=
for flag in "$@"; do
    case $flag in
        --model_config_file=* | --model_base_path=*) folder=$(dirname "${flag#*=}") ;;
    esac
done
set -- "$image" "$@"
[ -z "$folder" ] || set -- --volume "$folder:$folder:ro" "$@"
# --init: otherwise the server is process 1, which ignores SIGTERM.
exec "${DOCKER:-docker}" run --rm --init --network host --entrypoint tensorflow_model_server \
    --env TF_CPP_MIN_LOG_LEVEL --env MALLOC_MMAP_THRESHOLD_ --env MALLOC_TRIM_THRESHOLD_ --env MALLOC_TOP_PAD_ "$@"
