"""Every fingerprint: what tells models, tokens and features from others, as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depalm.backbones.files import weight_files
from depalm.errors import DamagedFile
from depalm.files import read_checked, sha256_file, sha256_json, sha256_tree
from depalm.media.decoders import load_decoder
from depalm.sources.model_folder import model_files
from depalm.specs import BackboneSpec, LLMSpec, MethodSpec, PromptSpec, TrainSpec, TuneSpec

PLACES = ("source", "path", "convert")  # keys that say where a model is, not what it is
OF_TRAINING = ("drop_path",)  # keys of a backbone that decide no token of a cache


def token_identity(backbone: BackboneSpec, view: int = 0) -> dict[str, Any]:
    """What decides the tokens of a file besides the weights and the dtype, wherever they are from:
    kept with cached tokens, and what their readers ask for.
    """
    transform = load_decoder(backbone).describe(with_seed=view > 0)
    told = PLACES + OF_TRAINING
    spec = {key: value for key, value in backbone.given().items() if key not in told}
    return {"backbone": spec, "transform": transform, "view": view}


def precision_identity(dtype: str, compute: str, compiled: bool) -> dict[str, Any]:
    """The part of it that is precision: what tokens are kept in, what the backbone computes in, and
    whether it is compiled.
    """
    return {"dtype": dtype, "compute": compute, **({"compiled": True} if compiled else {})}


def encoder_identity(
    backbone: BackboneSpec,
    weights: Path,
    view: int = 0,
    dtype: str = "float16",
    compute: str = "tf32",
    compiled: bool = False,
) -> dict[str, Any]:
    """All that decides the tokens of a file, as the shards of the store have it. Raises
    BackboneError.
    """
    precision = precision_identity(dtype, compute, compiled)
    made = {"weights_sha256": weights_identity(weights), **precision}
    return {**token_identity(backbone, view), **made}


def parts_of(
    method: MethodSpec, backbone: BackboneSpec, llm: LLMSpec, prompt: PromptSpec
) -> dict[str, dict[str, Any]]:
    """The parts of a run, and how its LLM is prompted if that is said, as JSON."""
    specs = {"method": method, "backbone": backbone, "llm": llm, "prompt": prompt}
    return {name: spec.given() for name, spec in specs.items() if spec.given()}


def run_settings(
    parts: Mapping[str, Any], train: TrainSpec, online: bool, tune: TuneSpec | None = None
) -> dict[str, Any]:
    """The settings of a run, as JSON, whose SHA-256 adapter.json and scores.json tell; for `parts`
    see `parts_of`, `tune` is how some of them are chosen. A setting that is null is left out: a
    later version may have more of them.
    """
    return {
        **parts,
        "train": {key: value for key, value in train.filled().items() if value is not None},
        "features": "online" if online else "cached",
        **({} if tune is None else {"tune": tune.filled()}),
    }


def fetched_from(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's source.json; None if nobody fetched the folder. Raises DamagedFile
    of the folder.
    """
    try:
        return read_checked(folder / "source.json")
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        raise DamagedFile(folder, f"of its source.json, {error.why}") from error


def weights_identity(weights: Path) -> str:
    """What tells these weights of a backbone from others: SHA-256 of the content of source.json
    (where they are from, and their checksum there), or of the files if nobody fetched them. Raises
    BackboneError if there are none.
    """
    if (source := fetched_from(weights)) is not None:
        return sha256_json(source)
    weight_files(weights)
    return folder_identity(weights)


def folder_identity(folder: Path) -> str:
    """What tells a model's folder from others: SHA-256 of the content of source.json, or over the
    names and contents of the files that decide what it computes, its tokenizer's among them.
    """
    if (source := fetched_from(folder)) is not None:
        return sha256_json(source)
    return sha256_json({name: sha256_file(folder / name) for name in model_files(folder)})


def model_source(directory: Path) -> dict[str, Any]:
    """What a model directory holds: {"name", "uri", "revision", "sha256"}, and "converter" where it
    was converted.

    As its source.json says (see `depalm.sources.fetch` and `depalm.sources.convert`). Of
    the user's own directory, uri and revision are null, and the checksum is that of its
    safetensors (if there are several: sha256_json of {name: sha256}; if there are none: of all its
    files).
    """
    if (source := fetched_from(directory)) is not None:
        return {"name": directory.name, **source}
    weights = {file.name: sha256_file(file) for file in sorted(directory.glob("*.safetensors"))}
    digest = sha256_json(weights) if weights else sha256_tree(directory)
    if len(weights) == 1:
        digest = next(iter(weights.values()))
    return {"name": directory.name, "uri": None, "revision": None, "sha256": digest}
