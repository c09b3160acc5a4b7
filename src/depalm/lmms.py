"""depalm as a model of lmms-eval: `python -m lmms_eval --model depalm --model_args adapter=FOLDER`.

lmms-eval finds it by the entry point `lmms_eval.models`. It is written for lmms-eval 0.7.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from depalm.errors import DepalmError
from depalm.predictor import Answer, load_adapter
from depalm.progress import Progress, log_to
from depalm.provenance import choose_device
from depalm.rejects import Reject, check_rejects, report_rejects
from depalm.specs.settings import GenerateSpec

MANIFEST = ModelManifest(model_id="depalm", simple_class_path="depalm.lmms.LmmsModel")
AT_ONCE = 512  # requests whose media are on the disk at a time
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# of a task's `generation_kwargs` what has another name here
DECODING = {
    "num_beams": "beams",
    "max_new_tokens": "max_new_tokens",
    "length_penalty": "length_penalty",
}


class LmmsError(DepalmError):
    """A task that an adapter cannot be asked."""


@dataclass(frozen=True)
class Request:
    """A question of a task, by name, about a medium; the strings that end its text."""

    name: str
    medium: Path | None
    question: str
    until: tuple[str, ...]
    decoding: GenerateSpec


class LmmsModel(lmms):  # type: ignore[misc]
    """A trained adapter with its frozen models, asked by lmms-eval.

    A task's text is the question, which the adapter's template puts into a prompt as in training;
    its picture, sound or video is read as a file of one's own would be (pictures as PNG, sounds as
    WAV in float32, which lose nothing). `num_beams`, `max_new_tokens`, `length_penalty` and `until`
    of the task count. Tasks that sample, compare likelihoods, or show several media with a question
    are refused.
    """

    is_simple = True

    def __init__(
        self,
        adapter: str,
        device: str | None = None,
        resources: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,  # noqa: ARG002
        max_reject_fraction: float = 0.0,
        **decoding: Any,
    ) -> None:
        """`adapter`: its folder, or hf://owner/name. `resources`: where the frozen models are (see
        `load_adapter`). `batch_size`: above 1, so many samples at a time, else as many as fit;
        answers do not depend on it. `decoding`: keys of `generate`, in the place of the tasks'. Of
        media that cannot be read up to `max_reject_fraction` are answered with nothing, and listed;
        more of them raise RejectError.
        """
        super().__init__()
        log_to(None)
        if batch_size not in ("auto", "1", 1):  # 1 is the default of the command
            decoding["batch_size"] = int(batch_size)
        self.predictor = load_adapter(adapter, _device(device or "auto"), resources, **decoding)
        self.decided = frozenset(decoding)
        self.max_reject_fraction = max_reject_fraction

    @property
    def device(self) -> torch.device:
        return self.predictor.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The texts of lmms-eval's requests, in their order."""
        progress = Progress(len(requests), "answer", "question")
        texts: list[str] = []
        rejects: list[Reject] = []
        for start in range(0, len(requests), AT_ONCE):
            part = requests[start : start + AT_ONCE]
            with tempfile.TemporaryDirectory(prefix="depalm-") as folder:
                asked = [self._asked(request.args, Path(folder)) for request in part]
                answers = self._answers(asked)
            for request, answer in zip(asked, answers, strict=True):
                texts.append(_cut(answer.prediction or "", request.until))
                if answer.error is not None:
                    rejects.append(Reject(request.name, request.name, answer.error))
            check_rejects(rejects, len(requests), self.max_reject_fraction, "reading")
            progress.advance(len(part))
        report_rejects(rejects, len(requests), "reading")
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args[:2], text)
        return texts

    def _answers(self, asked: Sequence[Request]) -> list[Answer]:
        """The answers, by all requests of one decoding at once."""
        groups: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(asked):
            groups[request.decoding.model_dump_json()].append(i)
        answers: dict[int, Answer] = {}
        for group in groups.values():
            pairs = [(asked[i].medium, asked[i].question) for i in group]
            found = self.predictor.answer_pairs(pairs, asked[group[0]].decoding)
            answers |= dict(zip(group, found, strict=True))
        return [answers[i] for i in range(len(asked))]

    def _asked(self, arguments: tuple[Any, ...], folder: Path) -> Request:
        """A request of lmms-eval. Raises LmmsError."""
        context, settings, doc_to_visual, document, task, split = arguments
        shown = doc_to_visual(self.task_dict[task][split][document]) or ()
        media = [medium for medium in shown if medium is not None]
        if self.predictor.backbone is None:
            medium = None
        elif len(media) != 1:
            raise LmmsError(
                f"task {task} shows {len(media)} media with question {document}; an adapter reads "
                "one"
            )
        else:
            medium = _file(media[0], folder)
        until = settings.get("until") or ()
        ends = (until,) if isinstance(until, str) else tuple(until)
        name = f"{task}/{split}/{document}"
        return Request(name, medium, context, ends, self._decoding(settings, task))

    def _decoding(self, settings: Mapping[str, Any], task: str) -> GenerateSpec:
        """The adapter's decoding with the settings of a task, other than those that the command
        decided.
        """
        if settings.get("do_sample") or (settings.get("temperature") or 0) > 0:
            raise LmmsError(
                f"task {task} samples (do_sample, temperature); depalm searches the most probable "
                "text: --gen_kwargs do_sample=False,temperature=0"
            )
        asked = {
            ours: settings[theirs]
            for theirs, ours in DECODING.items()
            if settings.get(theirs) is not None and ours not in self.decided
        }
        return GenerateSpec.model_validate({**self.predictor.decoding.model_dump(), **asked})

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:  # noqa: ARG002
        raise LmmsError("depalm answers in texts: choose a task of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:  # noqa: ARG002
        raise LmmsError("an adapter answers one question; this task has several rounds")


def _device(name: str) -> str:
    """The device of this process, if several are started side by side."""
    device, rank = str(choose_device(name)), os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if device == "cuda" and rank is not None else device


def _cut(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of the strings that end it."""
    for end in filter(None, until):
        text = text.partition(end)[0]
    return text


def _file(medium: Any, folder: Path) -> Path:
    """A picture, a sound, or the path of a file, as a file; the same one under the same name."""
    if isinstance(medium, str | os.PathLike):
        return Path(medium)
    content = BytesIO()
    if isinstance(medium, Image.Image):
        picture = medium if medium.mode in PNG_MODES else medium.convert("RGB")
        picture.save(content, "PNG", compress_level=1)
        suffix = ".png"
    else:  # the Audio of `datasets`: [samples] or [channels, samples]
        sound = np.asarray(medium["array"], dtype=np.float32)
        rate = int(medium["sampling_rate"])
        soundfile.write(content, sound.T, rate, format="WAV", subtype="FLOAT")
        suffix = ".wav"
    path = folder / (sha256(content.getvalue()).hexdigest() + suffix)
    if not path.exists():
        path.write_bytes(content.getvalue())
    return path
