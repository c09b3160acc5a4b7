"""A trained adapter that one can ask: `load_adapter(folder).answer("photo.jpg", "What is it?")`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.adapters.record import RECORD, WEIGHTS, made_for, read_record
from depalm.adapters.saved import load_weights
from depalm.backbones.base import Backbone
from depalm.backbones.load import load_backbone
from depalm.config import paths
from depalm.datasets.manifest import Sample
from depalm.features.base import FeatureSource, NoFeatures
from depalm.features.online import Media, OnlineFeatures, online_features
from depalm.files import read_checked
from depalm.generation.generate import generate
from depalm.llms.base import LLM
from depalm.llms.load import load_llm
from depalm.provenance import choose_device
from depalm.rejects import MediaError
from depalm.sharing import fetch_adapter, is_address
from depalm.sources.convert import convert
from depalm.sources.fetch import fetch
from depalm.specs import BackboneSpec, LLMSpec, Usage
from depalm.specs.dataset import DatasetSource
from depalm.specs.settings import GenerateSpec

ROOT = Path("/")
DECODE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What the model says of a medium, or in `error` why it cannot be read."""

    media: str | None
    prompt: str
    prediction: str | None
    error: str | None = None


class Predictor:
    """A trained adapter with its frozen models; made by `load_adapter`.

    `usage` says what it was trained with, `decoding` how texts are searched.
    """

    def __init__(
        self,
        adapter: Adapter,
        llm: LLM,
        backbone: Backbone | None,
        usage: Usage,
        decoding: GenerateSpec,
        device: torch.device,
    ):
        self.adapter, self.llm, self.backbone = adapter.eval(), llm, backbone
        self.usage, self.decoding, self.device = usage, decoding, device

    def answer(self, media: str | Path | None, question: str = "") -> str:
        """The answer to a `question` about a photo, sound or video; without a question what the
        adapter was trained to say of it, such as a caption.

        `media` may be None if the adapter reads none. Raises MediaError for a file that cannot be
        read.
        """
        (found,) = self.answers([media], [question])
        if found.prediction is None:
            raise MediaError(f"{media}: {found.error}")
        return found.prediction

    def answers(
        self, media: Sequence[str | Path | None], questions: Sequence[str] = ("",)
    ) -> list[Answer]:
        """The answers to all `questions` about each of `media`. Files that cannot be read are
        among them, with the reason.
        """
        return self.answer_pairs([(name, question) for name in media for question in questions])

    def answer_pairs(
        self,
        pairs: Sequence[tuple[str | Path | None, str]],
        decoding: GenerateSpec | None = None,
    ) -> list[Answer]:
        """The answers to media with a question each, by `decoding` in the place of the adapter's
        own. Files that cannot be read are among them, with the reason.
        """
        settings = decoding or self.decoding
        if self.backbone is None:
            asked = [("", question) for _, question in pairs]
            texts = self._texts(asked, NoFeatures(), settings)
            return [Answer(_told(n), q, text) for (n, q), text in zip(pairs, texts, strict=True)]
        asked = [(_place(name), question) for name, question in pairs]
        with self._reading([name for name, _ in asked]) as source:
            bad = source.rejected
            good = [pair for pair in asked if pair[0] not in bad]
            found = dict(zip(good, self._texts(good, source, settings), strict=True))
        return [
            Answer(_told(name), question, found.get(pair), bad.get(pair[0]))
            for (name, question), pair in zip(pairs, asked, strict=True)
        ]

    def _texts(
        self, asked: Sequence[tuple[str, str]], source: FeatureSource, decoding: GenerateSpec
    ) -> list[str]:
        """What is generated for media and questions."""
        samples = [
            Sample(str(i), name, self.prompt(question), [])
            for i, (name, question) in enumerate(asked)
        ]
        return generate(self.llm, self.adapter, samples, source, decoding)

    @contextmanager
    def _reading(self, names: Sequence[str]) -> Iterator["_Rounded"]:
        """The features of files, by their paths from the root of the file system on."""
        usage = self.usage
        assert self.backbone is not None
        media = Media(ROOT, 1, DECODE_SECONDS, max_reject_fraction=1.0)
        files = dict.fromkeys(names, "")
        what = (self.adapter, self.backbone, usage.backbone, media, files, self.device)
        with online_features(*what, compute=usage.compute) as online:
            yield _Rounded(online, usage.dtype)

    def prompt(self, question: str) -> str:
        """The prompt of a question, as the samples of the training data have it."""
        return self.usage.template.replace("{question}", question)


