"""Tiny data and tiny random models for config/smoke.yaml: python tests/smoke/build.py [folder]"""

import csv
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from depalm.backbones.audio_video import build_clap

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.encoders import (
    tiny_ast,
    tiny_clip,
    tiny_open_clip,
    tiny_timesformer,
    tiny_whisper,
)
from tests.support.media_files import write_video
from tests.support.vit import tiny_vit

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "grey": (90,) * 3}
SIZES = {"train": 24, "test": 8}


def random_clap(directory: Path) -> None:
    """HTSAT-tiny, the smallest there is."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = zip(("audio_branch", "audio_projection"), build_clap("HTSAT-tiny"), strict=True)
    state = {
        f"{name}.{key}": value.contiguous()
        for name, part in parts
        for key, value in part.state_dict().items()
    }
    save_file(state, directory / "model.safetensors")


BACKBONES = {
    "vit-tiny": tiny_vit,
    "audio-vit-tiny": partial(tiny_vit, image_size=(64, 32), channels=1),
    "clip-tiny": tiny_clip,
    "open-clip-tiny": tiny_open_clip,
    "ast-tiny": tiny_ast,
    "whisper-tiny": partial(tiny_whisper, frames=100),
    "clap-random": random_clap,
    "timesformer-tiny": tiny_timesformer,
}


def build(folder: Path) -> None:
    """Write everything that the part files in tests/smoke name; the same bytes every time."""
    for name, write in BACKBONES.items():
        torch.manual_seed(0)
        write(folder / name)
    write_llm(folder / "llama-tiny")
    for name, write_dataset in DATASETS.items():
        write_dataset(folder / name)


def write_llm(folder: Path) -> None:
    """A LLaMA with a tokenizer that has a token for each printable character."""
    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {text: i for i, text in enumerate([*special.values(), *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def colour(number: int) -> str:
    return list(COLOURS)[number % len(COLOURS)]


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32 + number), COLOURS[colour(number)]).save(path)


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def captions(name: str) -> list[str]:
    return [f"a {name} square", f"the whole image is {name}"]


def write_easy_vqa(root: Path) -> None:
    """See depalm.datasets.vqa.read_easy_vqa."""
    for split, size in SIZES.items():
        rows = []
        for number in range(size):
            draw(root / split / "images" / f"{number}.png", number)
            rows.append(["what colour is it?", colour(number), number])
            rows.append(["is it red?", "yes" if colour(number) == "red" else "no", number])
        put(root / split / "questions.json", rows)


def write_generic(root: Path) -> None:
    """As a user's own dataset, see depalm.datasets.readers.read_generic."""
    for split, size in SIZES.items():
        rows = []
        for number in range(size):
            draw(root / split / f"{number}.png", number)
            references = captions(colour(number))
            rows.append({"media": f"{split}/{number}.png", "references": references})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"manifest.{split}.jsonl").write_text(lines)


