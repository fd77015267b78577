#!/bin/sh
# One static torchrun agent for one process; README.md beside this file says how to use it.
#
#   agent.sh RANK WORLD_SIZE MASTER_ADDR MASTER_PORT -- gcdist train my.toml
#
# RESTARTS: times a process that died is started again (100); TORCHRUN: the program (torchrun).
set -eu
if [ $# -lt 6 ] || [ "$5" != -- ]; then
    echo "usage: agent.sh RANK WORLD_SIZE MASTER_ADDR MASTER_PORT -- COMMAND ..." >&2
    exit 2
fi
rank=$1 world=$2 address=$3 port=$4
shift 5
exec "${TORCHRUN:-torchrun}" --nnodes="$world" --nproc-per-node=1 --node-rank="$rank" --master-addr="$address" \
    --master-port="$port" --max-restarts="${RESTARTS:-100}" --no-python "$@"