@dataclass(frozen=True)
class _Rounded:
    """Features in the precision in which the cache would have kept them; None: as they are."""

    online: OnlineFeatures
    dtype: str | None

    @property
    def rejected(self) -> dict[str, str]:
        return self.online.rejected

    def load(self, media: Sequence[str], epoch: int = 0) -> Any:
        return self.online.load(media, epoch)

    def tokens(self, loaded: Any) -> Tensor:
        tokens = self.online.tokens(loaded)
        return tokens if self.dtype is None else tokens.to(getattr(torch, self.dtype))


def load_adapter(
    folder: str | Path, device: str = "auto", resources: str | Path | None = None, **decoding: Any
) -> Predictor:
    """The adapter in `folder` (adapter.safetensors, adapter.json) with its backbone and LLM.

    These are looked for where training read them, below `resources`, below the folder where
    Snakemake ran, and below this one; what is in none of them is fetched from its source into the
    first. `decoding` are keys of `generate`, in the place of those that the adapter's run has. A
    `folder` may be the address of one on the Hub, hf://owner/name[@revision].

    Raises AdapterError for a folder without an adapter that says how it is used, and for models
    that are not those that it was trained with; LLMError, BackboneError, and SourceError.
    """
    first = Path() if resources is None else Path(resources)
    if is_address(str(folder)):
        folder = fetch_adapter(str(folder), first)
    folder, chosen = Path(folder), choose_device(device)
    usage = read_usage(folder)
    places = [first, *_workplaces(folder)]
    directory = found_model(usage.llm, usage.llm_directory, places)
    backbone, weights = usage.backbone, None
    if usage.backbone_directory is not None:
        weights = found_model(backbone, usage.backbone_directory, places)
    made = made_for(usage.method, backbone, weights, usage.llm, directory)
    record = read_record(folder / RECORD, made)
    said = {"dtype": record["training"]["dtype"], **decoding_of(folder), **decoding}
    settings = GenerateSpec.model_validate(said)
    llm = load_llm(usage.llm, directory, settings.dtype, chosen, usage.prompt)
    model = None if weights is None else load_backbone(backbone, weights).to(chosen)
    tuned = {"llm": llm.body, **({} if model is None else {"backbone": model})}
    adapter = Adapter(usage.method, backbone.shape, usage.llm.shape, tuned)
    load_weights(adapter, folder / WEIGHTS, record)
    return Predictor(adapter.to(chosen), llm, model, usage, settings, chosen)


def read_usage(folder: Path) -> Usage:
    """How the adapter in `folder` is used. Raises AdapterError."""
    record = read_record(folder / RECORD, {})
    if "usage" not in record:
        raise AdapterError(
            f"{folder / RECORD} does not say how the adapter is used: an earlier version wrote it; "
            "train it again"
        )
    return Usage.model_validate(record["usage"])


def decoding_of(folder: Path) -> dict[str, Any]:
    """The keys of `generate` by which the adapter's run was tested, if it was."""
    summaries = [folder / f"{split}.generate.json" for split in ("test", "val")]
    there = next((path for path in summaries if path.is_file()), None)
    decoding = {} if there is None else read_checked(there).get("decoding", {})
    return {key: value for key, value in decoding.items() if key != "batch_size"}


def found_model(spec: BackboneSpec | LLMSpec, directory: str, places: Sequence[Path]) -> Path:
    """The folder of a model, which training read in `directory`; it is fetched into the first of
    `places` if it is in none. Raises AdapterError if there is no source to fetch it from.
    """
    candidates = [place / directory for place in places]
    there = next((path for path in candidates if path.is_dir()), None)
    if there is not None:
        return there
    if spec.source is None:
        raise AdapterError(
            f"the adapter was trained with the model in {directory}, which is not here, and its "
            "YAML file has no source to fetch it from: put it there, or name the folder above it"
        )
    kind, part = Path(directory).parts[-2:]
    download = places[0] / paths.DOWNLOAD.format(kind=kind, part=part)
    if not download.is_dir():
        published = DatasetSource(uri=spec.source.uri, sha256=spec.source.sha256)
        fetch([published], download, download.parents[1] / ".cache")
    if spec.convert is not None:
        convert(download, candidates[0], spec.convert)
    return candidates[0]


def _workplaces(folder: Path) -> list[Path]:
    """The folder where Snakemake ran, if the adapter lies in its results; and this one."""
    above = folder.resolve().parents
    return [*(path.parent for path in above if path.name == "results"), Path()]


def _place(name: str | Path | None) -> str:
    """The path of a file, from the root of the file system on."""
    if name is None:
        raise AdapterError("this adapter reads media: name a photo, sound or video")
    return Path(name).resolve().relative_to(ROOT).as_posix()


def _told(name: str | Path | None) -> str | None:
    return None if name is None else str(name)
