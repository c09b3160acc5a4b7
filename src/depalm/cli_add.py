"""The command `depalm add`: the YAML of a model or a dataset, from what it says of itself."""

import argparse
import textwrap
from pathlib import Path

TEXT = """\
Writes a commented file below --config, and prints it. Nothing big is downloaded.

  depalm add llm hf://Qwen/Qwen3-0.6B             config.json and tokenizer; tried on random weights
  depalm add llm models/my-llama                  the same for a folder
  depalm add backbone timm://vit_base_patch16_siglip_224.v2_webli
  depalm add dataset photos/captions.csv          columns, media, splits; a look at three samples

What is found in a table becomes manifest.{split}.jsonl below --data; media stay where they are.
"""


def add_add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that writes parts."""
    summary = "Write the YAML file of an LLM, a backbone or a dataset."
    command = commands.add_parser(
        "add",
        help=summary,
        description=f"{summary}\n\n{TEXT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("kind", choices=("llm", "backbone", "dataset"))
    command.add_argument("target", metavar="TARGET", help="hf://owner/name, timm://name, or a path")
    command.add_argument("--name", help="of the file; by default that of the target")
    command.add_argument("--config", default="config", metavar="FOLDER", help="(config)")
    command.add_argument("--data", default="data", metavar="FOLDER", help="of manifests (data)")
    command.add_argument("--force", action="store_true", help="write over what is there")
    chats = command.add_mutually_exclusive_group()
    chats.add_argument("--chat", action="store_true", default=None, help="an LLM is for chats")
    chats.add_argument("--no-chat", dest="chat", action="store_false", help="it is not")
    command.add_argument("--image-size", type=int, metavar="PIXELS", help="of a backbone of timm")
    command.set_defaults(run=_add, log=None)


def _add(options: argparse.Namespace) -> None:
    from depalm.adding import add_dataset, backbone_part, llm_part

    config, lines = Path(options.config), list[str]()
    if options.kind == "dataset":
        path, lines = add_dataset(
            Path(options.target), config, Path(options.data), options.name, options.force
        )
    else:
        part = (
            llm_part(options.target, options.name, options.chat)
            if options.kind == "llm"
            else backbone_part(options.target, options.name, options.image_size)
        )
        path = part.write(config, options.force)
    print(textwrap.indent(path.read_text(encoding="utf-8"), "  "))
    print("\n".join([*lines, f"written: {path}"]))
