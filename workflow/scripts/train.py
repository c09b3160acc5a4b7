"""Train the adapter of one run from the cache (rule `train`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from depalm.adapter import Adapter, save_adapter
from depalm.batches import encode
from depalm.files import read_json, sha256_file, sha256_json, write_json
from depalm.llms import load_llm
from depalm.manifest import read_manifest
from depalm.progress import log_to, logger
from depalm.provenance import choose_device, provenance
from depalm.token_cache import TokenCache
from depalm.train import Settings, train


def train_run(
    manifest: Path,
    subset: Path,
    shards: Sequence[Path],
    llm_directory: Path,
    method: Mapping[str, Any],
    backbone: Mapping[str, Any],
    llm: Mapping[str, Any],
    settings: Settings,
    seed: int,
    device: torch.device,
    folder: Path,
) -> tuple[Adapter, dict[str, Any]]:
    """-> the trained adapter, and the summary that goes into train.json."""
    torch.manual_seed(seed)
    adapter = Adapter(method, backbone["shape"], llm["shape"]).to(device)
    cache = TokenCache(shards, {"backbone": backbone}) if adapter.source_layers else None
    chosen = set(subset.read_text().splitlines())
    samples = [sample for sample in read_manifest(manifest) if sample.id in chosen]
    kept = [s for s in samples if cache is None or s.media not in cache.rejected]
    logger.info("%d samples, %d of them without media", len(samples), len(samples) - len(kept))
    model = load_llm(llm, llm_directory, settings.dtype, device)
    config = {"method": method, "backbone": backbone, "llm": llm, "train": vars(settings), "seed": seed}
    inputs = {
        "samples": sha256_file(subset),
        "manifest": sha256_file(manifest),
        "cache": [read_json(shard / "zarr.json")["attributes"]["sha256"] for shard in shards],
        "llm": read_json(llm_directory / "source.json"),
    }
    identity = sha256_json({"config": config, "inputs": inputs, "threads": torch.get_num_threads()})
    data = encode(model, kept, settings.max_answer_tokens)
    run = train(model, adapter, data, cache, settings, seed, folder, identity)
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
    return adapter, summary
