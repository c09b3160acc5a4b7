"""Rooms: each says what it is for, and exports what the others use."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "depalm"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
IMPORT = re.compile(r"^\s*from depalm\.(\w+)\.(\w+) import (\([^)]*\)|[^\n#]*)", re.MULTILINE)
SIZE = 300  # lines


def imports(path: Path) -> list[tuple[str, str, str]]:
    """(room, module, name) of what a file imports from modules of rooms."""
    return [
        (match[1], match[2], name)
        for match in IMPORT.finditer(path.read_text(encoding="utf-8"))
        if match[1] in ROOMS
        for name in re.findall(r"\w+", match[3])
    ]


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_for_and_its_exports_are_there(name: str) -> None:
    room = importlib.import_module(f"depalm.{name}")
    assert room.__doc__
    assert room.__doc__.strip().endswith(".")
    assert room.__all__
    modules = {path.stem for path in (PACKAGE / name).glob("*.py")}
    assert not modules & set(room.__all__)  # the import of such a module would hide the export
    for export in room.__all__:
        assert getattr(room, export) is not None


@pytest.mark.parametrize("name", ROOMS)
def test_other_rooms_use_what_a_room_exports(name: str) -> None:
    """Or a function that has the name of its module, which they import from there."""
    room = importlib.import_module(f"depalm.{name}")
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] == name:
            continue
        for other, module, export in imports(path):
            if other == name and module != export:
                assert export in room.__all__, f"{path} uses {name}.{module}.{export}"


def test_looking_into_the_rooms_imports_nothing_heavy() -> None:
    rooms = ", ".join(f"depalm.{name}" for name in ROOMS)
    code = (
        f"import sys, {rooms}; print({{'torch', 'transformers', 'zarr', 'av'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_configuration_is_read_without_models_or_decoders() -> None:
    """Every job on a cluster reads its configuration anew."""
    heavy = {"torch", "transformers", "timm", "open_clip", "zarr", "pyarrow", "pandas"}
    heavy |= {"av", "decord", "soundfile", "PIL", "pycocoevalcap", "huggingface_hub"}
    code = (
        "import sys; from pathlib import Path; from depalm.config.load import load_files;"
        "config = load_files([Path('config/demo.yaml')], [Path()]);"
        "[config.plan(run).reads() for run in config.runs];"
        f"print({heavy} & {{*sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("folder", ["src", "bench", "docs", "workflow"])
def test_modules_are_of_a_size_that_is_read_in_one_go(folder: str) -> None:
    long = {
        str(path): lines
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > SIZE
    }
    assert long == {}
