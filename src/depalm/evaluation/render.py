"""A result table as Markdown, HTML and LaTeX for people, and its files."""

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from depalm.evaluation.cells import Table
from depalm.evaluation.csv_files import to_csv, to_pairs
from depalm.evaluation.grid import Entry, Grid, lay_out
from depalm.evaluation.page import HTML_PAGE, HTML_STYLE, HTML_TABLE
from depalm.evaluation.runs import Published, Run, read_published, read_runs
from depalm.evaluation.samples import SampleScores, read_sample_scores, sample_file
from depalm.evaluation.significance import loader
from depalm.evaluation.tables import build_table
from depalm.files import atomic_file
from depalm.specs import TableSpec


class Marks(NamedTuple):
    """How the first three places of a column, and letters, are written."""

    places: tuple[str, str, str]
    letters: str


def write_table(
    paths: Iterable[Path | str],
    spec: TableSpec,
    outputs: Iterable[Path | str],
    published: Path | str | None = None,
    missing: Sequence[str] = (),
) -> None:
    """Aggregate scores.json files into the table of `spec`; write it to each of `outputs`.

    The ending of an output is its format, one of FORMATS. The scores of single samples are read
    beside each file. The scores in the CSV file `published` stand beside ours; the runs that are
    `missing` are named. Raises TableError.
    """
    beside = None if published is None else read_published(published)
    table = load_table(read_runs(paths), spec, beside, missing)
    for output in outputs:
        text = FORMATS[Path(output).name.partition(".")[2]](table)
        with atomic_file(output) as temporary:
            temporary.write_text(text, encoding="utf-8")


def load_table(
    runs: Mapping[str, Run],
    spec: TableSpec,
    published: Published | None = None,
    missing: Sequence[str] = (),
) -> Table:
    """The table of runs, given by their files, with the scores of samples beside them."""

    def read(run: Run, file: str) -> SampleScores:
        metrics = [name for name, value in run["metrics"].items() if value is not None]
        return read_sample_scores(sample_file(file), metrics)

    files = {id(run): file for file, run in runs.items()}
    samples = loader(lambda run: read(run, files[id(run)]))
    return build_table(list(runs.values()), spec, published, missing, samples)


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, with the notes as a list."""
    grid = lay_out(table)
    lines = [[markdown_text(title) for title in grid.header], _by_column(grid, ":--", "--:")]
    lines += [[_marked(entry, markdown_text, MARKDOWN) for entry in row] for row in grid.rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {markdown_text(note)}" for note in table.notes)
    return f"**{markdown_text(table.spec.title)}**\n\n{body}\n\n{notes}\n"


def to_html(table: Table) -> str:
    """A page of its own, without scripts or outside files."""
    notes = "\n".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    title = html.escape(table.spec.title)
    return HTML_PAGE.format(title=title, style=HTML_STYLE, table=to_html_table(table), notes=notes)


def to_html_table(table: Table) -> str:
    """The table alone, as an element of a page."""
    grid = lay_out(table)
    kinds = _by_column(grid, ' class="name"', "")
    header = _tagged("th", kinds, map(_heading, grid.header))
    rows = "\n".join(f"<tr>{_tagged('td', kinds, map(_html, row))}</tr>" for row in grid.rows)
    title = html.escape(table.spec.title)
    return HTML_TABLE.format(title=title, header=header, rows=rows)


def to_latex(table: Table) -> str:
    """A table environment for the package booktabs."""
    grid = lay_out(table)
    lines = [" & ".join(map(_latex, grid.header)) + r" \\"]
    lines += [
        " & ".join(_marked(entry, _latex, LATEX_MARKS) for entry in row) + r" \\"
        for row in grid.rows
    ]
    notes = "\n\n".join(rf"{{\footnotesize {_latex(note)}}}" for note in table.notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.spec.title)}}}",
            rf"\label{{tab:{table.spec.name}}}",
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


def markdown_text(text: str) -> str:
    """Text on one line, without markup or links of its own."""
    return re.sub(r"([\\|*_`<>])", r"\\\1", one_line(text)).replace("](", "]\\(")


def _tagged(tag: str, kinds: Sequence[str], texts: Iterable[str]) -> str:
    cells = zip(kinds, texts, strict=True)
    return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in cells)


def _heading(text: str) -> str:
    """A heading that is broken between words, and not at the hyphen of BLEU-4."""
    return re.sub(r"(\S*-\S*)", r'<span class="whole">\1</span>', html.escape(text))


def _html(entry: Entry) -> str:
    return _marked(entry, html.escape, HTML)


def _marked(entry: Entry, escape: Callable[[str], str], marks: Marks) -> str:
    """The text of an entry, marked by its place, with its letters raised."""
    place = marks.places[entry.place - 1] if entry.place in (1, 2, 3) else "{}"
    return place.format(escape(entry.text)) + (
        marks.letters.format(entry.letters) if entry.letters else ""
    )


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in one_line(text))


def one_line(text: str) -> str:
    """Text without line breaks, which would end a cell."""
    return " ".join(text.splitlines())


LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}
MARKDOWN = Marks(("**{}**", "*{}*", "<ins>{}</ins>"), "<sup>{}</sup>")
HTML = Marks(("<strong>{}</strong>", "<em>{}</em>", "<u>{}</u>"), "<sup>{}</sup>")
LATEX_MARKS = Marks((r"\textbf{{{}}}", r"\textit{{{}}}", r"\underline{{{}}}"), r"$^{{{}}}$")
FORMATS: dict[str, Callable[[Table], str]] = {
    "csv": to_csv,
    "md": to_markdown,
    "html": to_html,
    "tex": to_latex,
    "pairs.csv": to_pairs,
}
