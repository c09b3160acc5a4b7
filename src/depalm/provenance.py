"""Where a result came from: commit, versions and device, for train.json and scores.json."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from depalm import __version__

PACKAGES = ("depalm", "torch", "transformers", "timm", "zarr", "snakemake", "pycocoevalcap")


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU; any other name is taken as torch takes
    it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or the processor's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def commit(package: Path = Path(__file__).parent) -> str:
    """The commit of depalm's own checkout, with "+dirty" if tracked files differ; its version if it
    is installed without one. The folder that a job is started from does not matter.
    """
    git = ["git", "-C", str(package)]
    describe = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        for command in (["ls-files", "--error-unmatch", "__init__.py"], describe):
            result = subprocess.run(
                [*git, *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError):  # no git, or a package that git ignores
        return f"version {__version__}"
    return result.stdout.strip()


def versions() -> dict[str, str]:
    """The releases of PACKAGES, by name."""
    return {package: version(package) for package in PACKAGES}


def provenance(device: torch.device) -> dict[str, Any]:
    return {"commit": commit(), "versions": versions(), "device": device_name(device)}


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, as far as the bytes of a result depend on it, as JSON."""
    name = str(device) if device.type == "cpu" else device_name(device)
    return {"threads": torch.get_num_threads(), "device": name, "versions": versions()}
