"""Where the files that a configuration names are looked for.

A relative name, such as `config` in `parts` or `config/published.csv` in a table, is looked for in
these folders, in this order:

1. the caller's roots: the working directory, and for Snakemake the checkout of its Snakefile;
2. `depalm/shipped` of the installed package, which holds this repository's `config/`.

The first that has a file wins. In the root of a checkout all of them are the same.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

# a link to config/ in a checkout, a copy of it in a wheel
SHIPPED = Path(__file__).parents[1] / "shipped"


def places(names: Iterable[str], roots: Sequence[Path]) -> list[Path]:
    """The candidate paths of files and folders called `names`, the likeliest first, each once.

    An earlier name comes before a later one, wherever it is. A name that is an absolute path is in
    one place only.
    """
    found: dict[Path, Path] = {}
    for name in names:
        for root in (*roots, SHIPPED):
            found.setdefault((root / name).resolve(), root / name)
    return list(found.values())


def find(name: str, roots: Sequence[Path]) -> Path | None:
    """The first file called `name`; None if there is none."""
    return next((path for path in places([name], roots) if path.is_file()), None)
