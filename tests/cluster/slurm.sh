#!/usr/bin/env bash
# Run Slurm on one machine, with virtual nodes of the paper's GPU types: h100:8, h200:1, a10g:4, and a CPU node.
#
#   tests/cluster/slurm.sh up DIR     install if needed (Debian, root), start, wait until all nodes are idle
#   tests/cluster/slurm.sh down DIR   stop the daemons that `up DIR` started
#
# A GPU is an empty file: Slurm schedules jobs by GPU type and number, and the jobs compute on the CPU.
# The state of all daemons is in DIR; `up` does nothing if the cluster is running.
set -euo pipefail
action=${1:?up or down} root=$(realpath -m "${2:?directory for the state}")
export SLURM_CONF=$root/slurm.conf
host=$(hostname -s)

configure() {
  mkdir -p "$root"/{state,spool,gpus,log}
  for gpu in h100-{0..7} h200-0 a10g-{0..3}; do touch "$root/gpus/$gpu"; done
  cat >"$root/slurm.conf" <<CONF
ClusterName=virtual
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$root/munge.socket
SlurmUser=root
SlurmctldPort=16817
StateSaveLocation=$root/state
SlurmctldPidFile=$root/slurmctld.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdSpoolDir=$root/spool/%n
SlurmdPidFile=$root/slurmd-%n.pid
SlurmdLogFile=$root/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill,UsePss
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$root/log/jobs.txt
MinJobAge=3600
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmctldTimeout=300
MessageTimeout=90
SlurmdTimeout=30
KillWait=15
MpiDefault=none
NodeName=h100 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=64 RealMemory=1000000 Gres=gpu:h100:8 State=UNKNOWN
NodeName=h200 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=64 RealMemory=1000000 Gres=gpu:h200:1 State=UNKNOWN
NodeName=a10g NodeHostname=$host NodeAddr=127.0.0.1 Port=17003 CPUs=64 RealMemory=1000000 Gres=gpu:a10g:4 State=UNKNOWN
NodeName=cpu NodeHostname=$host NodeAddr=127.0.0.1 Port=17004 CPUs=64 RealMemory=1000000 State=UNKNOWN
PartitionName=gpu Nodes=h100,h200,a10g MaxTime=INFINITE State=UP
PartitionName=cpu Nodes=cpu Default=YES MaxTime=INFINITE State=UP
CONF
  cat >"$root/gres.conf" <<CONF
NodeName=h100 Name=gpu Type=h100 File=$root/gpus/h100-[0-7]
NodeName=h200 Name=gpu Type=h200 File=$root/gpus/h200-0
NodeName=a10g Name=gpu Type=a10g File=$root/gpus/a10g-[0-3]
CONF
}

up() {
  if ! command -v slurmctld munged >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
  fi
  if [ -f "$root/slurm.conf" ] && sinfo >/dev/null 2>&1; then echo "already up"; sinfo; return; fi
  configure
  # munged requires that its user owns the key, the socket and the log.
  install -d -o munge -g munge -m 0755 "$root/munge"
  [ -f "$root/munge/key" ] || { dd if=/dev/urandom of="$root/munge/key" bs=1024 count=1 status=none; chown munge:munge "$root/munge/key"; chmod 400 "$root/munge/key"; }
  chmod go-w "$root"
  runuser -u munge -- test -x "$root/munge" || { echo "$root: the user munge cannot enter this directory.  try: chmod o+x it and its parents" >&2; exit 1; }
  # Snakemake's jobs unset SLURM_* before they call srun, so the configuration must be at Slurm's default path.
  mkdir -p /etc/slurm
  if [ ! -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ]; then ln -sfn "$root/slurm.conf" /etc/slurm/slurm.conf; fi
  runuser -u munge -- munged --force --key-file="$root/munge/key" --socket="$root/munge/socket" \
    --pid-file="$root/munge/pid" --log-file="$root/munge/log" --seed-file="$root/munge/seed"
  ln -sfn "$root/munge/socket" "$root/munge.socket"
  slurmctld -c
  for node in h100 h200 a10g cpu; do slurmd -N "$node"; done
  for _ in $(seq 60); do
    [ "$(sinfo -h -N -o %T | grep -c '^idle$')" -ge 4 ] && { sinfo -N -o "%N %T %G"; return; }
    sleep 0.5
  done
  echo "not all nodes are idle after 30 s; see $root/log" >&2
  sinfo -R -N -o "%N %T %E" >&2
  exit 1
}

down() {
  for pid_file in "$root"/slurmd-*.pid "$root/slurmctld.pid" "$root/munge/pid"; do
    [ -f "$pid_file" ] && kill "$(cat "$pid_file")" 2>/dev/null || true
  done
  if [ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" = "$root/slurm.conf" ]; then rm /etc/slurm/slurm.conf; fi
}

"$action"
