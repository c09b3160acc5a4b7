"""The command `depalm push`: an adapter, with a model card, to the Hub."""

import argparse
import textwrap
from pathlib import Path


def add_push(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that shares an adapter."""
    summary = "Share a trained adapter on the Hub."
    text = (
        "Writes a model card (scores with intervals, training data, parameters, licence, how to "
        "load it) and gives it to the Hub with the adapter, in one commit. The backbone and the "
        "LLM stay where they are from. Others then load it by its address, for instance "
        "depalm predict --adapter hf://owner/name. Log in first: hf auth login."
    )
    command = commands.add_parser(
        "push",
        help=summary,
        description=f"{summary}\n\n{textwrap.fill(text, 90)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", metavar="FOLDER", help="of the run, with adapter.json")
    command.add_argument("address", metavar="hf://owner/name", help="where it goes")
    command.add_argument("--license", metavar="ID", help="of the adapter, such as apache-2.0")
    command.add_argument("--private", action="store_true", help="if the repository is new")
    command.add_argument("--dry-run", action="store_true", help="show the card and the files alone")
    command.set_defaults(run=_push, log=None)


def _push(options: argparse.Namespace) -> None:
    from depalm.sharing import model_card, push, shared_files

    folder = Path(options.folder)
    card = model_card(folder, options.address, options.license)
    if options.dry_run:
        print(card)
        for path in shared_files(folder):
            print(f"{path}: {path.stat().st_size:,} bytes")
        return
    print(push(folder, options.address, card, options.private))
