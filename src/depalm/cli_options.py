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
