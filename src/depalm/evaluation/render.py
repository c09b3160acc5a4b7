"""A result table as text: CSV for machines, Markdown, HTML and LaTeX for people."""

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from depalm.evaluation.metrics import METRICS
from depalm.evaluation.notes import MISSING
from depalm.evaluation.page import HTML_PAGE, HTML_STYLE
from depalm.evaluation.runs import read_published, read_runs
from depalm.evaluation.tables import (
    Cell,
    Column,
    Table,
    average_rank,
    average_score,
    build_table,
)
from depalm.files import atomic_file
from depalm.specs import TableSpec


class Entry(NamedTuple):
    """A cell of a printed table; the best of a column are printed bold."""

    text: str
    best: bool = False


class Grid(NamedTuple):
    """A printed table: the first `names` columns say what a row is, the others are numbers."""

    header: list[str]
    rows: list[list[Entry]]
    names: int


def write_table(
    paths: Iterable[Path | str],
    spec: TableSpec,
    outputs: Iterable[Path | str],
    published: Path | str | None = None,
    missing: Sequence[str] = (),
) -> None:
    """Aggregate scores.json files into the table of `spec`; write it to each of `outputs`.

    The ending of an output is its format, one of FORMATS. The scores in the CSV file `published`
    stand beside ours; the runs that are `missing` are named. Raises TableError.
    """
    beside = None if published is None else read_published(published)
    table = build_table(read_runs(paths), spec, beside, missing)
    for output in outputs:
        text = FORMATS[Path(output).suffix.removeprefix(".")](table)
        with atomic_file(output) as temporary:
            temporary.write_text(text, encoding="utf-8")


def lay_out(table: Table) -> Grid:
    """The printed columns: identities that vary, the method, scores, averages, seeds, cost."""
    runs = [table.runs(row) for row in table.rows]
    names = {
        "Backbone": [row.backbone for row in table.rows],
        "LLM": [row.llm for row in table.rows],
    }
    names = {title: values for title, values in names.items() if len(set(values)) > 1}
    names["Method"] = [of_row[0]["label"] for of_row in runs]
    columns = {title: [Entry(text) for text in values] for title, values in names.items()}
    for title, column in zip(column_titles(table.columns), table.columns, strict=True):
        cells = [table.cells[row, column] for row in table.rows]
        columns[title] = _entries(map(_score, cells), [cell.mean for cell in cells], decimals=2)
    if table.averaged:
        scores, ranks = average_score(table.means), average_rank(table.means)
        columns["Average score"] = _entries(map("{:.1f}".format, scores), scores, decimals=1)
        columns["Average rank"] = _entries(map("{:.1f}".format, ranks), -ranks, decimals=1)
    seeds = [
        {len(table.cells[row, column].scores) for column in table.columns} - {0}
        for row in table.rows
    ]
    parameters = [{run["trainable_parameters"] for run in of_row} for of_row in runs]
    seconds = [fmean(run["train_seconds"] for run in of_row) for of_row in runs]
    columns["Seeds"] = [Entry(_span(numbers)) for numbers in seeds]
    columns["Trainable parameters"] = [Entry(_span(numbers)) for numbers in parameters]
    columns["Train seconds"] = [Entry(f"{value:,.0f}") for value in seconds]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Grid(list(columns), rows, names=len(names))


def column_titles(columns: Sequence[Column]) -> list[str]:
    """Title of each score column: dataset, split if several, fraction if not all, metric."""
    several = len({column.split for column in columns}) > 1
    titles = []
    for column in columns:
        split = f" {column.split}" if several else ""
        fraction = "" if column.fraction == "100pct" else f" {column.fraction.replace('pct', '%')}"
        titles.append(f"{column.dataset}{split}{fraction} {METRICS[column.metric].title}")
    return titles


def _score(cell: Cell) -> str:
    mean = MISSING if cell.mean is None else f"{cell.mean:.2f}"
    deviation = "" if cell.deviation is None else f" ± {cell.deviation:.2f}"
    return mean + deviation + ("" if cell.published is None else f" [{cell.published:.2f}]")


def _entries(texts: Iterable[str], values: Iterable[float | None], decimals: int) -> list[Entry]:
    """Entries, those of the highest value marked; what is equal as printed is equal, and a value
    without another to compare it with is not the best.
    """
    printed = [None if value is None else round(value, decimals) for value in values]
    there = [value for value in printed if value is not None]
    best = max(there) if len(there) > 1 else None
    return [
        Entry(text, best is not None and value == best)
        for text, value in zip(texts, printed, strict=True)
    ]


