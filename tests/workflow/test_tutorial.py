"""docs/tutorial.md, as it is written: on the real models of the demo."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clones import clone
from tests.support.project import ROOT, load_script

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
FILES = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)


def test_the_notebook_is_that_of_the_tutorial() -> None:
    """If it is not, run `python docs/gen_notebook.py`."""
    found = (ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8")
    assert found == load_script("docs/gen_notebook.py").notebook(PAGE)


@pytest.mark.nightly
@pytest.mark.real
def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    folder = clone(tmp_path / "clone")
    for name, content in FILES.findall(PAGE):
        (folder / name).write_text(content, encoding="utf-8")
    subprocess.run([sys.executable, "draw.py"], cwd=folder, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "src")}
    said = []
    for line in "".join(COMMANDS.findall(PAGE)).splitlines():
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        said.append(done.stdout)
    table = (folder / "results/tables/quiz.md").read_text()
    assert re.search(r"\| LiMBeR\(1\) \| \*\*\d\d.*<sup>a</sup> \|", table), table
    assert re.search(r"\| Blind \| \*\d.*<sup>b</sup> \|", table), table
    assert "LiMBeR(1) is better than Blind" in (folder / "results/report.html").read_text()
    run = folder / "results/quiz/runs/100pct/dinov2-S+smollm2-135m/limber_1/seed0"
    lines = (run / "test.predictions.jsonl").read_text().splitlines()
    assert said[-1] == json.loads(lines[0])["prediction"] + "\n"
