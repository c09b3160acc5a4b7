"""Training and generation of one run, from the files that stand before it to those behind it."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from depalm.adapter import Adapter
from depalm.backbones import weights_identity
from depalm.batches import encode
from depalm.checkpoint import (
    RECORD,
    WEIGHTS,
    load_weights,
    made_for,
    read_record,
    save_adapter,
)
from depalm.files import atomic_file, sha256_file, sha256_json, write_json
from depalm.generate import Decoding, generate
from depalm.llms import LLM, load_llm
from depalm.manifest import Sample, read_manifest
from depalm.media import token_identity
from depalm.progress import logger
from depalm.provenance import provenance
from depalm.token_cache import TokenCache
from depalm.train import Settings, train
from depalm.views import CachedViews

Parts = Mapping[str, Mapping[str, Any]]  # the contents of the method's, backbone's and LLM's YAML


def train_run(
    manifest: Path,
    subset: Path,
    shards: Sequence[Path],
    backbone_directory: Path | None,
    views: Sequence[int],
    llm_directory: Path,
    parts: Parts,
    settings: Settings,
    seed: int,
    device: torch.device,
    adapter_path: Path,
    record_path: Path,
    log_path: Path,
) -> None:
    """Train on the samples that `subset` lists, and write the adapter, its record and the log.

    `shards` are those of the first of `views`, then as many of the next. `backbone_directory` is
    None for a method that reads no backbone. Checkpoints and TensorBoard scalars go to a folder
    beside the adapter; what is needed to go on after a kill is removed once the run is whole.
    Raises AdapterError, CacheError, LLMError or TrainingError.
    """
    made = made_for(parts, backbone_directory, llm_directory)
    start = None if settings.init_from is None else Path(settings.init_from)
    if start is not None:
        read_record(start / RECORD, made)
    llm = load_llm(parts["llm"], llm_directory, settings.dtype, device)
    torch.manual_seed(seed)
    adapter = build(parts, llm)
    if start is not None:
        load_weights(adapter, start / WEIGHTS)
    cache = open_views(adapter, shards, views, parts["backbone"], backbone_directory)
    chosen = set(subset.read_text(encoding="utf-8").splitlines())
    samples = [sample for sample in read_manifest(manifest) if sample.id in chosen]
    kept = with_prompt(with_media(samples, cache), parts["llm"])
    config = {**parts, "train": vars(settings)}
    identity = sha256_json(
        {
            **config,
            "seed": seed,
            "made_for": made,
            "samples": [sha256_file(manifest), sha256_file(subset)],
            "cache": None if cache is None else [cache.metadata, cache.checksums],
            "init_from": None if start is None else sha256_file(start / WEIGHTS),
            "threads": torch.get_num_threads(),
            "device": str(device),
        }
    )
    folder = adapter_path.parent / "training"
    data = encode(llm, kept, settings.max_answer_tokens)
    run = train(llm, adapter.to(device), data, cache, settings, seed, folder, identity)
    with atomic_file(log_path) as temporary:
        shutil.copyfile(folder / "train.jsonl", temporary)
    training = {
        "train_seconds": round(run.seconds, 1),
        "steps": run.step,
        "samples_seen": run.samples,
        "final_loss": run.loss,
        "rejects": len(samples) - len(kept),
        "config_sha256": sha256_json(config),
        **provenance(device),
    }
    save_adapter(adapter, adapter_path, record_path, made, training)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    (folder / "train.jsonl").unlink()


def generate_run(
    manifest: Path,
    shards: Sequence[Path],
    backbone_directory: Path | None,
    llm_directory: Path,
    adapter_path: Path,
    record_path: Path,
    parts: Parts,
    decoding: Decoding,
    device: torch.device,
    predictions_path: Path,
    summary_path: Path,
) -> None:
    """Write one prediction for each sample of the manifest whose media the cache holds, in its
    order.

    Raises AdapterError (an adapter of another method, backbone or LLM), CacheError or LLMError.
    """
    read_record(record_path, made_for(parts, backbone_directory, llm_directory))
    llm = load_llm(parts["llm"], llm_directory, decoding.dtype, device)
    adapter = build(parts, llm)
    load_weights(adapter, adapter_path)
    cache = open_cache(adapter, shards, parts["backbone"], backbone_directory)
    samples = read_manifest(manifest)
    kept = with_prompt(with_media(samples, cache), parts["llm"])
    started = time.monotonic()
    texts = generate(llm, adapter.to(device).eval(), kept, cache, decoding)
    elapsed = time.monotonic() - started
    with (
        atomic_file(predictions_path) as temporary,
        temporary.open("w", encoding="utf-8") as stream,
    ):
        for sample, text in zip(kept, texts, strict=True):
            row = {"id": sample.id, "prediction": text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    summary = {
        "generate_seconds": round(elapsed, 1),
        "samples": len(kept),
        "rejects": len(samples) - len(kept),
        **provenance(device),
    }
    write_json(summary_path, summary)


def build(parts: Parts, llm: LLM) -> Adapter:
    """The adapter of a run, with the tuning of its LLM."""
    shapes = parts["backbone"]["shape"], parts["llm"]["shape"]
    return Adapter(parts["method"], *shapes, {"llm": llm.body})


def open_cache(
    adapter: Adapter,
    shards: Sequence[Path],
    backbone: Mapping[str, Any],
    directory: Path | None = None,
    view: int = 0,
) -> TokenCache | None:
    """The cache that the adapter reads, checked against the backbone and its weights in
    `directory`, and against the layers to be read; None for a method that reads none.
    """
    if not adapter.source_layers:
        return None
    expected = token_identity(backbone, view)
    if directory is not None:
        expected["weights_sha256"] = weights_identity(directory)
    cache = TokenCache(shards, expected)
    cache.read([], adapter.source_layers, adapter.cls_only)  # no sample: whether it has the layers
    return cache


def open_views(
    adapter: Adapter,
    shards: Sequence[Path],
    views: Sequence[int],
    backbone: Mapping[str, Any],
    directory: Path | None = None,
) -> CachedViews | None:
    """The caches of the views that training reads, `shards` those of one after those of another."""
    size = len(shards) // len(views)
    caches = [
        open_cache(adapter, shards[i * size : (i + 1) * size], backbone, directory, view)
        for i, view in enumerate(views)
    ]
    opened = [cache for cache in caches if cache is not None]
    return CachedViews(opened) if opened else None


def with_media(samples: Sequence[Sample], cache: TokenCache | CachedViews | None) -> list[Sample]:
    """The samples whose media were not rejected at extraction; how many were is logged."""
    kept = [sample for sample in samples if cache is None or sample.media not in cache.rejected]
    logger.info("%d samples, %d of them without media", len(samples), len(samples) - len(kept))
    return kept


def with_prompt(samples: Sequence[Sample], llm: Mapping[str, Any]) -> list[Sample]:
    """The samples, with the LLM's `answer_prompt` (config/llms/*.yaml) where a prompt is empty."""
    prompt = llm.get("answer_prompt", "")
    return [sample if sample.prompt else replace(sample, prompt=prompt) for sample in samples]
