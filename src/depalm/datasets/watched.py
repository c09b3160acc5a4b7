"""Which files a manifest was made of, and whether they are still what they were.

The manifest's job notes every file that it looked at: {split}.files.parquet, a row for each with
its folder (annotations or media), its name, size, times and SHA-256; of a file that was not there,
no SHA-256. Before the DAG is built these files are looked at again: one whose size and times are as
noted is taken to be the same, any other one is read. If the content of one has changed,
{split}.state.json is written anew, which the manifest depends on. So an edit is noticed, also one
in place; what the manifest does not name is not looked at, and a copied or touched file that holds
what it held changes nothing.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from depalm.datasets.containers import ContainerError, container_of, read_inside
from depalm.errors import DamagedFile
from depalm.files import atomic_file, inside, read_json, sha256_file, sha256_json, write_json
from depalm.progress import Progress

READERS = 4  # files that are read at a time
Status = tuple[int, int, int]  # size, time of change and of its status, in ns; all 0 if not there
Key = tuple[str, str]  # folder (annotations, media), name in it
ABSENT: Status = (0, 0, 0)
COLUMNS = ("folder", "name", "size", "mtime_ns", "ctime_ns", "sha256")
TEXTS = ("folder", "name", "sha256")


class Seen(NamedTuple):
    """A file as it was: its status, and its SHA-256, empty if it was not there."""

    status: Status
    sha256: str


Files = Mapping[Key, Seen]


def status_of(path: str) -> Status:
    try:
        found = os.stat(path)  # noqa: PTH116 (of 100,000 files a Path takes longer than the look)
    except NotADirectoryError:  # it lies in a container, or nowhere
        container = container_of(Path(path))
        return ABSENT if container is None else status_of(str(container))
    except OSError:
        return ABSENT
    if not stat.S_ISREG(found.st_mode):
        return ABSENT  # a folder, or a pipe, which nobody may ever write to
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of a medium in a container. Raises OSError or ContainerError."""
    container = container_of(path)
    if container is None:
        return sha256_file(path)
    return hashlib.sha256(read_inside(path, container)).hexdigest()


def look(keys: Iterable[Key], folders: Mapping[str, Path], known: Files) -> dict[Key, Seen]:
    """The files as they are now. One whose status is that in `known` is not read again.

    Raises OutsideError for a name that leaves its folder.
    """
    now = {key: status_of(f"{folders[key[0]]}/{key[1]}") for key in keys}
    found = {
        key: Seen(status, "") if status == ABSENT else known[key]
        for key, status in now.items()
        if status == ABSENT or (key in known and known[key].status == status)
    }
    changed = [key for key in now if key not in found]
    paths = {key: inside(folders[key[0]], key[1]) for key in now if key not in known}
    paths |= {key: inside(folders[key[0]], key[1]) for key in changed}
    progress = Progress(len(changed), "hash", "file")

    def read(key: Key) -> Seen:
        try:
            return Seen(now[key], sha256_of(paths[key]))
        except (OSError, ContainerError):  # not there, or not ours to read
            return Seen(ABSENT, "")

    with ThreadPoolExecutor(READERS) as threads:
        for key, seen in zip(changed, threads.map(read, changed), strict=True):
            found[key] = seen
            progress.advance()
    return {key: found[key] for key in now}


def digest(files: Files) -> str:
    """What tells the content of the files from any other."""
    return sha256_json([[*key, seen.sha256] for key, seen in sorted(files.items())])


def write_files(path: Path | str, files: Files, state: str) -> None:
    """Note the files, and the content of the state that the manifest was made in."""
    import pyarrow as pa  # not before it is needed: a plan imports this module

    from depalm.parquet import write_parquet

    schema = pa.schema([(n, pa.string() if n in TEXTS else pa.int64()) for n in COLUMNS])
    rows = [(*key, *seen.status, seen.sha256) for key, seen in sorted(files.items())]
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [pa.array(list(c), f.type) for c, f in zip(columns, schema, strict=True)]
    table = pa.table(arrays, schema=schema.with_metadata({"state": state}))
    write_parquet(path, table)


def read_files(path: Path | str) -> tuple[dict[Key, Seen], str]:
    """What `write_files` noted. Raises OSError or DamagedFile."""
    from depalm.parquet import read_parquet

    table = read_parquet(path)
    folders, names, sizes, changed, altered, sums = (
        table.column(name).to_pylist() for name in COLUMNS
    )
    keys = zip(folders, names, strict=True)
    statuses = zip(sizes, changed, altered, strict=True)
    files = {
        key: Seen(status, sha256) for key, status, sha256 in zip(keys, statuses, sums, strict=True)
    }
    return files, (table.schema.metadata or {}).get(b"state", b"").decode()


def notice(record: Path, state: Path, folders: Mapping[str, Path]) -> None:
    """Write `state` anew if a file that `record` notes has changed since.

    Without a folder, such as that of a download that was removed since, nothing is looked for.
    Raises OSError if results/ cannot be written.
    """
    if not record.exists() or not all(folder.is_dir() for folder in folders.values()):
        if not state.exists():
            write_json(state, {"files": None})
        return
    try:
        noted, made_in = read_files(record)
    except (OSError, ValueError, DamagedFile):
        write_json(state, {"files": f"{record.name} was damaged"})
        return
    now = look(noted, folders, noted)
    same = now == noted or digest(now) == digest(noted)
    wanted = made_in if same else f'{{"files": "{digest(now)}"}}\n'
    if not state.exists() or state.read_text() != wanted:
        with atomic_file(state) as temporary:
            temporary.write_text(wanted)
    if same and now != noted:  # copied or touched: not to be read again next time
        write_files(record, now, made_in)


def model_state(state: Path, folder: Path, wanted: Callable[[Path], Sequence[str]]) -> None:
    """Write `state` anew, {name: SHA-256}, if a file in the folder of a model has changed; `wanted`
    names those that matter. Raises OSError if results/ cannot be written.
    """
    record = state.with_name(f".{state.stem}.files.parquet")
    try:
        known, _ = read_files(record)
    except (OSError, ValueError, DamagedFile):
        known = {}
    now = look([("model", name) for name in wanted(folder)], {"model": folder}, known)
    content = {name: seen.sha256 for (_, name), seen in now.items()}
    try:
        same = read_json(state) == content
    except (OSError, ValueError):
        same = False
    if not same:
        write_json(state, content)
    if now != known:
        write_files(record, now, "")
