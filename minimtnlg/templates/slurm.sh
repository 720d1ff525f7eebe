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
{% else %}
# Beside other jobs. Yours: what a GPU's share of a node is.
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-gpu=64G
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

{% if resumes %}
# The run goes on from its newest checkpoint, if it has one: after a requeue, a failure, or when this
# script is submitted again. Of how much a failure takes, train.save_every decides.
command+=(--resume --out "$run")
{% else %}
# Runs of this engine can't be resumed: a requeued job starts again, in a folder beside the run's.
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -e "$run" ]; then
    run=$run-restart-$SLURM_RESTART_COUNT
    echo "restart: this engine can't resume a run; it starts again from step 0, in $run" >&2
fi
command+=(--out "$run")
{% endif %}

{% include "environment.sh" %}

# Rendezvous: where rank 0 waits for the others. This script and rank 0 are on the first node, whose
# address Slurm knows, also where the network has no name for it. The port is the job's own, below
# those that Linux hands out by itself (32768 to 60999), to srun for one; the next if someone listens.
MASTER_ADDR=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
while (: <>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; do
    MASTER_PORT=$((MASTER_PORT + 1))
done
export MASTER_ADDR MASTER_PORT
echo "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}:" \
    "rank 0 at $MASTER_ADDR:$MASTER_PORT, run $run"

# srun starts the ranks itself. torchrun on each node would add a process that watches them as srun
# does, and a long report below the one line that says what failed; its c10d rendezvous numbers the
# nodes by the alphabet of their addresses, not in Slurm's order, which can follow the network.
# - block: the first {{ gpus }} ranks on the first node, and so on, in Slurm's order of nodes.
# - label: each line of the log begins with its rank.
# - kill-on-bad-exit: when a rank fails, Slurm ends the others, by a TERM. The job's exit code is the
#   highest of all; so that it is that of the rank that failed, a rank ended by a TERM says 1, not
#   143. Not 0: a TERM that came from elsewhere has to end the job too. A rank in training saves and
#   ends by itself at a TERM or a USR1; both go to the shell around it as well, which has to stay.
{% if whole_nodes %}
# - cpu-bind=none: a rank may use any core of its node, not only one of its own.
{% else %}
# - SRUN_CPUS_PER_TASK: srun does not take over the job's number of cores by itself.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
{% endif %}
on_all_ranks() {
    srun --distribution=block --label --kill-on-bad-exit=1 {{ "--cpu-bind=none " if whole_nodes }}bash -c '
        export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
        export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE={{ gpus }}
        trap : TERM USR1
        "$@" || code=$?
        [ "${code:-0}" != 143 ] || code=1
        exit "${code:-0}"' rank "$@"
}

# Is the cluster fit? In minimtnlg's repository this says so, and ends the job if it isn't:
#on_all_ranks {{ python | sh }} scaling/probe.py

{% if resumes %}
again=
trap 'again=yes; echo "USR1: the run is saved"
    scancel --signal=USR1 $(squeue --noheader --steps --job="$SLURM_JOB_ID" --format=%i |
        grep "\.[0-9]") || echo "no step to signal"' USR1
{% else %}
trap 'echo "USR1: back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || echo "not requeued: going on until the time is up"' USR1
{% endif %}
on_all_ranks "${command[@]}" &
step=$!
# A signal ends `wait`, not the step.
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
code=0
wait "$step" || code=$?
{% if resumes %}
if [ -n "$again" ]; then
    echo "USR1: back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || echo "not requeued: submit this script again to go on"
fi
{% endif %}
exit "$code"