def write_karpathy(root: Path) -> None:
    """See depalm.datasets.coco.read_coco_karpathy."""
    images = []
    for number in range(sum(SIZES.values())):
        split = "train" if number < SIZES["train"] else "test"
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{number:012}.jpg"
        draw(root / folder / name, number)
        sentences = [{"raw": text, "tokens": text.split()} for text in captions(colour(number))]
        images.append(
            {
                "filepath": folder,
                "filename": name,
                "cocoid": number,
                "split": split,
                "sentences": sentences,
            }
        )
    put(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def write_official_vqa(root: Path, prefix: str) -> None:
    """See depalm.datasets.vqa.read_vqav2, and read_okvqa, without prefix."""
    first = 0
    for split, size in {"train": SIZES["train"], "val": SIZES["test"]}.items():
        questions: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(first, first + size):
            draw(root / f"{split}2014" / f"COCO_{split}2014_{number:012}.jpg", number)
            key = {"question_id": 10 * number, "image_id": number}
            said = {"answer": colour(number), "raw_answer": colour(number)}
            given = [{**said, "answer_id": i} for i in range(1, 11)]
            questions.append({**key, "question": "what colour is it?"})
            annotations.append({**key, "answer_type": "other", "answers": given})
        names = ("OpenEnded_mscoco", "questions"), ("mscoco", "annotations")
        for (name, kind), rows in zip(names, (questions, annotations), strict=True):
            put(root / f"{prefix}{name}_{split}2014_{kind}.json", {kind: rows})
        first += size


def write_aokvqa(root: Path) -> None:
    """See depalm.datasets.vqa.read_aokvqa."""
    for split, size in {"train": SIZES["train"], "val": SIZES["test"]}.items():
        rows = []
        for number in range(size):
            draw(root / f"{split}2017" / f"{number:012}.jpg", number)
            rows.append(
                {
                    "question_id": f"{split}-{number}",
                    "image_id": number,
                    "question": "what colour is it?",
                    "direct_answers": [colour(number)] * 10,
                }
            )
        put(root / f"aokvqa_v1p0_{split}.json", rows)


def write_textcaps(root: Path) -> None:
    """See depalm.datasets.captions.read_textcaps."""
    for split, size in {"train": SIZES["train"], "val": SIZES["test"]}.items():
        rows = []
        for number in range(size):
            name = f"{split}{number}"
            draw(root / "train_images" / f"{name}.jpg", number)
            rows += [{"image_id": name, "caption_str": text} for text in captions(colour(number))]
        put(root / f"TextCaps_0.1_{split}.json", {"data": rows})


def write_textvqa(root: Path) -> None:
    """See depalm.datasets.vqa.read_textvqa."""
    for split, size in {"train": SIZES["train"], "val": SIZES["test"]}.items():
        rows = []
        for number in range(size):
            draw(root / "train_images" / f"{split}{number}.jpg", number)
            rows.append(
                {
                    "question_id": number,
                    "image_id": f"{split}{number}",
                    "question": "what does it say?",
                    "answers": [colour(number)] * 10,
                }
            )
        put(root / f"TextVQA_0.5.1_{split}.json", {"data": rows})


def write_audiocaps(root: Path) -> None:
    """Tones, see depalm.datasets.captions.read_audiocaps."""
    times = np.arange(16000) / 16000
    for split, size in SIZES.items():
        rows = [("audiocap_id", "youtube_id", "start_time", "caption")]
        (root / split).mkdir(parents=True, exist_ok=True)
        for number in range(size):
            video, pitch = f"{split:_<9}{number:02}", 110 * 2 ** (number % 4)
            tone = (0.5 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)
            soundfile.write(root / split / f"{video}_30.wav", tone, 16000)
            rows.append((f"{number}", video, "30", f"a tone of {pitch} hertz"))
        with (root / f"{split}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


def write_msrvtt(root: Path) -> None:
    """Films that become brighter, see depalm.datasets.captions.read_msrvtt."""
    (root / "TrainValVideo").mkdir(parents=True, exist_ok=True)
    (root / "TestVideo").mkdir(exist_ok=True)
    first = 0
    for split, size in SIZES.items():
        folder, stem = MSRVTT_NAMES[split]
        videos, sentences = [], []
        for number in range(first, first + size):
            name, frames = f"video{number}", 4 + number % 4
            write_video(root / folder / f"{name}.mp4", np.arange(frames) / 25)
            videos.append({"video_id": name, "split": "validate" if number == 0 else split})
            sentences.append({"video_id": name, "caption": f"a film of {frames} frames"})
        put(root / f"{stem}_videodatainfo.json", {"videos": videos, "sentences": sentences})
        first += size


MSRVTT_NAMES = {"train": ("TrainValVideo", "train_val"), "test": ("TestVideo", "test")}
DATASETS = {
    "shapes-vqa": write_easy_vqa,
    "shapes-captions": write_generic,
    "coco-tiny": write_karpathy,
    "vqav2-tiny": partial(write_official_vqa, prefix="v2_"),
    "okvqa-tiny": partial(write_official_vqa, prefix=""),
    "aokvqa-tiny": write_aokvqa,
    "textcaps-tiny": write_textcaps,
    "textvqa-tiny": write_textvqa,
    "audiocaps-tiny": write_audiocaps,
    "msrvtt-tiny": write_msrvtt,
}


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else "resources/smoke"))
