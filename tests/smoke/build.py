"""Tiny data and tiny random models for config/smoke.yaml: python tests/smoke/build.py [folder]"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1]))
from vit import tiny_vit

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "grey": (90,) * 3}
SIZES = {"train": 24, "test": 8}


def build(folder: Path) -> None:
    """Write everything that the part files in tests/smoke name; the same bytes every time."""
    tiny_vit(folder / "vit-tiny")
    write_llm(folder / "llama-tiny")
    write_vqa(folder / "shapes-vqa")
    write_captions(folder / "shapes-captions")


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


def write_vqa(root: Path) -> None:
    """As easy-VQA is published, see depalm.manifest.read_easy_vqa."""
    for split, size in SIZES.items():
        rows = []
        for number in range(size):
            draw(root / split / "images" / f"{number}.png", number)
            rows.append(["what colour is it?", colour(number), number])
            rows.append(["is it red?", "yes" if colour(number) == "red" else "no", number])
        (root / split / "questions.json").write_text(json.dumps(rows))


def write_captions(root: Path) -> None:
    """As a user's own dataset, see depalm.manifest.read_generic."""
    for split, size in SIZES.items():
        rows = []
        for number in range(size):
            draw(root / split / f"{number}.png", number)
            name = colour(number)
            references = [f"a {name} square", f"the whole image is {name}"]
            rows.append({"media": f"{split}/{number}.png", "references": references})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"manifest.{split}.jsonl").write_text(lines)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else "resources/smoke"))
