"""Real audio and video, from their files to captions that an adapter overfits: each step by the
code that runs it, with tiny models.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from depalm.cache.formats import array_names
from depalm.cache.store import open_folder
from depalm.config.schema import load_yaml
from depalm.datasets.manifest import build_manifest, media_keys
from depalm.features.cached import CachedViews
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.generation.generate import generate
from depalm.llms.load import load_llm
from depalm.specs import TrainSpec
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import IGNORED, encode
from depalm.training.loop import train
from tests.support.encoders import AST_SPEC, TIMESFORMER_SPEC, tiny_ast, tiny_timesformer
from tests.support.media_files import shared
from tests.support.specs import backbone_spec, llm_spec, rows_spec
from tests.support.tiny import new_adapter

METHOD = {
    **load_yaml(Path(__file__).parents[2] / "config/methods/qp_l0.yaml"),
    "connector": {
        "adapter_dim": 32,
        "mapper": {"layers": 1, "queries": 2, "heads": 4, "dropout": 0.0},
    },
}
LLM = {"family": "llama", "shape": {"layers": 2, "width": 64}}
HEARS: dict[str, Any] = {
    **AST_SPEC,
    "frames": 1024,
    "mel_bins": 64,
    "mean": -4.2677393,
    "std": 4.5689974,
    "sampling_rate": 16000,
    "seconds": 10,
    "shape": {"layers": 3, "tokens": 508, "width": 32},  # pooled, CLS, distillation, 5 x 101
}
SEES: dict[str, Any] = {**TIMESFORMER_SPEC, "mean": [0.45] * 3, "std": [0.225] * 3}


def write_llm(folder: Path, captions: Sequence[str]) -> None:
    """A LLaMA that says each caption after a sign of its own, a token that no text has; which clip
    has which sign it cannot know. It heard the captions with half of their tokens mistaken, so that
    it goes by the sign rather than by the words before.
    """
    signs = [f"<{number}>" for number in range(len(captions))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", *signs],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    texts = [
        tokenizer.encode(f"{sign}<s>{caption}</s>").ids
        for sign, caption in zip(signs, captions, strict=True)
    ]
    width = max(map(len, texts))
    token_ids = torch.tensor([ids + [1] * (width - len(ids)) for ids in texts])
    lengths = torch.tensor([[len(ids)] for ids in texts])
    places = torch.arange(width)
    labels = token_ids.masked_fill((places < 2) | (places >= lengths), IGNORED)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        mistaken = (labels != IGNORED) & (torch.rand(token_ids.shape) < 0.5)
        heard = torch.where(mistaken, torch.randint_like(token_ids, model.vocab_size), token_ids)
        loss = model(input_ids=heard, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def overfit(root: Path, dataset: dict[str, Any], backbone: dict[str, Any]) -> None:
    """Extract, train and generate on `root`/data with the weights in `root`/backbone."""
    dataset = {**dataset, "splits": ["train"], "templates": {"texts": [""]}}
    samples, rejects, _ = build_manifest(root / "data", rows_spec(dataset), "train")
    assert not rejects
    adapter = new_adapter(METHOD, backbone["shape"], LLM["shape"])
    done = extract(
        Encoder("real", backbone_spec(backbone), root / "backbone"),
        root=root / "data",
        media=media_keys(samples),
        arrays=array_names(adapter.source_layers, adapter.cls_only),
        store=root / "store",
        settings=Extraction(batch_size=4, max_reject_fraction=0.0),
        device="cpu",
    )
    assert not done.rejects
    write_llm(root / "llm", [sample.references[0] for sample in samples])
    llm = load_llm(llm_spec(LLM), root / "llm", "float32", "cpu")
    settings = TrainSpec(
        batch_size=len(samples), lr=1e-2, steps=300, label_smoothing=0.0, dtype="float32"
    )
    views = CachedViews(
        [open_folder(done.folder, {})],
        media_keys(samples),
        adapter.source_layers,
        adapter.cls_only,
        torch.device("cpu"),
    )
    data = encode(llm, samples, 50)
    train(llm, adapter, data, views, settings, 0, root, {"of": "this"})
    lines = (root / "train.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert fmean(losses[-5:]) < 0.1 * losses[0]
    texts = generate(llm, adapter, samples, views, GenerateSpec(beams=3, max_new_tokens=50))
    right = [text in sample.references for text, sample in zip(texts, samples, strict=True)]
    assert fmean(right) > 0.5


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_real_audiocaps_clips_are_overfitted(tmp_path: Path) -> None:
    (source,) = shared("audio-caption", "test.subset13.csv")
    rows = list(csv.DictReader(source.open()))
    first = {row["youtube_id"]: row for row in reversed(rows)}  # as train: a caption for each clip
    data = tmp_path / "data"
    data.mkdir()
    (data / "train").symlink_to(source.with_name("test").resolve())
    with (data / "train.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(first.values())
    tiny_ast(tmp_path / "backbone", HEARS["frames"], HEARS["mel_bins"])
    overfit(tmp_path, {"reader": "audiocaps"}, HEARS)


def test_real_msvd_videos_are_overfitted(tmp_path: Path) -> None:
    (source,) = shared("video-caption", "msvd_testing_label.subset5.json")
    rows = [
        {"video": row["id"], "caption": row["caption"][0]} for row in json.loads(source.read_text())
    ]
    data = tmp_path / "data"
    data.mkdir()
    (data / "videos").symlink_to((source.parent / "videos").resolve())
    (data / "msrvtt_caption_train7k.json").write_text(json.dumps(rows))
    tiny_timesformer(tmp_path / "backbone")
    overfit(tmp_path, {"reader": "msrvtt"}, SEES)
