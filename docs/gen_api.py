"""MkDocs hook: one API page for each module of src/depalm, so that no list of modules is kept."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).parents[1] / "src"


def modules() -> list[str]:
    """Dotted names of the public modules, a package before what is in it."""
    names = []
    for path in sorted((SOURCE / "depalm").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return sorted(names)


def page_of(module: str) -> str:
    return f"api/{module}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages to the section of the navigation that is called API."""
    for section in config.nav or []:
        if "API" in section:
            section["API"] += [{name: page_of(name)} for name in modules()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages themselves, which mkdocstrings fills from the docstrings."""
    for name in modules():
        content = f"# {name}\n\n::: {name}\n"
        files.append(File.generated(config, page_of(name), content=content))
    return files
