"""A one-node Slurm on this machine from Debian's packages, in its own folder and on localhost only.

python -m tools.slurm up FOLDER       start it, and print how to use it
python -m tools.slurm down FOLDER     end it

Nothing outside the folder is changed: the daemons listen on free ports, and `FOLDER/bin` holds Slurm commands bound to
this Slurm, which Snakemake's jobs need because they run `srun` without the variable SLURM_CONF.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PACKAGES = ("slurm-wlm", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr")
PATIENCE = 60  # seconds for a daemon to answer
CPUS, MEMORY = 4, 8000  # what the node claims to have, the latter in MB

CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={worker}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
# A node that was away comes back by itself; what ran on it goes back into the queue.
ReturnToService=2
JobRequeue=1
SlurmdTimeout=10
KillWait=2
MinJobAge=300
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=2,sched_interval=5
SlurmdParameters=config_overrides
GresTypes=gpu
DefMemPerCPU=500
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 \
RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=24:00:00 State=UP
"""


class SlurmNode:
    """One node and its controller in `folder`. `up` and `down` are idempotent; `kill` is what a power cut does."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.configuration = self.folder / "slurm.conf"
        self.host = socket.gethostname().split(".")[0]
        self.environment = os.environ | {
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{self.folder / 'bin'}:/usr/sbin:{os.environ['PATH']}",
        }

    def up(self) -> None:
        """Start what does not run. Raises RuntimeError, with the end of the logs, if a daemon does not answer."""
        for name in ("munge", "state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not self.configuration.exists():
            self.configure()
        self.start_munge()
        self.start("slurmctld", "-D")
        self.wait(lambda: self.call("scontrol", "ping").returncode == 0, "slurmctld")
        self.restore()

    def configure(self) -> None:
        """Write the configuration with free ports, and the commands bound to it."""
        controller, worker = find_free_ports(2)
        values = {"name": self.folder.name[:40].lower(), "host": self.host, "folder": self.folder}
        values |= {"controller": controller, "worker": worker, "cpus": CPUS, "memory": MEMORY}
        self.configuration.write_text(CONFIGURATION.format(**values))
        # Slurm counts no GPU without a device file; any file will do, as no job here computes on one.
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        for name in COMMANDS:
            path = self.folder / "bin" / name
            bound = f"SLURM_CONF={shlex.quote(str(self.configuration))} exec {shutil.which(name)}"
            path.write_text(f'#!/bin/sh\n{bound} "$@"\n')
            path.chmod(0o755)

    def start_munge(self) -> None:
        """Start the daemon that signs Slurm's messages, with a key of its own."""
        folder = self.folder / "munge"
        folder.chmod(0o700)
        if not (folder / "key").exists():
            (folder / "key").write_bytes(os.urandom(128))
            (folder / "key").chmod(0o400)
        (folder / "socket").unlink(missing_ok=True) if not self.find("munged") else None
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.start("munged", "--foreground", "--force", *(f"--{key}={folder / name}" for key, name in options.items()))
        self.wait((folder / "socket").exists, "munged")

    def start(self, daemon: str, *options: str) -> None:
        """Start a daemon, unless it runs."""
        if self.find(daemon):
            return
        with (self.folder / f"{daemon}.out").open("a") as said:
            subprocess.Popen([daemon, *options], env=self.environment, stdout=said, stderr=said, start_new_session=True)

    def restore(self) -> None:
        """Bring the node back, and wait until it takes jobs."""
        self.start("slurmd", "-D", "-N", self.host)
        self.wait(lambda: self.read_state() in ("idle", "mixed", "allocated"), "slurmd")

    def kill(self) -> list[int]:
        """Kill the node's daemon and all it runs at once, unasked; the numbers of the jobs that ran."""
        running = self.call("squeue", "--noheader", "--states=running", "--format=%i").stdout.split()
        doomed = [*self.find("slurmd"), *self.find("slurmstepd")]
        doomed += [child for process in doomed for child in process.children(recursive=True)]
        for process in dict.fromkeys(doomed):
            send(process, signal.SIGKILL)
        psutil.wait_procs(doomed, timeout=10)
        return sorted(map(int, running))

    def down(self) -> None:
        """End every job and daemon."""
        if self.find("slurmctld"):
            self.call("scancel", "--user=root")
            self.wait(lambda: not self.call("squeue", "--noheader").stdout.strip(), "the end of jobs", raises=False)
        self.kill()
        for daemon in ("slurmctld", "munged"):
            found = self.find(daemon)
            for process in found:
                send(process, signal.SIGTERM)
            for process in psutil.wait_procs(found, timeout=10)[1]:
                send(process, signal.SIGKILL)

    def find(self, name: str) -> list[psutil.Process]:
        """The processes of this Slurm called `name`: those that have a file of its folder open, as all have a log."""
        found = []
        for process in psutil.process_iter(["name"]):
            try:
                if process.info["name"] == name and self.owns(process):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def owns(self, process: psutil.Process) -> bool:
        """Whether a process has a file of the folder open."""
        return any(Path(file.path).is_relative_to(self.folder) for file in process.open_files())

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands here."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)

    def read_state(self) -> str:
        """The node's state in Slurm's words."""
        return self.call("sinfo", "--noheader", "--format=%T").stdout.strip().rstrip("*$~#@^-")

    def wait(self, ready: Callable[[], bool], what: str, raises: bool = True) -> None:
        """Wait until `ready`, at most PATIENCE seconds."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if ready():
                return
            time.sleep(0.2)
        if raises:
            logs = "\n".join(path.read_text()[-800:] for path in sorted(self.folder.glob("*.log")))
            raise RuntimeError(f"{what} does not answer\n{logs}")

    def read_finished(self) -> list[dict[str, str]]:
        """The jobs that ended, a dictionary of Slurm's words each: JobId, JobState, StartTime, EndTime, ..."""
        path = self.folder / "jobs.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]


def send(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def find_free_ports(count: int) -> list[int]:
    """Ports of localhost that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def explain_absence() -> str:
    """Why Slurm cannot run here, after trying to install it; an empty string if it can."""
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "Slurm's daemons need root"
    if all(shutil.which(name, path=f"/usr/sbin:{os.environ['PATH']}") for name in (*DAEMONS, "sbatch")):
        return ""
    if shutil.which("apt-get") is None:
        return f"Slurm is not installed, and there is no apt-get to install {' '.join(PACKAGES)} with"
    subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=300)
    install = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    return f"Slurm cannot be installed: {done.stderr.strip()[-200:]}" if done.returncode else ""
