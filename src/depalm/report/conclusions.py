"""What a table tells, in sentences that say no more than its tests."""

from collections.abc import Sequence

from depalm.evaluation import Comparison, Table, column_titles

AVERAGE = "the average score"


def conclusions(table: Table) -> list[str]:
    """A sentence for each column that was tested and for the average score, and one that names the
    others.
    """
    labels = row_labels(table)
    titles = column_titles(table.columns)
    columns = zip(titles, table.columns, strict=True)
    compared = {title: table.compared.get(column) for title, column in columns if not column.part}
    if table.averaged:
        compared[AVERAGE] = table.overall
    tested = {title: found for title, found in compared.items() if found and found.tested.any()}
    said = [sentence(title, labels, found) for title, found in tested.items()]
    untested = [title for title in compared if title not in tested]
    if untested:
        said.append(f"Not tested, for that takes two seeds of two methods: {listed(untested)}.")
    return said


def row_labels(table: Table) -> list[str]:
    """The method of each row, with its backbone and LLM where they vary."""
    varied = [key for key in (0, 1) if len({row[key] for row in table.rows}) > 1]
    return [" + ".join([table.label(row), *(row[key] for key in varied)]) for row in table.rows]


def sentence(what: str, labels: Sequence[str], comparison: Comparison) -> str:
    """What the tests say of one column."""
    untested = [label for label, t in zip(labels, comparison.tested, strict=True) if not t]
    apart = f" {listed(untested)}: not tested, for one seed is no test." if untested else ""
    if not comparison.better.any():
        count = int(comparison.tested.sum())
        return f"{what}: none of the {count} methods can be told from another.{apart}"
    said = []
    for row, place in enumerate(comparison.places):
        if place != 1:
            continue
        below = [i for i in range(len(labels)) if comparison.better[row, i]]
        gaps = [comparison.difference[row, i] for i in below]
        if below:
            ends = f"{min(gaps):.1f}" if len(gaps) == 1 else f"{min(gaps):.1f} to {max(gaps):.1f}"
            over = listed([labels[i] for i in below])
            said.append(f"{labels[row]} is better than {over} (by {ends} points)")
    alike = [label for label, p in zip(labels, comparison.places, strict=True) if p == 1]
    together = f"; {listed(alike)} cannot all be told apart" if len(alike) > 1 else ""
    return f"{what}: {'; '.join(said)}{together}.{apart}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
