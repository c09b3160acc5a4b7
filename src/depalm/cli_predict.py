"""The command `depalm predict`: a trained adapter asked about one's own files."""

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from depalm.cli_options import add_models
from depalm.errors import DepalmError, shortened

if TYPE_CHECKING:
    from depalm.predictor import Answer

MEDIA = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".mka"),
    *(".mp4", ".avi", ".mkv", ".mov", ".webm", ".flv", ".mpg", ".ts"),
}


class PredictError(DepalmError):
    """Files or questions that cannot be taken."""


def add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that asks an adapter."""
    summary = "Ask a trained adapter about photos, sounds or videos."
    text = (
        "Arguments that name a file or a folder (all its media) are what is asked about; the "
        "others are the questions. Without a question the adapter says what it was trained to "
        "say, such as a caption. One answer is printed alone, several as a table of medium, "
        "question and answer. The backbone and the LLM are looked for where training read them, "
        "and fetched otherwise. The exit code is 1 if a file cannot be read."
    )
    command = commands.add_parser(
        "predict",
        help=summary,
        description=f"{summary}\n\n{textwrap.fill(text, 90)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--adapter", metavar="FOLDER", required=True, help="with adapter.json, or hf://owner/name"
    )
    command.add_argument("asked", metavar="FILE, FOLDER or QUESTION", nargs="+")
    command.add_argument("--json", action="store_true", help="print a JSON object for each answer")
    add_models(command)
    command.set_defaults(run=_predict, log=None)


def _predict(options: argparse.Namespace) -> None:
    from depalm.predictor import load_adapter

    media, questions = sorted_out(options.asked)
    model = load_adapter(options.adapter, options.device, options.resources)
    answers = model.answers(media or [None], questions or [""])
    for line in lines(answers, options.json):
        print(line)
    if bad := [f"{answer.media} ({answer.error})" for answer in answers if answer.error]:
        raise PredictError(f"no answer about {shortened(bad)}")


def sorted_out(asked: Sequence[str]) -> tuple[list[Path | None], list[str]]:
    """The media and the questions. Raises PredictError for a file that is not there, and for a
    folder without media.
    """
    media: list[Path | None] = []
    questions = []
    for argument in asked:
        path = Path(argument)
        if path.is_dir():
            there = sorted(p for p in path.rglob("*") if p.suffix.lower() in MEDIA and p.is_file())
            if not there:
                raise PredictError(f"{path}: no photo, sound or video in this folder")
            media += there
        elif path.is_file():
            media.append(path)
        elif path.suffix.lower() in MEDIA:
            raise PredictError(f"{path}: no such file")
        else:
            questions.append(argument)
    return media, questions


def lines(answers: Sequence["Answer"], as_json: bool) -> list[str]:
    """What is printed."""
    if as_json:
        rows = [
            {
                "media": answer.media,
                "prompt": answer.prompt,
                **({"error": answer.error} if answer.error else {"prediction": answer.prediction}),
            }
            for answer in answers
        ]
        return [json.dumps(row, ensure_ascii=False) for row in rows]
    if len(answers) == 1:
        return [answers[0].prediction or ""]
    return [
        "\t".join(_cell(part) for part in (a.media, a.prompt, a.prediction or "-")) for a in answers
    ]


def _cell(text: str | None) -> str:
    """On one line, and within its column."""
    return " ".join((text or "").split())
