# node-a, which is then told by its stdin
#   to check:  /shared/venv/bin/python -P -m launch launch check -n 8 --nodes 4 --node-rank 0 --master node-a:23456 --gpus 8 '/shared/runs/a run/launches/0001/recipe.yaml'
#   to train:  /shared/venv/bin/python -P -m launch launch local -n 8 --nodes 4 --node-rank 0 --master node-a:23456 '/shared/runs/a run/launches/0001/recipe.yaml'
#   both with: OMP_NUM_THREADS=12 GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1 NCCL_DEBUG=WARN MOTTO='two words' WANDB_API_KEY=(as it is here)
ssh -T -o 'IdentityFile=~/.ssh/my cluster' -o BatchMode=yes -o ControlPath=none -o ClearAllForwardings=yes -o ConnectTimeout=20 -o ServerAliveInterval=20 -o ServerAliveCountMax=3 -p 2222 -l trainer node-a 'exec bash' <<'END'
{
refuse() { echo "$*"; exit 2; }
cd /shared 2>/dev/null || refuse 'there is no /shared: it must be on storage that all share'
[ -e '/shared/runs/a run/launches/0001/recipe.yaml' ] || refuse '/shared/runs/a run is not what it is where you launch: it must be on storage that all share'
module load cuda
export GREETING='two words'
[ -x "$(command -v /shared/venv/bin/python)" ] || refuse 'there is no /shared/venv/bin/python; `python` in cluster.yaml names another interpreter'
export PYTHONPATH='/shared/runs/a run/launches/0001/code'${PYTHONPATH:+:$PYTHONPATH}
exec /shared/venv/bin/python -P -m launch.ssh.host LOCK 60 300
}
END
# me@10.0.0.7, which is then told by its stdin
#   to check:  /shared/venv/bin/python -P -m launch launch check -n 8 --nodes 4 --node-rank 1 --master node-a:23456 --gpus 8 '/shared/runs/a run/launches/0001/recipe.yaml'
#   to train:  /shared/venv/bin/python -P -m launch launch local -n 8 --nodes 4 --node-rank 1 --master node-a:23456 '/shared/runs/a run/launches/0001/recipe.yaml'
#   both with: OMP_NUM_THREADS=12 GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1 NCCL_DEBUG=WARN MOTTO='two words' WANDB_API_KEY=(as it is here)
ssh -T -o 'IdentityFile=~/.ssh/my cluster' -o BatchMode=yes -o ControlPath=none -o ClearAllForwardings=yes -o ConnectTimeout=20 -o ServerAliveInterval=20 -o ServerAliveCountMax=3 -p 2222 -l trainer me@10.0.0.7 'exec bash' <<'END'
{
refuse() { echo "$*"; exit 2; }
cd /shared 2>/dev/null || refuse 'there is no /shared: it must be on storage that all share'
[ -e '/shared/runs/a run/launches/0001/recipe.yaml' ] || refuse '/shared/runs/a run is not what it is where you launch: it must be on storage that all share'
module load cuda
export GREETING='two words'
[ -x "$(command -v /shared/venv/bin/python)" ] || refuse 'there is no /shared/venv/bin/python; `python` in cluster.yaml names another interpreter'
export PYTHONPATH='/shared/runs/a run/launches/0001/code'${PYTHONPATH:+:$PYTHONPATH}
exec /shared/venv/bin/python -P -m launch.ssh.host LOCK 60 300
}
END
# node-c, which is then told by its stdin
#   to check:  /shared/venv/bin/python -P -m launch launch check -n 8 --nodes 4 --node-rank 2 --master node-a:23456 --gpus 8 '/shared/runs/a run/launches/0001/recipe.yaml'
#   to train:  /shared/venv/bin/python -P -m launch launch local -n 8 --nodes 4 --node-rank 2 --master node-a:23456 '/shared/runs/a run/launches/0001/recipe.yaml'
#   both with: OMP_NUM_THREADS=12 GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1 NCCL_DEBUG=WARN MOTTO='two words' WANDB_API_KEY=(as it is here)
ssh -T -o 'IdentityFile=~/.ssh/my cluster' -o BatchMode=yes -o ControlPath=none -o ClearAllForwardings=yes -o ConnectTimeout=20 -o ServerAliveInterval=20 -o ServerAliveCountMax=3 -p 2222 -l trainer node-c 'exec bash' <<'END'
{
refuse() { echo "$*"; exit 2; }
cd /shared 2>/dev/null || refuse 'there is no /shared: it must be on storage that all share'
[ -e '/shared/runs/a run/launches/0001/recipe.yaml' ] || refuse '/shared/runs/a run is not what it is where you launch: it must be on storage that all share'
module load cuda
export GREETING='two words'
[ -x "$(command -v /shared/venv/bin/python)" ] || refuse 'there is no /shared/venv/bin/python; `python` in cluster.yaml names another interpreter'
export PYTHONPATH='/shared/runs/a run/launches/0001/code'${PYTHONPATH:+:$PYTHONPATH}
exec /shared/venv/bin/python -P -m launch.ssh.host LOCK 60 300
}
END
# node-d, which is then told by its stdin
#   to check:  /shared/venv/bin/python -P -m launch launch check -n 8 --nodes 4 --node-rank 3 --master node-a:23456 --gpus 8 '/shared/runs/a run/launches/0001/recipe.yaml'
#   to train:  /shared/venv/bin/python -P -m launch launch local -n 8 --nodes 4 --node-rank 3 --master node-a:23456 '/shared/runs/a run/launches/0001/recipe.yaml'
#   both with: OMP_NUM_THREADS=12 GLOO_SOCKET_IFNAME=eth1 NCCL_SOCKET_IFNAME=eth1 NCCL_DEBUG=WARN MOTTO='two words' WANDB_API_KEY=(as it is here)
ssh -T -o 'IdentityFile=~/.ssh/my cluster' -o BatchMode=yes -o ControlPath=none -o ClearAllForwardings=yes -o ConnectTimeout=20 -o ServerAliveInterval=20 -o ServerAliveCountMax=3 -p 2222 -l trainer node-d 'exec bash' <<'END'
{
refuse() { echo "$*"; exit 2; }
cd /shared 2>/dev/null || refuse 'there is no /shared: it must be on storage that all share'
[ -e '/shared/runs/a run/launches/0001/recipe.yaml' ] || refuse '/shared/runs/a run is not what it is where you launch: it must be on storage that all share'
module load cuda
export GREETING='two words'
[ -x "$(command -v /shared/venv/bin/python)" ] || refuse 'there is no /shared/venv/bin/python; `python` in cluster.yaml names another interpreter'
export PYTHONPATH='/shared/runs/a run/launches/0001/code'${PYTHONPATH:+:$PYTHONPATH}
exec /shared/venv/bin/python -P -m launch.ssh.host LOCK 60 300
}
END
