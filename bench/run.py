"""One table of speed: each row a ratio against a baseline of the same run.

Usage: python bench/run.py [--threads N] [--save FILE] [NAME...]; the names are those of RUNS.
"""

import argparse
from importlib import import_module
from pathlib import Path

import torch
from setting import HEAD, peak

from depalm import __version__
from depalm.process import keep_memory
from depalm.provenance import device_name

RUNS = ("start_up", "plan", "cache_read", "extract", "train_step", "generation", "scoring")


def main() -> None:
    parser = argparse.ArgumentParser(description="One table of speed.")
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], default=[], metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    keep_memory()  # as every job does
    torch.set_num_threads(asked.threads)
    lines = [
        f"{device_name(torch.device('cpu'))}, torch {torch.__version__}, depalm {__version__}; a "
        f"matrix product in float32: {peak() / 1e9:.0f} GFLOP/s\n",
        *HEAD,
    ]
    print("\n".join(lines), flush=True)
    for name in asked.names or RUNS:
        for row in import_module(name).rows():
            lines.append(str(row))
            print(row, flush=True)
    if asked.save is not None:
        asked.save.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
