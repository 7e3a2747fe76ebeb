"""A real Slurm of one node with pretended GPUs, all of it in one folder; for tests, as root.

Nothing is confined (no cgroups), but everything is booked: what a job asked for can be read from Slurm's own records.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_WIDE = Path("/etc/slurm/slurm.conf")  # the only place where a job step of Snakemake's plugin finds it
PROGRAMS = {"slurm-wlm": ("slurmctld", "slurmd", "sbatch", "srun"), "munge": ("munged",)}
ACCOUNTING_PROGRAMS = {"slurmdbd": ("slurmdbd",), "mariadb-server": ("mariadbd", "mariadb-install-db")}
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIGURATION = """
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# Schedule at once, and believe in more processors and memory than there are.
SchedulerParameters=batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
KillWait=2
SlurmctldTimeout=60
SlurmdTimeout=300
MinJobAge=3600
JobAcctGatherType=jobacct_gather/none
{accounting}
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=08:00:00 State=UP
PartitionName=gpu Nodes={host} MaxTime=08:00:00 State=UP
"""
# Refused by slurmctld where there is no database.
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStoragePass={root}/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[2]}
SlurmUser=root
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[3]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""
DATABASE_USER = """create database slurm_acct_db;
create user slurm@'127.0.0.1' identified by 'slurm';
create user slurm@localhost identified by 'slurm';
grant all on slurm_acct_db.* to slurm@'127.0.0.1';
grant all on slurm_acct_db.* to slurm@localhost;"""


def obstacle() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    if os.geteuid() != 0:
        return "a Slurm for tests needs root"
    for package, names in (PROGRAMS | ACCOUNTING_PROGRAMS).items():
        for name in names:
            if shutil.which(name, path=PATH) is None:
                return f"{name} is not installed; on Debian: apt-get install {package}"
    if SYSTEM_WIDE.exists() and _abandoned() is None:
        return f"this machine has a Slurm, of its own or of another run of the tests ({SYSTEM_WIDE})"
    return None


def _abandoned() -> Path | None:
    """Folder of a Slurm whose tests were killed before they could stop it."""
    folder = SYSTEM_WIDE.resolve().parent
    if not SYSTEM_WIDE.is_symlink() or not folder.name.startswith("mini_slurm."):
        return None
    owner = folder / "owner"
    alive = owner.is_file() and Path("/proc", owner.read_text()).exists()
    return None if alive else folder


def until(condition: Callable[[], object], *, seconds: float = 180, what: str = "") -> None:
    """Ask again and again; a loaded machine is given time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what or condition}"
        time.sleep(0.2)


