"""The four formats of a table."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from depalm.errors import DepalmError
from depalm.evaluation.grid import lay_out
from depalm.evaluation.render import FORMATS, write_table
from depalm.evaluation.runs import TableError, read_published
from depalm.evaluation.samples import sample_file
from depalm.evaluation.tables import build_table
from tests.support.scores import make_run, sampled, saved, seeds_of
from tests.support.tables import SPEC, rows_of, table_spec


def test_a_heading_is_not_broken_at_the_hyphen_of_a_metric() -> None:
    metrics = {"cider": 1.0, "bleu_4": 2.0}
    runs = [make_run("blind", None, metrics=metrics, primary_metric="cider", dataset="a<b-c")]
    page = FORMATS["html"](build_table(runs, table_spec(metrics="all")))
    heading = '<span class="whole">a&lt;b-c</span> <span class="whole">BLEU-4</span></th>'
    assert heading in page
    assert ".whole { white-space: nowrap; }" in page


class Cells(HTMLParser):
    """The texts of a page's cells, row by row, and which of them are bold."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"lang", "charset", "name", "content", "class"}
        if tag != "meta":
            self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.tags):
            self.rows[-1][-1] += data
        if "strong" in self.tags:
            self.bold.append(data)


AWKWARD = [
    *seeds_of("blind", 64.0, 64.0, label="a|b & <c>_d 100%"),
    *seeds_of("limber_1", 70.0, 70.0),
    *seeds_of("qp_l0", 76.999, 77.001),
]


def test_formats_show_the_same_cells_with_the_same_marks() -> None:
    table = build_table(AWKWARD, table_spec(title="A & B <1>"), samples=sampled)
    grid = lay_out(table)
    texts = [[entry.text for entry in row] for row in grid.rows]
    assert texts[0][0] == "a|b & <c>_d 100%"
    assert [row[1] for row in texts] == ["64.00 ± 0.00", "70.00 ± 0.00", "77.00 ± 0.00"]
    assert [row[1].place for row in grid.rows] == [3, 2, 1]
    assert [row[1].letters for row in grid.rows] == ["c", "b", "a"]

    page = Cells()
    page.feed(FORMATS["html"](table))
    lettered = [[entry.text + entry.letters for entry in row] for row in grid.rows]
    assert page.rows == [grid.header, *lettered]
    assert page.bold == ["77.00 ± 0.00"]
    assert "<em>70.00 ± 0.00</em><sup>b</sup>" in FORMATS["html"](table)
    assert "<u>64.00 ± 0.00</u><sup>c</sup>" in FORMATS["html"](table)
    assert page.tags == []

    markdown = FORMATS["md"](table)
    lines = [line for line in markdown.split("\n") if line.startswith("|")]
    cells = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]
    assert {len(row) for row in cells} == {len(grid.header)}
    assert [re.sub(r"\\(.)", r"\1", row[0]) for row in cells[2:]] == [row[0] for row in texts]
    assert re.findall(r"\*\*(\d.*?)\*\*", markdown) == page.bold
    assert "| *70.00 ± 0.00*<sup>b</sup> |" in markdown

    latex = FORMATS["tex"](table)
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0].rstrip("\n").split("\n")
    first = r"a|b \& <c>\_d 100\% & \underline{64.00 $\pm$ 0.00}$^{c}$ & 2 & "
    assert body[0].startswith(first)
    assert [len(re.split(r"(?<!\\)&", line)) for line in body] == [len(grid.header)] * 3
    assert re.findall(r"\\textbf{(.*?)}", latex) == [r"77.00 $\pm$ 0.00"]
    assert r"\caption{A \& B <1>}" in latex
    assert r"\begin{tabular}{lrrrr}" in latex


def test_names_are_neither_formulas_nor_line_breaks_nor_links() -> None:
    label = "=HYPERLINK(1)"
    runs = [make_run("blind", 50.0, label=label), make_run("qp_l0", 60.0, label="two\nlines")]
    table = build_table(runs, table_spec(title="[a](https://host)\nb"))
    rows = rows_of(FORMATS["csv"](table))
    assert [row["label"] for row in rows[:2]] == [f"'{label}", "two\nlines"]
    assert [float(row["mean"]) for row in rows[:2]] == [50, 60]
    markdown, latex = FORMATS["md"](table), FORMATS["tex"](table)
    assert markdown.startswith("**[a]\\(https://host) b**\n")
    assert "| two lines |" in markdown.replace("**", "")
    assert "two lines &" in latex.replace("}", "")
    assert r"\caption{[a](https://host) b}" in latex


def test_every_output_is_written_in_its_format(tmp_path: Path) -> None:
    paths = saved(tmp_path, AWKWARD)
    outputs = [tmp_path / "tables" / f"demo.{name}" for name in FORMATS]
    write_table(paths, SPEC, outputs)
    table = build_table(AWKWARD, SPEC, samples=sampled)
    for output, render in zip(outputs, FORMATS.values(), strict=True):
        assert output.read_text() == render(table)
    assert sorted(path.name for path in outputs[0].parent.iterdir()) == [
        *("demo.csv", "demo.html", "demo.md", "demo.pairs.csv", "demo.tex")
    ]
    sample_file(paths[0]).unlink()
    with pytest.raises(TableError, match=r"0\.samples\.parquet has no scores of samples"):
        write_table(paths, SPEC, outputs)


def test_published_scores_that_cannot_be_read_are_told_with_their_line(tmp_path: Path) -> None:
    path, header = tmp_path / "published.csv", "method,dataset,fraction,metric,mean\n"
    for content, message in (
        (f"{header}a,b,1pct,cider,x\n", "line 2: not method, dataset, fraction, metric, mean"),
        (f"{header}a,b,1pct,cider,1\na,b,1pct,cider,2\n", "line 3: a second row of a b 1pct cid"),
        ("method,dataset,fraction,metric\na,b,1pct,cider\n", "line 2: not method"),
        ("method,method,dataset,mean\n", "line 1: the header has method twice"),
    ):
        path.write_text(content)
        with pytest.raises(DepalmError, match=message):
            read_published(path)
