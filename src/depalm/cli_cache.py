"""The command `depalm cache`: the upkeep of the token store; and `depalm overlap`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from depalm.cache import maintenance
from depalm.cache.errors import CacheError
from depalm.cache.formats import in_units
from depalm.cache.published import publish
from depalm.cli_options import add_configfile
from depalm.config import paths
from depalm.config.load import load_files
from depalm.config.plan import manifest
from depalm.config.upkeep import reading, receipts, untrue
from depalm.datasets.splits import overlap

STORE = Path(paths.STORE)


def show(options: argparse.Namespace) -> None:  # noqa: ARG001
    """Print what is in the store: by backbone and view, layer by layer, and who reads it."""
    row = "{:<40} {:<18} {:>9} {:>10}  {}".format
    print(row("backbone and view", "array", "media", "size", "read by"))
    total = 0
    for entry in maintenance.listing(STORE, receipts()):
        readers = ", ".join(entry.readers) or "-"
        print(row(entry.place, entry.array, f"{entry.media:,}", in_units(entry.bytes), readers))
        total += entry.bytes
    print(row("total", "", "", in_units(total), ""))


def verify(options: argparse.Namespace) -> None:
    """Read every row of the store, and say what is damaged. Raises CacheError if something is."""
    wrong = maintenance.verify(STORE, options.repair)
    told = untrue(STORE)
    for line in wrong:
        print(line)
    for path in told:
        print(f"{path}: the store lacks rows that it tells of")
    if options.repair:
        for path in told:
            _forget(path)
        print(f"{len(wrong)} faults, all taken out; Snakemake extracts what is missing")
    elif wrong or told:
        raise CacheError(
            f"{len(wrong) + len(told)} faults in {STORE}: `depalm cache verify --repair` takes "
            "them out, and Snakemake then extracts what is missing"
        )
    else:
        print("all rows are as they were written")


def _forget(path: Path) -> None:
    """Remove a receipt, and what says that its rows were extracted, so that they are again."""
    for report in sorted((path.parent / "extraction").glob("*/*.json")):
        report.unlink()
    path.unlink()


def prune(options: argparse.Namespace) -> None:
    """Remove rows that no run of the configurations reads, after a question."""
    read = reading(load_files([file], [Path()]) for file in options.configfile)
    for path in read.missing:
        print(f"{path} is not there: rows that only it would read count as unread")
    found = list(maintenance.unread(STORE, read.rows))
    for shard, keys, arrays, size in found:
        left = f"{len(keys)} media of {', '.join(arrays)} stay" if keys else "nothing stays"
        print(f"{shard.path}: {in_units(size)} that nobody reads; {left}")
    total = sum(size for *_, size in found)
    print(f"{in_units(total)} in all")
    if not found or options.dry_run:
        return
    if not options.yes and input("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing was removed")
        return
    for shard, keys, arrays, _ in found:
        with maintenance.while_nobody_claims(Path(shard.path).parent):
            maintenance.replace_shard(shard, keys, arrays)


def publish_store(options: argparse.Namespace) -> None:
    """Write the store to a folder for a web server or a Hub dataset."""
    count = publish(STORE, Path(options.folder), options.place or None)
    print(f"{count} shards in {options.folder}; set cache.url to where it is served")


def show_overlap(options: argparse.Namespace) -> None:
    """Print the media that stand in two splits of a dataset. Raises CacheError if there is none."""
    for name in options.dataset:
        for first, second in _pairs(name):
            found = overlap(first, second)
            print(f"{second}: {len(found.both)} of {found.total} media stand in {first} too")
            for there, here in found.both[: options.show]:
                print(f"  {here} is {there}")


def _pairs(dataset: str) -> Iterator[tuple[str, str]]:
    there = [s for s in ("train", "val", "test") if Path(manifest(dataset, s)).exists()]
    if len(there) < 2:
        raise CacheError(
            f"{dataset} has {len(there)} manifests in {paths.RESULTS}/{dataset}/manifest; two are "
            f"compared. To make one: snakemake {manifest(dataset, 'train')}"
        )
    for i, first in enumerate(there):
        for second in there[i + 1 :]:
            yield manifest(dataset, first), manifest(dataset, second)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `cache` and `overlap` to the command line."""
    summary = "Look after the token store in results/cache."
    cache = commands.add_parser("cache", help=summary, description=summary)
    actions = cache.add_subparsers(title="actions", required=True, metavar="ACTION")

    summary = "Print the size by backbone, view and layer, and which datasets read it."
    action = actions.add_parser("list", help=summary, description=summary)
    action.set_defaults(run=show, log=None)

    summary = "Read every row and compare its checksum; the exit code is 1 if one is damaged."
    action = actions.add_parser("verify", help=summary, description=summary)
    action.add_argument(
        "--repair", action="store_true", help="take damaged rows out, and the receipts of them"
    )
    action.set_defaults(run=verify, log=None)

    summary = "Remove rows that no configured run reads; asks first."
    action = actions.add_parser("prune", help=summary, description=summary)
    add_configfile(action, "configurations whose runs count, each by itself")
    action.add_argument("--dry-run", action="store_true", help="only print what would go")
    action.add_argument("--yes", action="store_true", help="do not ask")
    action.set_defaults(run=prune, log=None)

    summary = "Write the store as webdataset shards with an index, for cache.url."
    action = actions.add_parser("publish", help=summary, description=summary)
    action.add_argument("folder", metavar="FOLDER", help="what is to be served")
    action.add_argument(
        "--place", nargs="+", metavar="PLACE", help="backbone and view, as `list` prints; or all"
    )
    action.set_defaults(run=publish_store, log=None)

    summary = "Print the media that stand in two splits of a dataset, by their content."
    command = commands.add_parser("overlap", help=summary, description=summary)
    command.add_argument("dataset", nargs="+", metavar="DATASET", help="with manifests in results/")
    command.add_argument("--show", type=int, default=5, metavar="N", help="names to print (5)")
    command.set_defaults(run=show_overlap, log=None)
