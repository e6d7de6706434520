#!/usr/bin/env bash
# A real Slurm on this machine, on loopback, for tests: cluster.sh up DIR [CPUS_PER_NODE] [NODES], cluster.sh down DIR.
# Needs root on Debian or Ubuntu (it installs slurm-wlm and munge when they are missing); no systemd, no cgroups.
# After `up`: export SLURM_CONF=DIR/slurm.conf and put DIR/bin first on PATH (it holds a sacct that needs no database).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
action=${1:?up or down}
dir=${2:?a state directory}
cpus=${3:-4}
count=${4:-1}
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

wait_for() { # seconds, command...
    local tries=$(($1 * 5)); shift
    for _ in $(seq "$tries"); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
    echo "gave up waiting for: $*" >&2
    return 1
}

all_idle() { [ "$(sinfo -h -N -o %t | sort -u)" = idle ]; }
queue_empty() { [ -z "$(squeue -h)" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }

down() {
    scancel -u "$(id -un)" 2>/dev/null || true
    wait_for 30 queue_empty || true
    sleep 1 # the last step's daemon leaves after the queue does
    for file in "$dir"/slurmd*.pid "$dir"/slurmctld.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        wait_for 10 gone "$pid" || kill -9 "$pid"
    done
}

start_munge() {
    if [ ! -s /etc/munge/munge.key ]; then
        (umask 077; head -c 1024 /dev/urandom >/etc/munge/munge.key)
        chown munge: /etc/munge/munge.key
    fi
    install -d -o munge -g munge -m 755 /run/munge
    munge -n >/dev/null 2>&1 || setsid runuser -u munge -- /usr/sbin/munged
    wait_for 10 munge -n
}

write_config() {
    # Several nodes are several slurmd on this host under their own names, which must resolve: JAX looks them up.
    nodes=""
    names=()
    for i in $(seq "$count"); do
        names+=("node$i")
        getent hosts "node$i" >/dev/null || echo "127.0.0.1 node$i" >>/etc/hosts
        nodes+="NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((16820 + i)) CPUs=$cpus RealMemory=8000"$'\n'
    done
    getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >>/etc/hosts
    # config_overrides: CPUs may exceed the hardware. cred_expire: a requeued job is otherwise held for two minutes.
    # FirstJobId: ids of an earlier cluster must not come again, or submitit reads that one's old results.
    cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=600
FirstJobId=$(($(date +%s) % 1000000 * 10 + 1))
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
${nodes}PartitionName=main Nodes=$(IFS=,; echo "${names[*]}") Default=YES MaxTime=INFINITE State=UP
CONF
}

up() {
    if ! command -v slurmctld >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
    fi
    mkdir -p "$dir/state" "$dir/bin"
    install -m 755 "$here/sacct" "$dir/bin/sacct"
    write_config
    start_munge
    slurmctld -c
    for i in $(seq "$count"); do mkdir -p "$dir/spool-node$i"; slurmd -N "node$i"; done
    wait_for 30 all_idle || { tail -n 20 "$dir"/*.log >&2; exit 1; }
}

case $action in
up) up ;;
down) down ;;
*) echo "cluster.sh up DIR [CPUS] [NODES] | down DIR" >&2; exit 2 ;;
esac
