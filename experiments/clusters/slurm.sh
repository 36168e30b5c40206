#!/bin/bash
# A run on the nodes of a SLURM job: a process of Ray on each, the driver on the first.
#   sbatch experiments/clusters/slurm.sh
# When the time of the job is nearly up, the driver saves and ends with 75, and the job is queued again.
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=4 --time=04:00:00
#SBATCH --signal=B:TERM@60 --requeue --open-mode=append
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --overlap --nodes=1 --ntasks=1 --nodelist="$first" ray start --head --port=6379 --block &
sleep "${HEAD_SECONDS:-10}"
if [ "$SLURM_NNODES" -gt 1 ]; then
  srun --overlap --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$first" ray start --address="$first:6379" --block &
  sleep "${HEAD_SECONDS:-10}"
fi
jax-ssp run experiments/digits_ssp.py --runtime Ray --runtime.address auto --runtime.num-workers 16 --runtime.gpus-per-worker 1 --workdir runs/digits --checkpoint Checkpoints &
driver=$!
trap 'kill -TERM $driver' TERM  # the warning comes to this shell alone
wait $driver; code=$?
while kill -0 $driver 2>/dev/null; do wait $driver; code=$?; done  # the first wait ends with the warning
if [ $code = 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
