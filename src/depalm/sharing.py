"""Adapters on the Hub: with a model card to it, and from it (`hf://owner/name[@revision]`)."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from depalm import __version__
from depalm.adapters.errors import AdapterError
from depalm.adapters.record import RECORD, WEIGHTS, read_record
from depalm.errors import DepalmError
from depalm.evaluation import load_table, markdown_text, read_runs, to_markdown
from depalm.files import sha256_file
from depalm.sources.download import download_hub_file, list_hub_model
from depalm.specs import BackboneSpec, LLMSpec, TableSpec, Usage

ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
ADAPTERS = "resources/adapters"  # what was fetched, by repository and commit
TASKS = {
    "image": "image-text-to-text",
    "video": "video-text-to-text",
    "audio": "audio-text-to-text",
    "none": "text-generation",
}


class SharingError(DepalmError):
    """An adapter that cannot be shared, or an address that is none."""


def is_address(text: str) -> bool:
    return text.startswith("hf://")


def parsed(address: str) -> tuple[str, str | None]:
    """owner/name and the revision of an address. Raises SharingError."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise SharingError(f"{address!r} is not hf://owner/name, or hf://owner/name@revision")
    return found["name"], found["revision"]


def fetch_adapter(address: str, root: Path) -> Path:
    """The folder of an adapter on the Hub, below `root`: its files at one commit, each with the
    checksum that the Hub has. Raises SharingError, DownloadError.
    """
    name, revision = parsed(address)
    listed = list_hub_model(name, revision, WEIGHTS)
    if RECORD not in listed["files"]:
        raise SharingError(f"{address} holds no adapter of depalm: it has no {RECORD}")
    folder = root / ADAPTERS / name.replace("/", "--") / str(listed["revision"])
    for file, digest in listed["files"].items():
        download_hub_file(name, str(listed["revision"]), file, digest, folder, "model")
    return folder


def push(folder: Path, address: str, card: str, private: bool = False) -> str:
    """Give an adapter and its card to the Hub, in one commit: the commit's URL. Raises
    SharingError if the Hub refuses, AdapterError for a folder without a whole adapter.
    """
    name, revision = parsed(address)
    files = [*shared_files(folder)]
    record = read_record(folder / RECORD, {})
    if sha256_file(folder / WEIGHTS) != record.get("sha256"):
        raise AdapterError(f"{folder / WEIGHTS} is not as {RECORD} says: train it again")
    told = [CommitOperationAdd(path.name, str(path)) for path in files]
    told.append(CommitOperationAdd("README.md", card.encode()))
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        hub.create_repo(name, private=private, exist_ok=True)
        message = f"An adapter of depalm {__version__}"
        done = hub.create_commit(name, told, commit_message=message, revision=revision)
    except Exception as error:  # the client passes on the errors of whichever HTTP library it uses
        raise SharingError(
            f"the Hub does not take it: {type(error).__name__}: {error} Log in with `hf auth login`"
        ) from error
    return str(done.commit_url)


def shared_files(folder: Path) -> list[Path]:
    """The files that are shared: the adapter, its record, and how texts were searched. Raises
    AdapterError for a folder without an adapter.
    """
    lacking = [name for name in (WEIGHTS, RECORD) if not (folder / name).is_file()]
    if lacking:
        raise AdapterError(f"{folder} holds no adapter: it has no {' and no '.join(lacking)}")
    return [folder / WEIGHTS, folder / RECORD, *sorted(folder.glob("*.generate.json"))]


def model_card(folder: Path, address: str, licence: str | None = None) -> str:
    """The README.md of an adapter: what it is, its scores with intervals, what it was trained on,
    how to load it. Raises AdapterError, TableError.
    """
    record = read_record(folder / RECORD, {})
    if "usage" not in record:
        raise AdapterError(
            f"{folder / RECORD} does not say how the adapter is used: train it again"
        )
    usage, training = Usage.model_validate(record["usage"]), record["training"]
    runs = read_runs(sorted(folder.glob("*.scores.json")))
    about = next(iter(runs.values()), {})
    name = parsed(address)[0]
    header = {
        "license": licence or "unknown",
        "library_name": "depalm",
        "pipeline_tag": TASKS[usage.backbone.modality if record["backbone"] else "none"],
        "tags": ["depalm", "adapter"],
        **({"base_model": bases} if (bases := hub_names(usage)) else {}),
        **({"datasets": [str(about["dataset"])]} if about else {}),
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()),
        "---",
        f"\n# {name.partition('/')[2]}\n",
        "An adapter between a frozen backbone and a frozen LLM, trained by depalm. It holds "
        "neither of them: they come from their own sources, and their licences apply too.\n",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in facts(usage, record, about).items()),
        "\n## Scores\n",
        scores(folder) or "It was not tested.\n",
        "## Training\n",
        f"{training['steps']:,} steps on {training['samples_seen']:,} samples, "
        f"{training['train_seconds']:,.0f} s on {training['device']}, commit "
        f"`{training['commit']}`. `adapter.json` has all settings and versions.\n",
        "## Use\n",
        "```python\nfrom depalm import load_adapter\n",
        f'model = load_adapter("hf://{name}")',
        'print(model.answer("photo.jpg", "What is it?"))\n```',
    ]
    return "\n".join(lines) + "\n"


def facts(usage: Usage, record: dict[str, Any], about: dict[str, Any] | Any) -> dict[str, str]:
    """The adapter in a few words."""
    method = about.get("label") if about else None
    backbone = place(usage.backbone) if record["backbone"] else "none"
    return {
        "Method": markdown_text(method or "see adapter.json"),
        "Backbone": markdown_text(backbone),
        "LLM": markdown_text(place(usage.llm)),
        "Trainable parameters": f"{record['trainable_parameters']:,}",
        **({"Dataset": markdown_text(str(about["dataset"]))} if about else {}),
        **({"Training samples": str(about["fraction"]).replace("pct", "%")} if about else {}),
    }


def scores(folder: Path) -> str:
    """The scores of a run in a table, and of its other seeds that lie beside it."""
    of_all = [
        path
        for seed in sorted(folder.resolve().parent.glob("seed*"))
        for path in sorted(seed.glob("*.scores.json"))
    ]
    found = of_all or sorted(folder.glob("*.scores.json"))
    if not found:
        return ""
    spec = TableSpec(name="card", title="Test", spread="interval", per_seed=True, metrics="all")
    return to_markdown(load_table(read_runs(found), spec))


def place(spec: BackboneSpec | LLMSpec) -> str:
    """Where a model is from."""
    return "a folder of the author's" if spec.source is None else spec.source.uri


def hub_names(usage: Usage) -> Sequence[str]:
    """The models that are on the Hub."""
    places = [place(usage.llm), place(usage.backbone)]
    return [found["name"] for found in map(ADDRESS.match, places) if found is not None]
