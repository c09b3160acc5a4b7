"""Runs and extractions from files to files, on tiny models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from depalm.cache.store import open_folder, view_folder, write_receipt
from depalm.cache.writer import write_shard
from depalm.datasets.manifest import Sample, write_manifest
from depalm.features.encoder import Encoder
from depalm.features.extract import Extracted, Extraction, extract
from depalm.files import sha256_file, write_checked
from depalm.identity import encoder_identity
from depalm.jobs.generate import GenerateJob
from depalm.jobs.train import TrainJob
from depalm.specs import BackboneSpec, LLMSpec, TrainSpec
from depalm.specs.features import Cached, NoFeatures
from depalm.specs.settings import GenerateSpec
from tests.support.tiny import METHODS, method_spec, tiny_llm
from tests.support.vit import SPEC, VIT, tiny_vit

KEYS = [f"{i}" * 64 for i in range(4)]
SAMPLES = [
    Sample(str(i), f"media-{i % 4}", "what ?", [["a", "b"][i % 2]], KEYS[i % 4]) for i in range(8)
]
SETTINGS = TrainSpec(batch_size=4, lr=5e-3, steps=3, dtype="float32")
CPU = torch.device("cpu")
METHOD = {**METHODS["qp_l0"], "version": 1}
LLM = {"version": 1, "family": "llama", "path": "llm", "shape": {"layers": 4, "width": 32}}


def write_llm(folder: Path, seed: int = 0) -> Path:
    """A tiny LLaMA with a tokenizer of words, as a Hugging Face directory."""
    tiny_llm("llama", seed).model.save_pretrained(folder)
    words = ["<pad>", "<s>", "</s>", "a", "b", "what", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    ).save_pretrained(folder)
    return folder


def write_files(root: Path) -> Path:
    """Models, a manifest and a cache shard with all tokens of the last layer."""
    write_llm(root / "llm")
    write_llm(root / "other-llm", seed=1)
    tiny_vit(root / "vit")
    tiny_vit(root / "other-vit", seed=1)
    write_manifest(root / "manifest.parquet", SAMPLES)
    write_checked(root / "subset.json", {"ids": [sample.id for sample in SAMPLES]})
    for name in ("vit", "other-vit"):
        identity = encoder_identity(VIT, root / name)
        folder = view_folder(root / "store", name, identity, 0)
        shape = SPEC["shape"]
        generator = torch.Generator().manual_seed(0)
        arrays = ["cls", "tokens/layer_11"]
        with write_shard(folder / "0.zarr", identity, shape, arrays, "float16") as writer:
            tokens = torch.randn(
                4, shape["layers"], shape["tokens"], shape["width"], generator=generator
            )
            writer.add(KEYS, writer.pack(tokens.unbind(1)))
        place = folder.relative_to(root / "store").as_posix()
        media = {sample.media: sample.sha256 for sample in SAMPLES}
        cache = open_folder(folder, identity)
        write_receipt(root / f"{name}.json", cache, place, media, arrays[1:])
    return root


def cached(files: Path, vit: str = "vit") -> Cached:
    """All tokens of the last layer, as `write_files` wrote them."""
    return Cached(receipts=[str(files / f"{vit}.json")], store=str(files / "store"))


def common(
    files: Path,
    folder: Path,
    method: Mapping[str, Any],
    llm: str,
    vit: str,
    device: str = "cpu",
) -> dict[str, Any]:
    """What jobs of training and generation have in common."""
    reads = method["inject"]["at"] != "none"
    return {
        "manifest": str(files / "manifest.parquet"),
        "features": cached(files, vit) if reads else NoFeatures(),
        "backbone_directory": str(files / vit) if reads else None,
        "llm_directory": str(files / llm),
        "adapter": str(folder / "adapter.safetensors"),
        "record": str(folder / "adapter.json"),
        "method": method_spec(method),
        "backbone": BackboneSpec.model_validate(SPEC),
        "llm": LLMSpec.model_validate(LLM),
        "device": device,
        "threads": THREADS,
    }


def train(
    files: Path,
    folder: Path,
    method: Mapping[str, Any] = METHOD,
    settings: TrainSpec = SETTINGS,
    llm: str = "llm",
    vit: str = "vit",
    seed: int = 0,
    device: str = "cpu",
    **more: Any,
) -> Path:
    TrainJob(
        **common(files, folder, method, llm, vit, device),
        subset=str(files / "subset.json"),
        train=settings,
        seed=seed,
        curve=str(folder / "train.jsonl"),
        rejects=str(folder / "train.rejects.parquet"),
        **more,
    ).run()
    return folder


def generate(
    files: Path,
    folder: Path,
    method: Mapping[str, Any] = METHOD,
    llm: str = "llm",
    vit: str = "vit",
    device: str = "cpu",
    **more: Any,
) -> list[str]:
    GenerateJob(
        **common(files, folder, method, llm, vit, device),
        generate=GenerateSpec(beams=2, max_new_tokens=4, batch_size=4),
        texts=str(folder / "texts.jsonl"),
        summary=str(folder / "generate.json"),
        rejects=str(folder / "generate.rejects.parquet"),
        **more,
    ).run()
    lines = (folder / "texts.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


THREADS = 1  # bytes depend on them, and what ran before in this process may have changed them
LONG = SETTINGS.model_copy(update={"steps": 40, "checkpoint_seconds": 0})
MEDIA = [f"images/{i}.png" for i in range(100)]


def extraction(data: Path, store: Path) -> Extracted:
    torch.set_num_threads(THREADS)
    settings = Extraction(batch_size=4, max_reject_fraction=0.1)
    media = {name: sha256_file(data / name) for name in MEDIA}
    encoder = Encoder("vit", VIT, data / "weights")
    return extract(encoder, data, media, ["tokens/layer_11"], store, settings, "cpu")
