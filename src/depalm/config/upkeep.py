"""What a configuration's runs read of the token store, for its upkeep."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from depalm.cache.errors import CacheError
from depalm.cache.maintenance import held
from depalm.cache.store import read_receipt
from depalm.config import paths
from depalm.config.experiment import Config
from depalm.config.plan import manifest
from depalm.config.store_plan import StorePlan
from depalm.datasets.manifest import media_keys, read_manifest
from depalm.files import inside

RECEIPTS = paths.RECEIPT.replace("{view}", "*").format_map(
    dict.fromkeys(("dataset", "backbone", "split", "layers"), "*")
)


def receipts() -> list[Path]:
    """All receipts in the working directory's results."""
    return sorted(path for path in Path().glob(RECEIPTS) if path.is_file())


def untrue(store: Path) -> list[Path]:
    """The receipts that tell of rows which the store lacks, and those that are damaged."""
    there: dict[str, tuple[Mapping[str, set[str]], set[str]]] = {}
    found = []
    for path in receipts():
        try:
            receipt = read_receipt(path)
        except CacheError:
            found.append(path)
            continue
        place = receipt["store"]
        if place not in there:
            there[place] = held(inside(store, place))
        rows, rejected = there[place]
        keys = set(_keys(path)) - rejected
        if any(keys - rows.get(array, set()) for array in receipt["arrays"]):
            found.append(path)
    return found


def _keys(receipt: Path) -> Iterable[str]:
    """The keys of the media that a receipt is about."""
    _, dataset, *_, split, _ = receipt.parts
    return media_keys(read_manifest(manifest(dataset, split))).values()


@dataclass(frozen=True)
class Reading:
    """The rows that runs read: keys by place in the store and array; and the receipts of theirs
    that are not there yet.
    """

    rows: dict[str, dict[str, set[str]]]
    missing: list[str]


def reading(configs: Iterable[Config]) -> Reading:
    """The rows that the runs of some configurations read, as far as receipts tell."""
    rows: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    missing = []
    for path in dict.fromkeys(p for config in configs for p in StorePlan(config).receipts()):
        if not Path(path).exists():
            missing.append(path)
            continue
        receipt = read_receipt(path)
        for array in receipt["arrays"]:
            rows[receipt["store"]][array].update(_keys(Path(path)))
    return Reading({place: dict(of) for place, of in rows.items()}, missing)
