"""What it costs to look for edits before a run, against reading all files anew.

A manifest of 100,000 media files of 20 kB in 100 folders is made; then its files are looked at as
Snakemake does before it builds the DAG: as they were, and after all were copied or touched, which
takes reading them once.

Usage: python bench/edits.py [files] [bytes]
"""

import os
import sys
import tempfile
from pathlib import Path

from setting import seconds

from depalm.datasets.watched import look, notice, write_files

ROUNDS = 3


def main(files: int, size: int) -> None:
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        for i in range(files):
            path = folder / "data" / f"{i % 100}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(i.to_bytes(8, "big") + bytes(size - 8))
        folders = {"annotations": folder / "data", "media": folder / "data"}
        keys = [("media", f"{i % 100}/{i}.jpg") for i in range(files)]
        record, state = folder / "files.parquet", folder / "state.json"
        notice(record, state, folders)
        read = seconds(lambda: write_files(record, look(keys, folders, {}), "{}"), 1, 0)
        write_files(record, look(keys, folders, {}), state.read_text())
        same = seconds(lambda: notice(record, state, folders), ROUNDS)
        for folder_name, file in keys:
            os.utime(folders[folder_name] / file)
        touched = seconds(lambda: notice(record, state, folders), 1, 0)
    print(f"{files} files of {size / 1e3:.0f} kB, read for the manifest: {read:.1f} s")
    print(f"looked at as they were: {same:.2f} s, {same / read:.1%} of reading them")
    print(f"looked at after all were touched: {touched:.1f} s, once")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["100000", "20000"][len(sys.argv) - 1 :])))
