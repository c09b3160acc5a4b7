"""Write docs/tutorial.ipynb, the tutorial as a notebook.

python docs/gen_notebook.py
"""

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).parent
BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<content>.*?)^```\n', re.M | re.S
)


def notebook(text: str) -> str:
    """The notebook of a page: files are written by a cell, commands are run by one."""
    cells, end = [], 0
    for block in BLOCK.finditer(text):
        cells.append(new_markdown_cell(text[end : block.start()].strip()))
        content = block["content"].rstrip("\n")
        if block["language"] == "sh":
            content = "\n".join(f"!{line}" for line in content.splitlines())
        elif block["title"].endswith(".py"):
            pass
        else:
            folder = Path(block["title"]).parent
            cells.append(new_code_cell(f"!mkdir -p {folder}"))
            content = f"%%writefile {block['title']}\n{content}"
        cells.append(new_code_cell(content))
        end = block.end()
    cells.append(new_markdown_cell(text[end:].strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


if __name__ == "__main__":
    page = (FOLDER / "tutorial.md").read_text(encoding="utf-8")
    (FOLDER / "tutorial.ipynb").write_text(notebook(page), encoding="utf-8")
