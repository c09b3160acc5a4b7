"""A Slurm of one node on this machine, with accounting or without, for tests that submit jobs."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

# its default place, where job steps find it too: they get no SLURM_CONF
ETC = Path("/etc/slurm")
CONFIGURATION_FILES = (ETC / "slurm.conf", ETC / "gres.conf", ETC / "slurmdbd.conf")
MARK = "# written by tests/support/slurm_site.py\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")
ACCOUNTING_PROGRAMS = ("mariadb-install-db", "mariadbd", "slurmdbd", "sacctmgr")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# The node claims more than the machine has: jobs run side by side, and none waits for memory. Its
# GPU is no device: it only lets jobs ask for one.
CONFIGURATION = """\
ClusterName=depalm
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
{accounting}
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NO_ACCOUNTING = """\
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
"""
# finished jobs are forgotten after a moment, so that accounting must be asked how they ended
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
MinJobAge=30
"""
DATABASE_DAEMON = """\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=slurm
"""


def why_not(accounting: bool = False) -> str | None:
    """Why Slurm cannot be started here, with accounting or without, or None."""
    needed = (*PROGRAMS, *(ACCOUNTING_PROGRAMS if accounting else ()))
    missing = [program for program in needed if shutil.which(program, path=PATH) is None]
    if missing:
        packages = "slurm-wlm munge" + (" slurmdbd mariadb-server" if accounting else "")
        return f"{', '.join(missing)} missing: apt-get install {packages}"
    if os.geteuid() != 0:
        return "Slurm is started by root only"
    foreign = [str(path) for path in CONFIGURATION_FILES if _foreign(path)]
    return f"this machine has a Slurm of its own: {', '.join(foreign)}" if foreign else None


@contextmanager
def slurm(folder: Path, accounting: bool = False) -> Iterator[None]:
    """Run munge and Slurm until the end of the block; with `accounting` also its database, which
    has the account `mine`.

    They write into `folder`; Slurm's configuration lies in /etc/slurm as long as they run.
    Slurms of several test processes on one machine wait for each other.

    Raises:
        RuntimeError: the node is not ready after a minute; the message has the ends of the logs.
    """
    with ExitStack() as at_the_end:
        at_the_end.enter_context(FileLock("/run/lock/depalm-slurm.lock"))
        at_the_end.callback(_remove_configuration)
        database = _configure(folder, accounting)
        # force: a test's folder is root's only, and so is everything that asks this munge
        munge = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key"]
        munge += [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
        at_the_end.enter_context(_daemon(folder, [*munge, f"--socket={folder}/munge.socket"]))
        if accounting:
            _keep_accounts(folder, database, at_the_end)
        for command in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"]):
            at_the_end.enter_context(_daemon(folder, command))
        _wait_until_idle(folder)
        at_the_end.callback(_end_jobs)
        yield


def queue(*arguments: str) -> list[str]:
    """The lines of squeue, without its header."""
    command = ["squeue", "--noheader", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def control(*arguments: str) -> None:
    """Call scontrol, as the administrator."""
    subprocess.run(["scontrol", *arguments], check=True)


def node() -> str:
    return socket.gethostname().partition(".")[0]


def signal(job: str, name: str) -> None:
    """Send a signal to all processes of a job."""
    subprocess.run(["scancel", f"--signal={name}", "--full", job], check=True)


def _foreign(path: Path) -> bool:
    return path.exists() and not path.read_text().startswith(MARK)


def _configure(folder: Path, accounting: bool) -> int:
    """Write the configuration; returns the port of the database."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    *ports, port, database = _free_ports(4)
    accounts = ACCOUNTING.format(port=port, folder=folder) if accounting else NO_ACCOUNTING
    settings = CONFIGURATION.format(host=node(), folder=folder, ports=ports, accounting=accounts)
    daemon = DATABASE_DAEMON.format(host=node(), folder=folder, port=port, database=database)
    texts = (settings, "Name=gpu File=/dev/null\n", daemon)
    ETC.mkdir(exist_ok=True)
    for path, text in zip(CONFIGURATION_FILES, texts, strict=True):
        path.touch(mode=0o600)  # as slurmdbd demands
        path.write_text(MARK + text)
    return database


def _keep_accounts(folder: Path, port: int, at_the_end: ExitStack) -> None:
    """Start a database of its own below `folder`, and Slurm's daemon for it."""
    data = folder / "database"
    where = ["--no-defaults", "--user=root", f"--datadir={data}"]
    quiet = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    install = ["mariadb-install-db", *where, *quiet]
    subprocess.run(install, check=True, capture_output=True, env={**os.environ, "PATH": PATH})
    local = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/database.socket"]
    # by the network, whose address no other database of this machine has
    at_the_end.enter_context(_daemon(folder, ["mariadbd", *where, *local]))
    at_the_end.enter_context(_daemon(folder, ["slurmdbd", "-D"]))
    for what in (
        ["cluster", "depalm"],
        ["account", "mine", "Cluster=depalm"],
        ["user", "root", "Account=mine", "DefaultAccount=mine"],
    ):
        _until_done(folder, ["sacctmgr", "--immediate", "add", *what])


def _until_done(folder: Path, command: list[str]) -> None:
    """Repeat a command until it succeeds, a minute at most."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return
        time.sleep(0.5)
    raise RuntimeError(f"{command}: {done.stdout}{done.stderr}\n{_logs(folder)}")


def _remove_configuration() -> None:
    for path in CONFIGURATION_FILES:
        path.unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _daemon(folder: Path, command: list[str]) -> Iterator[None]:
    """A child that ends with the block, and with this process if it is killed."""
    log = folder / f"{command[0]}.output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": PATH},
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        if state.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    raise RuntimeError(f"Slurm's node is not ready after a minute\n{_logs(folder)}")


def _logs(folder: Path) -> str:
    ends = [f"{path.name}:\n{path.read_text()[-2000:]}" for path in folder.glob("*.output")]
    return "\n".join(ends)


def _end_jobs() -> None:
    """Cancel what is left, and wait until nothing of it runs."""
    subprocess.run(["scancel", "--user", "root"], check=False)
    deadline = time.monotonic() + 20
    while queue() and time.monotonic() < deadline:
        time.sleep(0.2)
