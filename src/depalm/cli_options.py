"""Options that several commands have."""

from argparse import ArgumentParser

CONFIGURATION = "YAML of the configuration; of several, the later ones win"


def add_configfile(command: ArgumentParser, told: str = CONFIGURATION) -> None:
    """Add --configfile, which is `told` in the command's help."""
    command.add_argument(
        "--configfile",
        metavar="FILE",
        nargs="+",
        default=["config/config.yaml"],
        help=f"{told} (config/config.yaml)",
    )


def add_models(command: ArgumentParser) -> None:
    """Add where an adapter's models run, and where they lie."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    command.add_argument("--resources", metavar="FOLDER", help="where models are, or fetched to")
