"""Training and generation of one run, from the files that stand before it to those behind it."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from depalm.adapter import Adapter, load_adapter, save_adapter
from depalm.batches import encode
from depalm.files import atomic_file, read_json, sha256_file, sha256_json, write_json
from depalm.generate import Decoding, generate
from depalm.llms import load_llm
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
    views: Sequence[int],
    llm_directory: Path,
    parts: Parts,
    settings: Settings,
    seed: int,
    device: torch.device,
    adapter_path: Path,
    config_path: Path,
    summary_path: Path,
    log_path: Path,
) -> None:
    """Train on the samples that `subset` lists, and write adapter, its configuration, summary and
    log.

    `shards` are those of the first of `views`, then as many of the next. Checkpoints and
    TensorBoard scalars go to a folder beside the adapter; what is needed to go on after a kill is
    removed once the run is whole. Raises AdapterError, CacheError, LLMError or TrainingError.
    """
    torch.manual_seed(seed)
    adapter = Adapter(parts["method"], parts["backbone"]["shape"], parts["llm"]["shape"]).to(device)
    cache = open_views(adapter, shards, views, parts["backbone"])
    chosen = set(subset.read_text(encoding="utf-8").splitlines())
    samples = [sample for sample in read_manifest(manifest) if sample.id in chosen]
    kept = with_media(samples, cache)
    llm = load_llm(parts["llm"], llm_directory, settings.dtype, device)
    config = {**parts, "train": vars(settings)}
    identity = sha256_json(
        {
            **config,
            "seed": seed,
            "samples": [sha256_file(manifest), sha256_file(subset)],
            "cache": None if cache is None else [cache.metadata, cache.checksums],
            "llm_source": _source(llm_directory),
            "threads": torch.get_num_threads(),
            "device": str(device),
        }
    )
    folder = adapter_path.parent / "training"
    data = encode(llm, kept, settings.max_answer_tokens)
    run = train(llm, adapter, data, cache, settings, seed, folder, identity)
    save_adapter(adapter, adapter_path, config_path, parts)
    with atomic_file(log_path) as temporary:
        shutil.copyfile(folder / "train.jsonl", temporary)
    summary = {
        "trainable_parameters": adapter.trainable_parameters,
        "train_seconds": round(run.seconds, 1),
        "steps": run.step,
        "samples_seen": run.samples,
        "final_loss": run.loss,
        "rejects": len(samples) - len(kept),
        "config_sha256": sha256_json(config),
        **provenance(device),
    }
    write_json(summary_path, summary)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    (folder / "train.jsonl").unlink()


def generate_run(
    manifest: Path,
    shards: Sequence[Path],
    llm_directory: Path,
    adapter_path: Path,
    config_path: Path,
    parts: Parts,
    decoding: Decoding,
    device: torch.device,
    predictions_path: Path,
    summary_path: Path,
) -> None:
    """Write one prediction for each sample of the manifest whose media the cache holds, in its
    order.

    Raises AdapterError, CacheError or LLMError.
    """
    adapter = load_adapter(adapter_path, config_path, parts, device).eval()
    cache = open_cache(adapter, shards, parts["backbone"])
    samples = read_manifest(manifest)
    kept = with_media(samples, cache)
    llm = load_llm(parts["llm"], llm_directory, decoding.dtype, device)
    started = time.monotonic()
    texts = generate(llm, adapter, kept, cache, decoding)
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


def open_cache(
    adapter: Adapter, shards: Sequence[Path], backbone: Mapping[str, Any], view: int = 0
) -> TokenCache | None:
    """The cache that the adapter reads, checked against the backbone; None for a blind method."""
    return TokenCache(shards, token_identity(backbone, view)) if adapter.source_layers else None


def open_views(
    adapter: Adapter, shards: Sequence[Path], views: Sequence[int], backbone: Mapping[str, Any]
) -> CachedViews | None:
    """The caches of the views that training reads, `shards` those of one after those of another."""
    size = len(shards) // len(views)
    caches = [
        open_cache(adapter, shards[i * size : (i + 1) * size], backbone, view)
        for i, view in enumerate(views)
    ]
    opened = [cache for cache in caches if cache is not None]
    return CachedViews(opened) if opened else None


def with_media(samples: Sequence[Sample], cache: TokenCache | CachedViews | None) -> list[Sample]:
    """The samples whose media were not rejected at extraction; how many were is logged."""
    kept = [sample for sample in samples if cache is None or sample.media not in cache.rejected]
    logger.info("%d samples, %d of them without media", len(samples), len(samples) - len(kept))
    return kept


def _source(directory: Path) -> Any:
    """Where a model is from; of the user's own directory, its configuration stands for it."""
    source = directory / "source.json"
    return read_json(source if source.is_file() else directory / "config.json")
