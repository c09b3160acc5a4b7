"""One cell of the comparison, and where its results are."""

from dataclasses import dataclass

AXES = ("dataset", "fraction", "backbone", "llm", "method")  # of a run, besides its seed


@dataclass(frozen=True)
class Run:
    """One cell of the comparison; `path` is where its results lie."""

    dataset: str
    fraction: str
    backbone: str
    llm: str
    method: str
    seed: int

    @property
    def path(self) -> str:
        return (
            f"results/{self.dataset}/runs/{self.fraction}/{self.backbone}+{self.llm}/"
            f"{self.method}/seed{self.seed}"
        )
