"""Settings and the parts that they name, read and checked before any job."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depalm.config.checks import check
from depalm.config.experiment import Config, deep_merge
from depalm.config.lookup import places
from depalm.config.parts import Parts
from depalm.config.paths import RESULTS
from depalm.config.schema import ConfigError, load_yaml, validated
from depalm.specs import SettingsSpec


def load_config(
    settings: Mapping[str, Any],
    roots: Sequence[Path],
    files: Sequence[Path | str] = (),
    runs_here: bool = True,
) -> Config:
    """Check `settings` and the parts that it names, and that there are the data and programs if it
    `runs_here`. Raises ConfigError with all that is wrong.

    What it names is looked for in `roots`, then in what ships with depalm (see
    depalm.config.lookup). `files` are those that the settings come from, if Snakemake has read
    them: it lets a key stand twice.
    """
    for path in map(Path, files):
        if path.resolve().is_relative_to(Path(RESULTS).resolve()):
            raise ConfigError(
                f"{path} was taken for a configuration: put -- between --configfile FILE and the "
                "files that are asked for"
            )
        load_yaml(path)
    spec = validated(SettingsSpec, settings, "configuration", texts=True)
    config = Config(spec, Parts(places(spec.parts, roots)), roots)
    check(config, runs_here)
    return config


def load_files(
    files: Sequence[Path | str], roots: Sequence[Path], runs_here: bool = True
) -> Config:
    """The configuration of YAML files, of which the later ones win, as Snakemake merges them.

    Raises ConfigError, also for a file that is not there.
    """
    settings: dict[str, Any] = {}
    for path in map(Path, files):
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        content = load_yaml(path)
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path} must be a mapping of keys to values")
        settings = deep_merge(settings, content)
    return load_config(settings, roots, runs_here=runs_here)
