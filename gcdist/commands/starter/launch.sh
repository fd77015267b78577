#!/bin/sh
# A master and WORKERS workers as processes of this machine; a worker that dies is started again.
#   sh launch.sh --set steps=500            one setting for one run
#   sh launch.sh --resume runs/FOLDER       go on with a run at its newest checkpoint
# On several machines (a file with a host a line; `gcdist launch ssh --help`):
#   gcdist launch ssh --hosts hosts.txt -- gcdist train config.toml
# Under torchrun, one process more than workers:
#   torchrun --standalone --nproc-per-node=PROCESSES --no-python gcdist train config.toml
set -eu
cd "$(dirname "$0")"
exec gcdist launch local -n WORKERS -- gcdist train config.toml "$@"