def _span(numbers: set[int]) -> str:
    """The number, or the smallest and the largest of several; missing if there is none."""
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return "–".join(f"{number:,}" for number in ends) or MISSING


def to_csv(table: Table) -> str:
    """One line per row and column at full precision; averages as metrics of no dataset."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*CSV_HEADER])
    for row in table.rows:
        label = table.runs(row)[0]["label"]
        for column in table.columns:
            cell = table.cells[row, column]
            seeds = " ".join(map(str, cell.scores))
            parameters = " ".join(sorted({str(run["trainable_parameters"]) for run in cell.runs}))
            seconds = fmean(run["train_seconds"] for run in cell.runs) if cell.runs else None
            numbers = [cell.mean, cell.deviation, len(cell.scores), seeds, parameters, seconds]
            texts = map(_plain, (*row, label, *column))
            writer.writerow([*texts, *numbers, _plain(cell.reason), cell.published])
    if table.averaged:
        averages = {"average_score": average_score, "average_rank": average_rank}
        for name, average in averages.items():
            for row, value in zip(table.rows, average(table.means), strict=True):
                label = table.runs(row)[0]["label"]
                texts = map(_plain, (*row, label))
                writer.writerow([*texts, "", "", "", name, value, *[""] * 7])
    return stream.getvalue()


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, with the notes as a list."""
    grid = lay_out(table)
    lines = [[_markdown(title) for title in grid.header], _by_column(grid, ":--", "--:")]
    lines += [
        [f"**{_markdown(text)}**" if best else _markdown(text) for text, best in row]
        for row in grid.rows
    ]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {_markdown(note)}" for note in table.notes)
    return f"**{_markdown(table.title)}**\n\n{body}\n\n{notes}\n"


def to_html(table: Table) -> str:
    """A page of its own, without scripts or outside files, to be read alone or in a report."""
    grid = lay_out(table)
    kinds = _by_column(grid, ' class="name"', "")
    header = _tagged("th", kinds, map(_heading, grid.header))
    rows = "\n".join(f"<tr>{_tagged('td', kinds, map(_html, row))}</tr>" for row in grid.rows)
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    title = html.escape(table.title)
    return HTML_PAGE.format(title=title, style=HTML_STYLE, header=header, rows=rows, notes=notes)


def to_latex(table: Table) -> str:
    """A table environment for the package booktabs."""
    grid = lay_out(table)
    lines = [" & ".join(map(_latex, grid.header)) + r" \\"]
    lines += [
        " & ".join(rf"\textbf{{{_latex(text)}}}" if best else _latex(text) for text, best in row)
        + r" \\"
        for row in grid.rows
    ]
    notes = "\n\n".join(rf"{{\footnotesize {_latex(note)}}}" for note in table.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{''.join(_by_column(grid, 'l', 'r'))}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
            notes,
            r"\end{table}",
            "",
        ]
    )


def _by_column(grid: Grid, name: str, number: str) -> list[str]:
    """`name` for each column of names, `number` for each of numbers."""
    return [name] * grid.names + [number] * (len(grid.header) - grid.names)


def _markdown(text: str) -> str:
    """Text on one line, without markup or links of its own."""
    return re.sub(r"([\\|*_`<>])", r"\\\1", one_line(text)).replace("](", "]\\(")


def _tagged(tag: str, kinds: Sequence[str], texts: Iterable[str]) -> str:
    cells = zip(kinds, texts, strict=True)
    return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in cells)


def _heading(text: str) -> str:
    """A heading that is broken between words, and not at the hyphen of BLEU-4."""
    return re.sub(r"(\S*-\S*)", r'<span class="whole">\1</span>', html.escape(text))


def _html(entry: Entry) -> str:
    text = html.escape(entry.text)
    return f"<strong>{text}</strong>" if entry.best else text


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in one_line(text))


def one_line(text: str) -> str:
    """Text without line breaks, which would end a cell."""
    return " ".join(text.splitlines())


def _plain(text: str) -> str:
    """A cell of text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


CSV_HEADER = (
    *("backbone", "llm", "method", "label", "dataset", "split", "fraction", "metric"),
    *("mean", "std", "n", "seeds", "trainable_parameters", "train_seconds", "unavailable"),
    "published",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}
FORMATS: dict[str, Callable[[Table], str]] = {
    "csv": to_csv,
    "md": to_markdown,
    "html": to_html,
    "tex": to_latex,
}
