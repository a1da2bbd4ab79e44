"""A real Slurm of one node, this machine, for as long as a test lasts: its own daemons, ports and folders."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=1,sched_interval=2
MpiDefault=none
ReturnToService=2
KillWait=20
MinJobAge=5
JobRequeue=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return why there can be no Slurm here; nothing if there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    missing = [program for program in _PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"{missing[0]} is not installed: apt-get install slurm-wlm"
    return "" if getpass.getuser() == "root" else "slurmd runs jobs of others only as root"


@contextlib.contextmanager
def one_node_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start a controller and a node, and yield the variables by which Slurm's commands find them."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    place = folder / "slurm.conf"
    place.write_text(
        _CONF.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            controller=_free_port(),
            daemon=_free_port(),
            folder=folder,
            cores=os.cpu_count(),
        )
    )
    variables = {"SLURM_CONF": str(place), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    environment = os.environ | variables
    daemons = []
    try:
        for name in ("slurmctld", "slurmd"):
            log = (folder / f"{name}.out").open("wb")
            daemons.append(
                subprocess.Popen(
                    [name, "-D", "-f", str(place)], env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )
            log.close()
        _wait_until_idle(environment, folder)
        yield variables
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=False, capture_output=True)
        _wait_until_empty(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_idle(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        told = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
        if told.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(place.read_text()[-2000:] for place in folder.glob("*.log"))
    raise TimeoutError(f"the node was never idle: {told.stdout} {told.stderr}\n{logs}")


def _wait_until_empty(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        told = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, text=True, check=False)
        if not told.stdout.strip():
            return
        time.sleep(0.2)
