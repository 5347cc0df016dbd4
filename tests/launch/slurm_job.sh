#!/bin/bash
# a run, as `brickyard launch slurm` submitted it.
#SBATCH --job-name='a run'
#SBATCH --chdir=/shared
#SBATCH --output='/shared/runs/a run/logs/slurm-%j.log'
#SBATCH --open-mode=append
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=96
#SBATCH --gpus-per-node=8
#SBATCH --partition=train
#SBATCH --account=llm
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --exclusive

module load cuda
export NCCL_DEBUG=WARN
export MOTTO='two words'
export PYTHONPATH='/shared/runs/a run/launches/0001/code'${PYTHONPATH:+:$PYTHONPATH}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

# SLURM sends SIGTERM to every rank when it preempts the job, and USR1 to this script when the time limit nears. At
# SIGTERM the ranks save after the step in hand and end; the job then waits for its next turn. SIGTERM to this script
# says that the job is cancelled.
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap 'cancelled=yes' TERM
preempted() { squeue --noheader --jobs="$SLURM_JOB_ID" --Format=PreemptTime | grep -q :; }

# Are all nodes fit? Each says what is wrong with it.
srun --cpu-bind=none --cpus-per-task=96 \
  bash -c '/shared/venv/bin/python -P -m launch launch check --gpus 8 -n 8 --nodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master "$MASTER_ADDR:$MASTER_PORT" '"'"'/shared/runs/a run/launches/0001/recipe.yaml'"'"' 2>&1 | sed -u "s/^/$SLURMD_NODENAME: /"; exit ${PIPESTATUS[0]}'
code=$?
[ "$code" != 2 ] || exit "$code"
! preempted || again=yes

restarts=0
pause=30
while [ -z "$cancelled$again" ]; do
  echo "launch: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, requeued ${SLURM_RESTART_COUNT:-0} times"
  srun --cpu-bind=none --cpus-per-task=96 --kill-on-bad-exit=1 \
    bash -c 'trap : TERM; /shared/venv/bin/python -P -m launch launch local -n 8 --nodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --master "$MASTER_ADDR:$MASTER_PORT" '"'"'/shared/runs/a run/launches/0001/recipe.yaml'"'"'; code=$?; [ $code = 143 ] || exit $code' &
  step=$!
  while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done # a signal to this script ends `wait`, too
  ! preempted || again=yes
  [ "$code" != 2 ] || exit "$code"
  [ -z "$cancelled$again" ] || break
  if [ "$code" = 0 ] || [ "$restarts" -ge 3 ]; then exit "$code"; fi
  restarts=$((restarts + 1))
  echo "launch: ended with exit code $code; restart $restarts of 3 in $pause s"
  sleep "$pause" &
  wait $! # a signal to this script is heeded at once here, and only after a `sleep` that is not in the background
  pause=$((pause * 2 < 600 ? pause * 2 : 600))
done
if [ -z "$cancelled" ]; then
  echo "launch: stopped and requeued"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
