"""One cell of the comparison, and where its results are."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from depalm.config import paths

AXES = ("dataset", "fraction", "backbone", "llm", "method", "seed")
FILTERS = AXES[:-1]  # of tables, which have all seeds in one cell


@dataclass(frozen=True)
class Run:
    """One cell of the comparison: a value for each of AXES; `path` is where its results lie."""

    dataset: str
    fraction: str
    backbone: str
    llm: str
    method: str
    seed: int

    @classmethod
    def of(cls, names: Any) -> Self:
        """The run whose path has these names: wildcards of Snakemake's, or a match."""
        texts = {axis: names[axis] for axis in FILTERS}
        return cls(**texts, seed=int(names["seed"]))

    @property
    def path(self) -> str:
        return paths.RUN.format(**asdict(self))
