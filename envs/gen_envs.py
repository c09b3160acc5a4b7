"""Write envs/depalm.yaml: what pyproject.toml asks for, CLAP included, as constraints.txt pins it.

python envs/gen_envs.py

Snakemake makes a conda environment anew when its file changes. So the file states each version: a
new pin in constraints.txt becomes a new environment. What is asked for indirectly is read from the
packages that are installed here; packages without a pin (those of one platform) are left to pip.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from itertools import compress
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TEXT = """# Written by envs/gen_envs.py from pyproject.toml and constraints.txt; do not edit.
# `snakemake --sdm conda` makes this environment; depalm.post-deploy.sh installs the checkout there.
channels:
  - conda-forge
dependencies:
  - python={python}
  - openjdk=17  # for caption metrics
  - pip
  - pip:
{pins}
"""


def closure(asked: list[str], seen: set[str]) -> Iterator[str]:
    """The canonical names of all packages that requirements lead to in this environment.

    Raises PackageNotFoundError if one is not installed.
    """
    for requirement in map(Requirement, asked):
        for extra in ("", *sorted(requirement.extras)):
            known = f"{canonicalize_name(requirement.name)}[{extra}]"
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if known in seen or not applies:
                continue
            seen.add(known)
            yield canonicalize_name(requirement.name)
            further = [Requirement(one) for one in metadata.requires(requirement.name) or []]
            holds = [one.marker is None or one.marker.evaluate({"extra": extra}) for one in further]
            needed = [str(one).partition(";")[0] for one in compress(further, holds)]
            yield from closure(needed, seen)


def text() -> str:
    """The content of depalm.yaml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.split("==")[0]): line for line in lines if "==" in line}
    markers = {
        canonicalize_name(one.name): f"; {one.marker}"
        for one in map(Requirement, project["dependencies"])
        if one.marker
    }
    asked = [*project["dependencies"], *project["optional-dependencies"]["clap"]]
    names = sorted(set(closure(asked, set())) & pins.keys())
    written = "\n".join(f"      - {pins[name]}{markers.get(name, '')}" for name in names)
    oldest = re.search(r"\d+\.\d+", project["requires-python"])
    assert oldest is not None, project["requires-python"]
    return TEXT.format(python=oldest[0], pins=written)


if __name__ == "__main__":
    (ROOT / "envs/depalm.yaml").write_text(text(), encoding="utf-8")
