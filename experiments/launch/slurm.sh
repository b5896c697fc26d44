#!/bin/bash
# One sweep over all GPUs of a Slurm job:
#
#     sbatch --nodes=8 --gpus-per-node=8 --ntasks-per-node=8 experiments/launch/slurm.sh \
#         experiments/masters_luschi_2018/fig08.py --workdir runs/fig08
#
# Many independent parts of a grid, one per array task (here: one seed each), without any network
# between them:
#
#     sbatch --array=0-99 experiments/launch/slurm.sh \
#         experiments/masters_luschi_2018/fig08.py --workdir 'runs/fig08-seed%a' \
#         --config.sweep.seed='(%a,)'
#
# %a in an argument becomes the number of the array task. The work directory must be on a file
# system that all nodes share. When time runs out, the sweep saves itself and the job goes back to
# the queue; it goes on from there, on as many GPUs as it then gets.

#SBATCH --job-name=sbt
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sbt-%A_%a.log

# One process per GPU: JAX takes the GPU whose number is the task's on its node, and finds the other
# processes through Slurm's variables. All GPUs of the node stay visible to each of them, hence
# --gpus-per-node above and never --gpus-per-task.

set -u

SBT=${SBT:-sbt} # or /path/to/.venv/bin/sbt
arguments=("${@//%a/${SLURM_ARRAY_TASK_ID:-0}}")

srun --kill-on-bad-exit=1 "$SBT" run "${arguments[@]}"
code=$?

# 130: interrupted, everything saved.
if [[ $code -eq 130 ]]; then
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
  else
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