@dataclass
class MiniSlurm:
    """Daemons, started in the foreground as children of this process, and their folder."""

    accounting: bool = False
    # Short, because sockets lie in it; not in a folder of pytest, whose names are long.
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mini_slurm.")))
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> "MiniSlurm":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel the jobs, stop the daemons, then whatever else still has this folder in its environment."""
        with suppress(AssertionError, subprocess.SubprocessError):
            self.ask("scancel", "--user=root")
            until(lambda: not self.ask("squeue", "--noheader", "--states=PD,R,CG"), seconds=20)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self.left_over():
            with suppress(ProcessLookupError):
                os.kill(process, 9)
        if SYSTEM_WIDE.is_symlink() and SYSTEM_WIDE.readlink() == self.root / "slurm.conf":
            SYSTEM_WIDE.unlink()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        # A job step of the plugin loses all names that begin with SLURM_.
        return {"SLURM_CONF": str(self.root / "slurm.conf"), "MINI_SLURM": str(self.root), "PATH": PATH}

    def ask(self, *command: str) -> str:
        """What a Slurm command says; it would wait for minutes where the daemons are gone."""
        return subprocess.run(
            command, env=os.environ | self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    def jobs(self, folder: Path) -> list[dict[str, str]]:
        """Slurm's records of the jobs of a workflow, in the order of submission."""
        lines = self.ask("scontrol", "--oneliner", "show", "job").splitlines()
        records = [dict(re.findall(r"([\w:/]+)=(\S*)", line)) for line in lines]
        here = [record for record in records if record.get("WorkDir") == str(folder)]
        return sorted(here, key=lambda record: int(record["JobId"]))

    def left_over(self) -> list[int]:
        """Processes, other than this one, that were started for this Slurm."""
        mark = f"MINI_SLURM={self.root}".encode()
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                with suppress(OSError):
                    if mark in (process / "environ").read_bytes():
                        found.append(int(process.name))
        return found

    def _start(self) -> None:
        if (abandoned := _abandoned()) is not None:
            MiniSlurm(root=abandoned).__exit__()
        self.root.chmod(0o755)
        (self.root / "owner").write_text(str(os.getpid()))
        for name in ("state", "spool", "mysql"):
            (self.root / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        values = {"root": self.root, "host": host, "ports": _free_ports(4)}
        accounting = ACCOUNTING.format(**values) if self.accounting else ""
        (self.root / "slurm.conf").write_text(CONFIGURATION.format(**values, accounting=accounting))
        (self.root / "cgroup.conf").write_text("CgroupAutomount=no\n")
        # Any character devices will do; Slurm only hands out their numbers.
        gres = (f"NodeName={host} Name=gpu File={device}\n" for device in ("/dev/null", "/dev/zero"))
        (self.root / "gres.conf").write_text("".join(gres))
        SYSTEM_WIDE.parent.mkdir(exist_ok=True)
        SYSTEM_WIDE.unlink(missing_ok=True)
        SYSTEM_WIDE.symlink_to(self.root / "slurm.conf")
        self._start_munge()
        if self.accounting:
            self._start_accounting(values)
        self._run("slurmctld", "-D", "-c")
        self._run("slurmd", "-D", "-c")
        until(self._idle, what=f"the node; {self._said()}")

    def _idle(self) -> bool:
        try:
            return self.ask("sinfo", "--noheader", "--partition=cpu", "--format=%t") == "idle"
        except subprocess.SubprocessError:
            return False

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._run("munged", "--foreground", "--force", *(f"--{o}={self.root}/munge.{n}" for o, n in names.items()))
        until((self.root / "munge.socket").exists, what="munge")

    def _start_accounting(self, values: dict[str, object]) -> None:
        data, connection = self.root / "mysql", f"--socket={self.root}/mysql.socket"
        self.ask("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db")
        where = [f"--datadir={data}", connection, f"--port={values['ports'][3]}", "--bind-address=127.0.0.1"]
        self._run("mariadbd", "--no-defaults", "--user=root", *where, "--innodb-buffer-pool-size=64M")
        client = ("mariadb", "--no-defaults", connection, "--user=root", "--execute")
        until(lambda: self._answers(*client, "select 1"), what="the database")
        self.ask(*client, DATABASE_USER)
        file = self.root / "slurmdbd.conf"
        file.write_text(DATABASE.format(**values))
        file.chmod(0o600)
        self._run("slurmdbd", "-D")
        until(lambda: self._answers("sacctmgr", "--noheader", "list", "cluster"), what="the accounting")
        for what in (("cluster", "mini"), ("account", "lab", "Cluster=mini"), ("user", "root", "Account=lab")):
            self._answers("sacctmgr", "--immediate", "add", *what)

    def _answers(self, *command: str) -> bool:
        try:
            self.ask(*command)
        except subprocess.SubprocessError:
            return False
        return True

    def _run(self, *command: str) -> None:
        with (self.root / f"{command[0]}.said").open("wb") as said:
            environment = os.environ | self.environment
            self.daemons.append(
                subprocess.Popen(command, env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
            )

    def _said(self) -> str:
        return "\n".join(file.read_text(errors="replace")[-1000:] for file in sorted(self.root.glob("*.said")))


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports
