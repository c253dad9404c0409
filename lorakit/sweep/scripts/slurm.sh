#!/usr/bin/env bash
#SBATCH --job-name=@@experiment
#SBATCH --array=1-@@shards
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=2
#SBATCH --mem=@@{gigabytes}G
#SBATCH --time=@@limit
#SBATCH --output=@@experiment-%A_%a.log
#SBATCH --requeue
@@about
# Submit it in the folder of the specs, on a disk that all nodes see, with the environment of @@name active. Name the
# card as your cluster does: --gres=gpu:NAME:1, or a partition.
set -euo pipefail
exec @@name run @@file --shard "$SLURM_ARRAY_TASK_ID/@@shards" @@options
