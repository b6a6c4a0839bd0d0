#!/usr/bin/env bash
# Several machines, the same command on each of them, in any order:
#
#     experiments/launch/torchrun_nodes.sh node0:29500 2 8 @experiments/recipes/ir101_ms1mv2.args --data_root /shared/data
#
# HOST:PORT is where they meet, a free port of one of them. PYTHON names another interpreter than that of `make setup`.
set -euo pipefail

usage="usage: torchrun_nodes.sh HOST:PORT NODES RANKS_PER_NODE [FLAGS OF main.py]"
meeting=${1:?$usage} nodes=${2:?$usage} ranks=${3:?$usage}
shift 3

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# The group is fixed: a node that is lost ends the run, and all are started again from the last checkpoint.
exec "${PYTHON:-$root/.venv/bin/python}" -m torch.distributed.run \
    --nnodes "$nodes" --nproc-per-node "$ranks" --max-restarts 0 --shutdown-timeout 100 \
    --rdzv-backend c10d --rdzv-endpoint "$meeting" --rdzv-id "${RUN_ID:-maskwise}" \
    "$root/main.py" --resume_from_checkpoint auto "$@"
