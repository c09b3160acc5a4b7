"""A disk that is full: whoever finds it, the file is named, and what was there before is whole."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from depalm.datasets.manifest import Sample, write_manifest
from depalm.errors import DepalmError
from depalm.files import atomic_directory, atomic_file, write_checked
from depalm.generation.partial import Partial
from depalm.process import full_disk
from depalm.training.log import Taken, TrainingLog
from tests.support.shards import MEDIA, write

SIZE = 2**20  # of the disk, in bytes
LARGE = "x" * SIZE


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, in which a file already lies."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small file system is mounted by root only, on Linux")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_json(path: Path) -> None:
    write_checked(path, {"text": LARGE})


def fill_tensors(path: Path) -> None:
    with atomic_file(path) as temporary:
        save_file({"weight": torch.zeros(SIZE)}, temporary)


def fill_folder(path: Path) -> None:
    with atomic_directory(path) as folder:
        (folder / "a").write_text(LARGE)


def fill_manifest(path: Path) -> None:
    answers = [[os.urandom(SIZE // 8).hex()] for _ in range(9)]
    samples = [Sample(str(i), "0.jpg", "what?", a, "0" * 64) for i, a in enumerate(answers)]
    write_manifest(path, samples)


def fill_texts(path: Path) -> None:
    Partial(path, {}).add([0], [LARGE], 1.0)


def fill_curve(path: Path) -> None:
    with TrainingLog(path.parent, 0) as log:
        for step in range(1, 20_000):
            log.write(Taken(step, 1.0, 1e-3, 1.0, step, step, float(step)))
        log.flush()


def fill_store(path: Path) -> None:
    for _ in range(SIZE // 1000):
        write(path, MEDIA, batch_size=7)
        path.rename(path.with_name(os.urandom(8).hex() + path.suffix))


WRITERS: dict[str, Callable[[Path], None]] = {
    "scores.json": fill_json,
    "adapter.safetensors": fill_tensors,
    "model": fill_folder,
    "manifest.parquet": fill_manifest,
    "partial.jsonl": fill_texts,
    "train.jsonl": fill_curve,
}


# TensorBoard's own thread says it too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_it_is_named_and_what_was_there_is_whole(name: str, disk: Path) -> None:
    path, before = disk / name, b"as before"
    growing = WRITERS[name] in (fill_texts, fill_curve)
    if not growing:
        path.write_bytes(before)
    with pytest.raises(OSError, match="No space left") as raised:
        WRITERS[name](path)
    assert full_disk(raised.value) == f" for {path}"
    if not growing:
        assert path.read_bytes() == before
        assert [found.name for found in disk.iterdir()] == [name]


@pytest.mark.parametrize("suffix", [".zarr", ".tar"])
def test_a_shard_is_named_and_leaves_nothing(suffix: str, disk: Path) -> None:
    path = disk / f"shard{suffix}"
    with pytest.raises(
        DepalmError, match=rf"shard{suffix}: no space left on the disk; .*Make room"
    ):
        fill_store(path)
    assert not [found for found in disk.iterdir() if found.name.startswith(".")]
    assert not path.exists()
