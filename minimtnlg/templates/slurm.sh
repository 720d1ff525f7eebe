#!/bin/bash
{% include "header.txt" %}
#
#     sbatch THIS_FILE
#
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ nodes }}
# A task is a rank. All of them see all GPUs of their node, and take the one of their local number.
#SBATCH --ntasks-per-node={{ gpus }}
#SBATCH --gpus-per-node={{ gpus }}
{% if whole_nodes %}
# With nobody else on the nodes: all of their cores and memory.
#SBATCH --exclusive
#SBATCH --mem=0
{% endif %}
# One log for all ranks; a job that was requeued goes on writing it.
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Ten minutes before the time is up, and where the cluster is set up so before a pre-emption, Slurm
# sends USR1 to this script, which puts the job back into the queue (see below).
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
# What your cluster may want to know:
##SBATCH --partition=...
##SBATCH --account=...

set -euo pipefail
cd {{ here | sh }}  # relative paths below start here; every node has to see the same files
run={{ run | sh }}
command=({{ python | sh }} -m minimtnlg {{ command | words }})

# A requeued job goes on where its run stopped, if the installed minimtnlg can resume a run. If not,
# it starts again, in a folder beside the run's.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -e "$run" ]; then
    if [[ "$({{ python | sh }} -m minimtnlg train --help)" == *--resume* ]]; then
        command+=(--resume)
    else
        run=$run-restart-$SLURM_RESTART_COUNT
    fi
fi
command+=(--out "$run")

{% include "environment.sh" %}

# Rendezvous: where rank 0 waits for the others. This script and rank 0 are on the first node, so a
# port that is free here is free for it. Slurm knows the node's address, whether it has a name in the
# network or not.
MASTER_ADDR=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
MASTER_PORT=$({{ python | sh }} -c \
    'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export MASTER_ADDR MASTER_PORT
echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}:" \
    "rank 0 at $MASTER_ADDR:$MASTER_PORT, run $run"

trap 'echo "USR1: back into the queue"; scontrol requeue "$SLURM_JOB_ID"' USR1

# srun starts the ranks itself. torchrun on each node would add a process that watches them as srun
# does, and a long report below the one line that says what failed; with its c10d rendezvous the
# nodes would get their numbers in the order in which they come.
# - block: the first {{ gpus }} ranks on the first node, and so on, in Slurm's order of nodes.
# - label: each line of the log begins with its rank.
# - kill-on-bad-exit: when a rank fails, Slurm ends the others, by a TERM. What they then say of
#   themselves (143) doesn't count, so the job's exit code is that of the training.
{% if whole_nodes %}
# - cpu-bind=none: a rank may use any core of its node, not only one of its own.
{% endif %}
srun --distribution=block --label --kill-on-bad-exit=1 {{ "--cpu-bind=none " if whole_nodes }}bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE={{ gpus }}
    trap : TERM
    "$@" || code=$?
    [ "${code:-0}" = 143 ] || exit "${code:-0}"' rank "${command[@]}" &
step=$!
code=0
wait "$step" || code=$?
exit "$code"
