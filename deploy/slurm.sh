#!/usr/bin/env bash
# Not run here (deploy/README.md). A Ray cluster over the nodes of an allocation: sbatch deploy/slurm.sh
#SBATCH --job-name=splitbench
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
set -euo pipefail

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(openssl rand -hex 32)

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port=6379 --num-cpus=0 --block &
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$address:6379" --block &
done
sleep 30  # Slurm has no event that says that Ray is ready

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    splitbench run --cluster "ray:$address:6379" --hosts "node-1:1,node-2:1" --transport grpc,tcp \
    --mode submodel --servers 2 --engine frozen --out "results/slurm-$SLURM_JOB_ID"
