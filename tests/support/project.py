"""The text files of the project, which cite its documentation and tell commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITING = (  # and files of ROOT
    *("src", "workflow", "config", "tests", "bench", "profiles", "docs", "envs"),
    *(".ci", ".github"),
)
TEXT = {".py", ".smk", ".yaml", ".yml", ".md", ".rst", ".toml", ".csv", ".cff", ".txt", ".sh", ""}
FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)


def project_files() -> list[Path]:
    """The text files of the project, which may cite its documentation."""
    folders = [path for name in CITING for path in (ROOT / name).rglob("*")]
    return [
        path
        for path in (*ROOT.iterdir(), *folders)
        if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts
    ]
