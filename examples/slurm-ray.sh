#!/bin/bash
# A study on SLURM: one Ray over the nodes of a job, and the study on it. Change the lines with #SBATCH, then
#
#     sbatch examples/slurm-ray.sh research/examples/paper-roberta.yaml /shared/runs/roberta
#
# The second path must be seen by all nodes; or give a URL such as s3://bucket/roberta. A job that runs into its time
# limit goes on when it is given again.
#SBATCH --job-name=intruders
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00

set -euo pipefail
# Since Slurm 22.05 srun does not take the cores of a task from sbatch, and would start Ray on one of them.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
study=$1
out=$2

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000))
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}'):$port

on_node() { srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" "${@:2}"; }

on_node "$head" ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_PER_TASK:-0}" --block &
sleep 20
for node in "${nodes[@]:1}"; do
    on_node "$node" ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_PER_TASK:-0}" --block &
done
sleep 20

on_node "$head" intruders study "$study" --out "$out" --ray "$address"
