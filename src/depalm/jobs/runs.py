"""Training and generation of one run, from the files that stand before it to those behind it."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.saved import (
    RECORD,
    WEIGHTS,
    DamagedAdapter,
    load_weights,
    made_for,
    read_record,
    save_adapter,
)
from depalm.adapters.selection import AdapterError
from depalm.backbones.base import Backbone
from depalm.backbones.registry import load_backbone, weights_identity
from depalm.cache.store import TokenCache
from depalm.datasets.manifest import Sample, read_manifest, unique_media
from depalm.features.cached import CachedViews
from depalm.features.online import Media, OnlineFeatures, online_features
from depalm.files import atomic_file, sha256_file, sha256_json, write_json
from depalm.generation.generate import Decoding, generate
from depalm.jobs.outputs import publish, publish_again
from depalm.lease import Lease, while_owned
from depalm.llms.base import LLM, load_llm
from depalm.media.decoders import token_identity
from depalm.progress import logger
from depalm.provenance import machine, provenance
from depalm.rejects import Reject, write_rejects
from depalm.training.batches import encode
from depalm.training.loop import Settings, remove_checkpoints, train

Parts = Mapping[str, Mapping[str, Any]]  # the contents of the method's, backbone's and LLM's YAML


def train_run(
    manifest: Path,
    subset: Path,
    shards: Sequence[Path | str],
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
    rejects_path: Path,
    media: Media | None = None,
) -> None:
    """Train on the samples that `subset` lists, and write the adapter, its record, the log, and the
    samples that were left out for want of features.

    `shards`, paths or URLs, are those of the first of `views`, then as many of the next; with
    `media` the backbone runs in the loop instead. `backbone_directory` is None for a method that
    reads no backbone. Checkpoints and TensorBoard scalars go to a folder beside the adapter; what
    is needed to go on after a kill is removed once the run is whole. Raises AdapterError,
    CacheError, LLMError or TrainingError; with URLs also DownloadError, with `media` BackboneError,
    DecodingError, MediaError and RejectError.
    """
    made = made_for(parts, backbone_directory, llm_directory)
    start = None if settings.init_from is None else Path(settings.init_from)
    chosen = set(subset.read_text(encoding="utf-8").splitlines())
    samples = [sample for sample in read_manifest(manifest) if sample.id in chosen]
    folder = adapter_path.parent / "training"
    places = {
        WEIGHTS: adapter_path,
        RECORD: record_path,
        "train.jsonl": log_path,
        "rejects.parquet": rejects_path,
    }

    def work(held: Lease) -> None:
        record = None if start is None else read_record(start / RECORD, made)
        llm = load_llm(parts["llm"], llm_directory, settings.dtype, device)
        model = online_backbone(parts["backbone"], backbone_directory, media, device)
        torch.manual_seed(seed)
        adapter = build(parts, llm, model)
        if start is not None and record is not None:
            load_weights(adapter, start / WEIGHTS, record)
        config = {
            **parts,
            "train": vars(settings),
            "features": "cached" if model is None else "online",
        }
        with open_features(
            adapter.to(device),
            samples,
            shards,
            views,
            parts["backbone"],
            backbone_directory,
            model,
            media,
            device,
            seed if settings.augment else None,
        ) as cache:
            identity = sha256_json(
                {
                    **config,
                    "seed": seed,
                    "made_for": made,
                    "samples": [sha256_file(manifest), sha256_file(subset)],
                    "cache": None if cache is None else cache.identity,
                    "init_from": None if start is None else sha256_file(start / WEIGHTS),
                    **machine(device),
                }
            )
            if publish_again(folder, places, identity):
                return
            kept = with_prompt(with_media(samples, cache), parts["llm"])
            data = encode(llm, kept, settings.max_answer_tokens)
            run = train(llm, adapter, data, cache, settings, seed, folder, identity, held.check)
            held.check()
            write_rejects(folder / "rejects.parquet", left_out(samples, cache))
        training = {
            "train_seconds": round(run.seconds, 1),
            "steps": run.step,
            "samples_seen": run.samples,
            "final_loss": run.loss,
            "rejects": len(samples) - len(kept),
            "config_sha256": sha256_json(config),
            **provenance(device),
        }
        save_adapter(adapter, folder / WEIGHTS, folder / RECORD, made, training)
        publish(folder, places, identity)
        remove_checkpoints(folder)

    while_owned(folder, work)


def generate_run(
    manifest: Path,
    shards: Sequence[Path | str],
    backbone_directory: Path | None,
    llm_directory: Path,
    adapter_path: Path,
    record_path: Path,
    parts: Parts,
    decoding: Decoding,
    device: torch.device,
    predictions_path: Path,
    summary_path: Path,
    rejects_path: Path,
    media: Media | None = None,
) -> None:
    """Write one prediction for each sample of the manifest whose features there are, in its order,
    and the others.

    With `media` the backbone runs on its files, instead of a cache that was. Raises AdapterError
    (an adapter of another method, backbone or LLM) and otherwise as :func:`train_run`.
    """
    made = made_for(parts, backbone_directory, llm_directory)
    samples = read_manifest(manifest)
    folder = predictions_path.parent / "generation" / predictions_path.name.partition(".")[0]
    places = {
        "predictions.jsonl": predictions_path,
        "summary.json": summary_path,
        "rejects.parquet": rejects_path,
    }

    def work(held: Lease) -> None:
        llm = load_llm(parts["llm"], llm_directory, decoding.dtype, device)
        model = online_backbone(parts["backbone"], backbone_directory, media, device)
        adapter = build(parts, llm, model)
        load_adapter(adapter, adapter_path, record_path, made, predictions_path.parent)
        with open_features(
            adapter.to(device).eval(),
            samples,
            shards,
            [0],
            parts["backbone"],
            backbone_directory,
            model,
            media,
            device,
        ) as cache:
            identity = sha256_json(
                {
                    **parts,
                    "decoding": vars(decoding),
                    "made_for": made,
                    "manifest": sha256_file(manifest),
                    "adapter": sha256_file(adapter_path),
                    "cache": None if cache is None else cache.identity,
                    **machine(device),
                }
            )
            if publish_again(folder, places, identity):
                return
            kept = with_prompt(with_media(samples, cache), parts["llm"])
            started = time.monotonic()
            texts = generate(llm, adapter, kept, cache, decoding)
            elapsed = time.monotonic() - started
            held.check()
            write_rejects(folder / "rejects.parquet", left_out(samples, cache))
        write_predictions(folder / "predictions.jsonl", kept, texts)
        summary = {
            "generate_seconds": round(elapsed, 1),
            "samples": len(kept),
            "rejects": len(samples) - len(kept),
            **provenance(device),
        }
        write_json(folder / "summary.json", summary)
        publish(folder, places, identity)

    while_owned(folder, work)


def load_adapter(
    adapter: Adapter, weights: Path, record: Path, made: Mapping[str, Any], run: Path
) -> None:
    """Fill `adapter` from its two files, which must be whole and made for `made`.

    If they are damaged and belong to the folder `run`, the weights are set aside, and the record
    says so, before DamagedAdapter is raised: the same command then makes both anew, for Snakemake
    misses the one and finds the other changed.
    """
    try:
        load_weights(adapter, weights, read_record(record, made))
    except DamagedAdapter as error:
        if weights.parent != run:
            raise
        aside = weights.with_name(f"{weights.name}.damaged")
        weights.replace(aside)
        write_json(record, {"damaged": str(error)})
        raise DamagedAdapter(
            f"{error}. Its weights are now {aside}: run the same command again to have them anew"
        ) from error


def write_predictions(path: Path, samples: Sequence[Sample], texts: Sequence[str]) -> None:
    """Write a line {"id", "prediction"} for each sample."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for sample, text in zip(samples, texts, strict=True):
            row = {"id": sample.id, "prediction": text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def build(parts: Parts, llm: LLM, backbone: Backbone | None = None) -> Adapter:
    """The adapter of a run, with the tuning of its LLM and of a backbone that runs with it."""
    shapes = parts["backbone"]["shape"], parts["llm"]["shape"]
    models = {"llm": llm.body, **({} if backbone is None else {"backbone": backbone})}
    return Adapter(parts["method"], *shapes, models)


def online_backbone(
    backbone: Mapping[str, Any],
    directory: Path | None,
    media: Media | None,
    device: torch.device,
) -> Backbone | None:
    """The backbone of a run that has it in the loop; None if a cache is read, or no backbone."""
    if media is None or directory is None:
        return None
    return load_backbone(backbone, directory).to(device)


def open_features(
    adapter: Adapter,
    samples: Sequence[Sample],
    shards: Sequence[Path | str],
    views: Sequence[int],
    backbone: Mapping[str, Any],
    directory: Path | None,
    model: Backbone | None,
    media: Media | None,
    device: torch.device,
    seed: int | None = None,
) -> AbstractContextManager[CachedViews | OnlineFeatures | None]:
    """What the adapter reads of the samples' media: the tokens of `model` on `media`, for training
    augmented by `seed`, or else caches (see :func:`open_views`); None if it reads none.
    """
    if model is None or media is None:
        return nullcontext(open_views(adapter, shards, views, backbone, directory))
    files = unique_media(samples)
    return online_features(adapter, model, backbone, media, files, device, seed)


def open_cache(
    adapter: Adapter,
    shards: Sequence[Path | str],
    backbone: Mapping[str, Any],
    directory: Path | None = None,
    view: int = 0,
) -> TokenCache | None:
    """The cache that the adapter reads, checked against the backbone and its weights in
    `directory`, and against the layers to be read; None for a method that reads none.
    """
    if "backbone" in adapter.finetune:
        raise AdapterError("a cache holds the tokens of the frozen backbone, not of a tuned one")
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
    shards: Sequence[Path | str],
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


def with_media(
    samples: Sequence[Sample], cache: CachedViews | OnlineFeatures | None
) -> list[Sample]:
    """The samples whose media were not rejected; how many were is logged."""
    rejected = {} if cache is None else cache.rejected
    kept = [sample for sample in samples if sample.media not in rejected]
    logger.info("%d samples, %d of them without media", len(samples), len(samples) - len(kept))
    return kept


def left_out(samples: Sequence[Sample], cache: CachedViews | OnlineFeatures | None) -> list[Reject]:
    """The samples that :func:`with_media` does not keep, each with the reason."""
    rejected = {} if cache is None else cache.rejected
    return [Reject(s.id, s.media, rejected[s.media]) for s in samples if s.media in rejected]


def with_prompt(samples: Sequence[Sample], llm: Mapping[str, Any]) -> list[Sample]:
    """The samples, with the LLM's `answer_prompt` (config/llms/*.yaml) where a prompt is empty."""
    prompt = llm.get("answer_prompt", "")
    return [sample if sample.prompt else replace(sample, prompt=prompt) for sample in samples]
