"""How much there is of a split: from its manifest, or else from the dataset's `size`."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from depalm.specs import DatasetSpec

CHARACTERS = 4.0  # of English text, to a token
# texts of a dataset whose manifest is not there yet, in tokens
QUESTION, ANSWER, CAPTION = 8.0, 2.0, 12.0


@dataclass(frozen=True)
class Rows:
    """Samples of a split, their media, and the mean lengths of their texts in tokens (`answer`
    without EOS).
    """

    samples: int
    media: int
    prompt: float
    answer: float

    @property
    def text(self) -> float:
        """Positions of a text in training: BOS, prompt, answer; EOS is predicted alone."""
        return 1 + self.prompt + self.answer

    def part(self, share: float) -> "Rows":
        """So much of the samples, drawn at random."""
        each = self.samples / self.media
        left = self.media * (1 - (1 - share) ** each)  # media with a sample that is drawn
        count = max(1, round(share * self.samples))
        return Rows(count, min(count, max(1, round(left))), self.prompt, self.answer)


def rows_of_manifest(path: Path) -> Rows:
    table = pq.read_table(path, columns=["media", "prompt", "references"])
    references = pc.list_flatten(table["references"])
    lengths = [pc.mean(pc.utf8_length(column)).as_py() for column in (table["prompt"], references)]
    media = pc.count_distinct(table["media"]).as_py()
    return Rows(len(table), media, *(length / CHARACTERS for length in lengths))


def rows_of_size(spec: DatasetSpec, split: str, most: int | float | None) -> Rows | None:
    """The rows that `size` promises of a split, at most `most` (`data.max_rows`); None if the
    dataset has none.
    """
    size = spec.size.get(split)  # type: ignore[call-overload]
    if size is None:
        return None
    template = spec.templates.default
    asks = "{question}" in template
    around = len(template.replace("{question}", "")) / CHARACTERS
    rows = Rows(
        samples=size.samples,
        media=size.media,
        prompt=around + (QUESTION if asks else 0.0),
        answer=ANSWER if asks else CAPTION,
    )
    if most is None:
        return rows
    return rows.part(most if isinstance(most, float) else min(1.0, most / rows.samples))
