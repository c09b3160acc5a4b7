"""A Slurm of one node on this machine, without accounting, for the tests that submit jobs."""

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
CONFIGURATION_FILES = (ETC / "slurm.conf", ETC / "gres.conf")
MARK = "# written by tests/support/slurm_site.py\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "setpriv")
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
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why Slurm cannot be started here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "Slurm is started by root only"
    foreign = [str(path) for path in CONFIGURATION_FILES if _foreign(path)]
    return f"this machine has a Slurm of its own: {', '.join(foreign)}" if foreign else None


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Run munge and Slurm until the end of the block.

    They write into `folder`; Slurm's configuration lies in /etc/slurm as long as they run.
    Slurms of several test processes on one machine wait for each other.

    Raises:
        RuntimeError: the node is not ready after a minute; the message has the ends of the logs.
    """
    with ExitStack() as at_the_end:
        at_the_end.enter_context(FileLock("/run/lock/depalm-slurm.lock"))
        at_the_end.callback(_remove_configuration)
        _configure(folder)
        for command in (
            # force: a test's folder is root's only, and so is everything that asks this munge
            ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key"]
            + [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
            + [f"--socket={folder}/munge.socket"],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-c"],
        ):
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


def _configure(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    settings = CONFIGURATION.format(host=node(), folder=folder, ports=_free_ports(2))
    texts = (settings, "Name=gpu File=/dev/null\n")
    ETC.mkdir(exist_ok=True)
    for path, text in zip(CONFIGURATION_FILES, texts, strict=True):
        path.write_text(MARK + text)


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
    logs = [f"{path.name}:\n{path.read_text()[-2000:]}" for path in folder.glob("*.output")]
    raise RuntimeError("Slurm's node is not ready after a minute\n" + "\n".join(logs))


def _end_jobs() -> None:
    """Cancel what is left, and wait until nothing of it runs."""
    subprocess.run(["scancel", "--user", "root"], check=False)
    deadline = time.monotonic() + 20
    while queue() and time.monotonic() < deadline:
        time.sleep(0.2)
