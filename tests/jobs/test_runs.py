"""Runs from files to files: adapters saved, loaded, started from and refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from depalm.adapters.errors import AdapterError
from depalm.adapters.record import DamagedAdapter
from depalm.cache.errors import CacheError
from depalm.files import read_json, sha256_file, write_json
from depalm.identity import model_source
from depalm.jobs.train import TrainSeedsJob
from depalm.jobs.work import models
from tests.support.runs import LLM, METHOD, SAMPLES, SETTINGS, common, generate, train, write_files
from tests.support.tiny import METHODS, replace_weights
from tests.support.vit import SPEC


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def trained(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(files, tmp_path_factory.mktemp("trained"))


def test_the_record_says_what_the_adapter_was_made_for(files: Path, trained: Path) -> None:
    record = read_json(trained / "adapter.json")
    assert record["method"] == {key: value for key, value in METHOD.items() if key != "version"}
    known = {key: LLM[key] for key in ("family", "shape")}
    assert record["llm"] == {**known, **model_source(files / "llm")}
    assert record["backbone"]["shape"] == SPEC["shape"]
    assert record["backbone"]["name"] == "vit"
    assert (record["source_layers"], record["target_layers"]) == ([11], [0])
    tensors = load_file(trained / "adapter.safetensors")
    assert record["trainable_parameters"] == sum(value.numel() for value in tensors.values())
    assert record["training"]["steps"] == 3


def test_a_source_is_known_by_its_file_or_its_weights(files: Path, tmp_path: Path) -> None:
    own = model_source(files / "llm")
    assert own["uri"] is None
    assert own["sha256"] != model_source(files / "other-llm")["sha256"]
    published = {"uri": "hf://owner/name", "sha256": own["sha256"], "revision": "0a1b"}
    write_json(tmp_path / "source.json", published)
    assert model_source(tmp_path) == {"name": tmp_path.name, **published}


def test_an_adapter_generates_for_the_models_it_was_trained_with(
    files: Path, trained: Path, tmp_path: Path
) -> None:
    assert len(generate(files, trained)) == len(SAMPLES)
    moved = shutil.copytree(files, tmp_path / "moved")  # the same models at another place
    assert generate(moved, trained, {**METHOD, "version": 2}) == generate(files, trained)


def test_seeds_of_one_job_share_the_llm_and_nothing_else(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a run tunes the LLM's norms meanwhile."""
    loads = []
    load = models.load_llm
    monkeypatch.setattr(models, "load_llm", lambda *given: loads.append(given) or load(*given))
    method = {**METHOD, "finetune": {"llm": {"norms": True, "lora": {"rank": 2}}}}
    for seed in range(2):
        train(files, tmp_path / f"apart{seed}", method, seed=seed)
    folders = [tmp_path / f"together{seed}" for seed in range(2)]
    given = common(files, tmp_path, method, "llm", "vit")
    outputs = {
        "adapter": "adapter.safetensors",
        "record": "adapter.json",
        "curve": "train.jsonl",
        "rejects": "train.rejects.parquet",
    }
    listed = {key: [str(f / name) for f in folders] for key, name in outputs.items()}
    loads.clear()
    job = {**given, **listed, "subset": [str(files / "subset.json")] * 2, "seeds": [0, 1]}
    TrainSeedsJob(**job, train=SETTINGS).run()
    assert len(loads) == 1
    for seed, folder in enumerate(folders):
        for name in ("adapter.safetensors", "train.rejects.parquet"):
            assert sha256_file(folder / name) == sha256_file(tmp_path / f"apart{seed}" / name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"llm": "other-llm"}, "another llm, llm, than other-llm: its sha256"),
        ({"vit": "other-vit"}, "another backbone, vit, than other-vit: its sha256"),
        ({"method": {**METHOD, "prompt_tokens": 2}}, "another method.*prompt_tokens is 1, not 2"),
        ({"method": METHODS["blind"]}, "another method"),
    ],
)
def test_an_adapter_for_something_else_is_refused(
    files: Path, trained: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        generate(files, trained, **changed)
    with pytest.raises(AdapterError, match=message):
        train(
            files,
            trained,
            settings=SETTINGS.model_copy(update={"init_from": str(trained)}),
            **changed,
        )


def test_training_starts_from_an_adapter(files: Path, trained: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"init_from": str(trained), "lr": 1e-9, "weight_decay": 0.0}
    )
    again = train(files, tmp_path / "again", settings=settings, seed=1)
    first, second = (load_file(path / "adapter.safetensors") for path in (trained, again))
    anew = load_file(train(files, tmp_path / "anew", seed=1) / "adapter.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=0)
    assert not torch.allclose(anew["prompt"], first["prompt"])


def test_a_blind_adapter_asks_for_no_backbone(files: Path, tmp_path: Path) -> None:
    blind = METHODS["blind"]
    folder = train(files, tmp_path, blind)
    assert read_json(folder / "adapter.json")["backbone"] is None
    assert len(generate(files, folder, blind, vit="other-vit")) == len(SAMPLES)


@pytest.mark.parametrize(
    ("kinds", "lr", "prefix", "count"),
    [
        ({"linears": True, "norms": True}, 0.3, "tuning.llm.parts.", 4 * (7 * 2 + 2) + 1),
        (
            {"lora": {"rank": 2}},
            0.03,
            "tuning.llm.loras.",
            4 * 2 * 2,
        ),  # A and B of two Linears a layer
    ],
)
def test_a_tuned_llm_comes_back_with_the_adapter(
    files: Path, tmp_path: Path, kinds: dict[str, Any], lr: float, prefix: str, count: int
) -> None:
    method = {**METHOD, "finetune": {"llm": kinds}}
    settings = SETTINGS.model_copy(update={"lr": lr, "steps": 8})
    folder = train(files, tmp_path, method, settings)
    tensors = load_file(folder / "adapter.safetensors")
    tuned = {name for name in tensors if name.startswith(prefix)}
    assert len(tuned) == count
    before = generate(files, folder, method)
    zeros = {name: value * (name not in tuned) for name, value in tensors.items()}
    replace_weights(folder, zeros)
    assert generate(files, folder, method) != before


def test_tensors_that_are_not_the_adapters_are_refused(
    files: Path, trained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "copy")
    tensors = load_file(folder / "adapter.safetensors")
    tensors["prompt"] = torch.zeros(5, 32)
    replace_weights(folder, tensors)
    with pytest.raises(AdapterError, match="does not hold this adapter's tensors"):
        generate(files, folder)
    (folder / "adapter.json").write_text("{}")
    with pytest.raises(AdapterError, match="not an adapter's record"):
        generate(files, folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.json"])
def test_a_damaged_adapter_is_named_and_made_anew_by_the_same_command(
    files: Path, trained: Path, tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    if (name, damage) == ("adapter.json", flip):
        damage = cut  # a flipped letter of a label would be no damage that matters
    damage(folder / name)
    before = (folder / "adapter.json").read_bytes()
    with pytest.raises(DamagedAdapter, match=rf"{name}.*run the same command again"):
        generate(files, folder)
    assert not (folder / "adapter.safetensors").exists()  # so that Snakemake has it trained
    assert (folder / "adapter.json").read_bytes() != before  # and what was scored counts as stale
    train(files, folder)
    assert sha256_file(folder / "adapter.safetensors") == sha256_file(
        trained / "adapter.safetensors"
    )
    assert generate(files, folder) == generate(files, trained)


def test_a_damaged_adapter_of_somebody_elses_is_left_as_it_is(
    files: Path, trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "theirs"))
    cut(folder / "adapter.safetensors")
    settings = SETTINGS.model_copy(update={"init_from": str(folder)})
    with pytest.raises(DamagedAdapter, match=r"theirs/adapter\.safetensors is damaged.*SHA-256"):
        train(files, tmp_path / "run", settings=settings)
    assert (folder / "adapter.safetensors").is_file()


def test_layers_or_weights_that_the_cache_lacks_are_an_error_before_training(
    files: Path, tmp_path: Path
) -> None:
    inner = METHODS["qp_inner"]
    with pytest.raises(CacheError, match=r"vit\.json tells of .*layer_11.*, not of .*layer_10"):
        train(files, tmp_path, inner)
    assert not (tmp_path / "training").exists()
    stale = shutil.copytree(files, tmp_path / "stale")
    shutil.copy(files / "other-vit.json", stale / "vit.json")
    with pytest.raises(CacheError, match="weights_sha256"):
        train(stale, tmp_path)
