"""One cell of the comparison, and where its results are."""

from dataclasses import asdict, dataclass

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

    @property
    def path(self) -> str:
        return paths.RUN.format(**asdict(self))
