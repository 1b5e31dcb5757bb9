"""A real SLURM of one node on the loopback, in a folder: munged, slurmctld and slurmd of Debian's slurm-wlm and munge.

    with Cluster(folder) as cluster:        # root is needed; seconds to start
        subprocess.run(["sinfo"], env=cluster.environment)

Two partitions share the node: ``low``, whose jobs are preempted (TERM, some seconds of grace, requeued) by those of
``high``. Nothing outside the folder is touched, and no port but three of the loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")

_START_SECONDS = 30.0

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,preempt_youngest_first
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
ReturnToService=2
KillWait=10
MinJobAge=60
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=high Nodes={host} Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    lacking = [name for name in PROGRAMS if _find(name) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "root is needed"


class Cluster:
    """A cluster of this machine, as long as the context lasts.

    Args:
        folder: an empty folder for all its files.
        cpus: cores that it believes to have.
    """

    def __init__(self, folder: Path, *, cpus: int = 2) -> None:
        self.folder, self.cpus = folder.absolute(), cpus
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o755)
        self._write_configuration()
        try:
            self._start_munge()
            self._start("slurmctld", "-D", "-i")
            self._start("slurmd", "-D")
            self._await("the node", lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%T"))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints, its errors included."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def stop(self) -> None:
        """Ends all jobs and daemons."""
        with suppress(OSError):
            self.ask("scancel", "--signal=KILL", "--user=root")
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _write_configuration(self) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        text = _CONF.format(
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            cpus=self.cpus,
            memory=int(memory * 0.9),
            ctld_port=_free_port(),
            slurmd_port=_free_port(),
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        subprocess.run([_program("mungekey"), "--create", f"--keyfile={key}"], check=True)
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        # Not started by root alone but with folders that others may write to above (/tmp): munged wants to be forced.
        self._start("munged", "--foreground", "--force", *options)
        self._await("munged", (folder / "socket").exists)

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as output:
            command = [_program(name), *arguments]
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def _await(self, what: str, holds: object) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not holds():  # type: ignore[operator]
            if time.monotonic() > deadline:
                logs = [path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.out")]
                logs += [path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log")]
                raise TimeoutError("\n".join([f"{what} did not come up:", *logs]))
            time.sleep(0.1)


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _program(name: str) -> str:
    found = _find(name)
    assert found is not None, name
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
