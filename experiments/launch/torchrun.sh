#!/usr/bin/env bash
# One machine, a rank for each GPU:
#
#     experiments/launch/torchrun.sh 8 @experiments/recipes/ir101_ms1mv2.args --data_root data
#
# PYTHON names another interpreter than that of `make setup`.
set -euo pipefail

usage="usage: torchrun.sh RANKS [FLAGS OF main.py]"
ranks=${1:?$usage}
shift

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# torchrun passes a signal on, and kills what has not written its checkpoint in time.
exec "${PYTHON:-$root/.venv/bin/python}" -m torch.distributed.run \
    --standalone --nproc-per-node "$ranks" --shutdown-timeout 100 \
    "$root/main.py" --resume_from_checkpoint auto "$@"
