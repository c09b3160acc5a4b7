"""The files of the project: text that cites its documentation and tells commands, and scripts."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

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


def load_script(path: str) -> ModuleType:
    """A script of the project, by its path in ROOT, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
