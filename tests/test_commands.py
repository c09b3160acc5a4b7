"""The commands that documentation, comments and error texts tell: each exists as it is written."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser

from depalm.cli import parser
from tests.support.project import FENCE, ROOT, project_files

BACKTICKED = re.compile(r"`([^`\n]+)`")
SHELL = re.compile(r"^ *```sh$(.*?)^ *```$", re.M | re.S)
TITLE = re.compile(r'^```\w+ title="([^"]+)"$', re.M)
INDENTED = re.compile(r"^(?:#|  ) *(\w.*)$", re.M)  # in a comment or a string
INSTALL = re.compile(r"pip install (?P<what>[^\n]*)")
INSTALLED = re.compile(
    r"(-c|--constraint) \"?(\$checkout/)?constraints\.txt\"? "
    r"((-e|--editable) "
    r"(\.(?=[\"\s]|$)|\"\$checkout(\[(?P<extra_there>\w+)\])?\"|'\.\[(?P<extra>\w+)\]')"
    r"|--no-deps (?P<package>[\w-]+)(?=[`\"\s]|$))"
)
ELSEWHERE = ("'.[lmms]'",)  # into an environment of its own, for it wants other versions


def told() -> list[tuple[Path, str]]:
    """The files that tell a reader what to type, with their text; tests do not."""
    paths = [path for path in project_files() if ROOT / "tests" not in path.parents]
    return [(path, path.read_text(encoding="utf-8")) for path in paths]


def typed(program: str) -> list[tuple[Path, str]]:
    """What the project tells its readers to type after the name of a program, with the file that
    tells it: in backticks, in shell examples of the documentation, and on lines of their own in
    comments and strings.
    """
    found = []
    for path, text in told():
        if path.suffix == ".md":
            lines = BACKTICKED.findall(FENCE.sub("", text))
            lines += "\n".join(SHELL.findall(text)).splitlines()
        else:
            lines = BACKTICKED.findall(text) + INDENTED.findall(text)
        for line in lines:
            if match := re.match(rf"\s*(?:\.venv/bin/)?{program} (?!=)(.*)", line):
                found.append((path, match[1]))
    assert len(found) > 3
    return found


def written() -> set[str]:
    """The files that the documentation has a reader write."""
    return {title for path, text in told() if path.suffix == ".md" for title in TITLE.findall(text)}


def test_targets_of_make_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for path, line in typed("make"):
        assert line.split()[0].rstrip(":") in targets, f"{path}: make {line}"


def test_commands_of_depalm_exist() -> None:
    for path, line in typed("depalm"):
        command = line.split()[0]
        if command.isupper():  # stands for any
            continue
        with pytest.raises(SystemExit) as end:
            parser().parse_args([command, "--help"])
        assert end.value.code == 0, f"{path}: depalm {line}"


def test_snakemake_takes_what_it_is_told() -> None:
    """Options, configurations, profiles and rules exist; a target that is a path may be any."""
    smk = "\n".join(path.read_text() for path in (ROOT / "workflow").rglob("*.smk"))
    smk += (ROOT / "workflow/Snakefile").read_text()
    rules = re.findall(r"^ *rule (\w+):$", smk, re.M)
    names = {Path(title).name for title in written()}
    for path, line in typed("snakemake"):
        where = f"{path}: snakemake {line}"
        words = [word for word in shlex.split(line, comments=True) if word != "..."]
        try:
            options = get_argument_parser().parse_args(words)
        except SystemExit:
            pytest.fail(where)
        for target in options.targets:
            assert "/" in target or target in rules or target.isupper(), where
        for name in options.configfile or []:
            assert Path(name).name in names or (ROOT / name).is_file(), where
        for name in options.profile or []:
            assert (ROOT / name / "config.yaml").is_file(), where


def test_what_python_runs_exists() -> None:
    for path, line in typed("python"):
        words, where = line.split(), f"{path}: python {line}"
        if words[0] == "-m":
            assert importlib.util.find_spec(words[1]) is not None, where
        elif not words[0].startswith("-"):
            assert words[0] in written() or (ROOT / words[0]).is_file(), where


def test_pip_installs_from_the_checkout() -> None:
    """depalm is on no index; the versions are those of constraints.txt; extras exist, and so do
    the versions of what is installed without its requirements.
    """
    pins = (ROOT / "constraints.txt").read_text().replace("_", "-").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = [
        (path, install["what"])
        for path, text in told()
        if path != ROOT / "Makefile"  # which puts it together from parts
        for install in INSTALL.finditer(text)
    ]
    assert len(found) > 5
    for path, what in found:
        if what in ELSEWHERE:
            continue
        installed = INSTALLED.match(what)
        assert installed is not None, f"{path}: pip install {what}"
        for extra in (installed["extra"], installed["extra_there"]):
            assert extra in (None, *extras), f"{path}: pip install {what}"
        pinned = f"{installed['package']}=="
        assert not installed["package"] or any(pin.startswith(pinned) for pin in pins), what
