#!/bin/sh
# tensorflow_model_server in its official image, for where the program itself is not installed:
#   --option tfserving.binary=cluster/serving/in_docker.sh
# Flags go on as they are. The folder of the models is mounted where it lies, and the network is the machine's own, so
# that no address is translated on the way. IMAGE and DOCKER name another image and another program (podman).
image=${IMAGE:-tensorflow/serving} folder=
for flag in "$@"; do
    case $flag in
        --model_config_file=* | --model_base_path=*) folder=$(dirname "${flag#*=}") ;;
    esac
done
set -- "$image" "$@"
[ -z "$folder" ] || set -- --volume "$folder:$folder:ro" "$@"
# --init: a process 1 that heeds the signal which is to end it.
exec "${DOCKER:-docker}" run --rm --init --network host --entrypoint tensorflow_model_server \
    --env TF_CPP_MIN_LOG_LEVEL --env MALLOC_MMAP_THRESHOLD_ --env MALLOC_TRIM_THRESHOLD_ --env MALLOC_TOP_PAD_ "$@"
