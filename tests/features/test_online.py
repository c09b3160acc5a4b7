"""Online features: the backbone in the loop, as it is, tuned, and on files augmented anew."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.backbones.load import load_backbone
from depalm.cache.store import open_folder, write_receipt
from depalm.datasets.manifest import Sample, write_manifest
from depalm.features.base import read
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.features.online import Media, online_features
from depalm.files import read_json, sha256_file, write_checked
from depalm.jobs.generate import GenerateJob
from depalm.jobs.train import TrainJob
from depalm.media.decoders import load_decoder, view_seed
from depalm.media.pool import ChangedFile
from depalm.rejects import Reject, RejectError, read_rejects
from depalm.specs import BackboneSpec, LLMSpec, TrainSpec
from depalm.specs.features import Cached, Online
from depalm.specs.settings import GenerateSpec
from tests.support import encoders
from tests.support.media_files import write_images
from tests.support.runs import CPU, LLM, write_llm
from tests.support.specs import backbone_spec
from tests.support.tiny import LLM_SHAPE, METHODS, method_spec, new_adapter, replace_weights
from tests.support.training import Killed
from tests.support.vit import SPEC, VIT, tiny_vit

MEDIA = [f"images/{i}.png" for i in range(4)]
SETTINGS = TrainSpec(batch_size=4, lr=5e-3, steps=5, dtype="float32", augment=False)
METHOD = METHODS["qp_l0"]
TUNED = {**METHOD, "finetune": {"backbone": {"linears": True, "norms": True}}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, images, a manifest, and a cache of the clean images."""
    root = tmp_path_factory.mktemp("files")
    write_llm(root / "llm")
    tiny_vit(root / "vit")
    write_images(root, MEDIA)
    write_checked(root / "subset.json", {"ids": [sample.id for sample in samples(root)]})
    prepare(root)
    return root


def keys_of(root: Path) -> dict[str, str]:
    return {name: sha256_file(root / name) for name in MEDIA}


def samples(root: Path) -> list[Sample]:
    keys, answers = list(keys_of(root).items()), ["a", "b"]
    return [
        Sample(str(i), keys[i % 4][0], "what ?", [answers[i % 2]], keys[i % 4][1]) for i in range(8)
    ]


def prepare(root: Path) -> None:
    """The manifest of the images as they are now, their rows in the store, and a receipt."""
    write_manifest(root / "manifest.parquet", samples(root))
    encoder, settings = Encoder("vit", VIT, root / "vit"), Extraction(max_reject_fraction=0.3)
    arrays, keys = ["tokens/layer_11"], keys_of(root)
    done = extract(encoder, root, keys, arrays, root / "store", settings, "cpu")
    place = done.folder.relative_to(root / "store").as_posix()
    write_receipt(root / "vit.json", open_folder(done.folder, {}), place, keys, arrays)


def common(files: Path, folder: Path, method: Mapping[str, Any], online: bool) -> dict[str, Any]:
    return {
        "manifest": str(files / "manifest.parquet"),
        "features": Online(media=str(files), max_reject_fraction=0.3)
        if online
        else Cached(receipts=[str(files / "vit.json")], store=str(files / "store")),
        "backbone_directory": str(files / "vit"),
        "llm_directory": str(files / "llm"),
        "method": method_spec(method),
        "backbone": BackboneSpec.model_validate(SPEC),
        "llm": LLMSpec.model_validate(LLM),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "workers": 2,
        "adapter": str(folder / "adapter.safetensors"),
        "record": str(folder / "adapter.json"),
    }


def train(
    files: Path,
    folder: Path,
    method: Mapping[str, Any] = METHOD,
    settings: TrainSpec = SETTINGS,
    online: bool = True,
) -> dict[str, torch.Tensor]:
    TrainJob(
        **common(files, folder, method, online),
        subset=str(files / "subset.json"),
        train=settings,
        seed=0,
        curve=str(folder / "train.jsonl"),
        rejects=str(folder / "train.rejects.parquet"),
    ).run()
    return load_file(folder / "adapter.safetensors")


def generate(
    files: Path, folder: Path, method: Mapping[str, Any] = METHOD, online: bool = True
) -> dict[str, str]:
    GenerateJob(
        **common(files, folder, method, online),
        generate=GenerateSpec(beams=2, max_new_tokens=4),
        texts=str(folder / "texts.jsonl"),
        summary=str(folder / "generate.json"),
        rejects=str(folder / "generate.rejects.parquet"),
    ).run()
    rows = map(json.loads, (folder / "texts.jsonl").read_text().splitlines())
    return {row["id"]: row["prediction"] for row in rows}


# features


def untuned() -> Adapter:
    return new_adapter(METHOD, SPEC["shape"], LLM_SHAPE)


def test_features_are_the_backbones_of_each_file_in_any_order(files: Path) -> None:
    model, decoder = (
        load_backbone(VIT, files / "vit"),
        load_decoder(VIT),
    )
    asked = [MEDIA[i] for i in (2, 0, 2)]
    expected = model(torch.stack([decoder(files / name) for name in asked]))
    several = {**METHOD, "source": {"count": 2, "stride": 8}, "merge": "mean"}
    summary = {**METHOD, "source": {"from": 5, "to": 5}, "tokens": "cls"}
    for method, tokens in ((several, expected[:, [3, 11]]), (summary, expected[:, [5], :1])):
        adapter, media = new_adapter(method, SPEC["shape"], LLM_SHAPE), Media(files, workers=2)
        with online_features(adapter, model, VIT, media, keys_of(files), CPU) as online:
            torch.testing.assert_close(read(online, asked), tokens)


def test_each_epoch_and_seed_sees_a_file_in_its_own_way_and_always_the_same(files: Path) -> None:
    model, decoder = (
        load_backbone(VIT, files / "vit"),
        load_decoder(VIT),
    )
    seen = {}
    for seed in (None, 0, 1):
        media = Media(files)
        with online_features(untuned(), model, VIT, media, keys_of(files), CPU, seed) as online:
            for epoch in (0, 1, 0):
                features = read(online, MEDIA, epoch)
                torch.testing.assert_close(seen.setdefault((seed, epoch), features), features)
    pixels = torch.stack([decoder(files / n, view_seed(f"1/{n}", 2)) for n in MEDIA])
    torch.testing.assert_close(seen[1, 1], model(pixels)[:, [11]])
    torch.testing.assert_close(seen[None, 0], seen[None, 1])
    augmented = [seen[key] for key in ((None, 0), (0, 0), (0, 1), (1, 0), (1, 1))]
    for i, first in enumerate(augmented):
        for second in augmented[:i]:
            assert all(not torch.allclose(first[k], second[k]) for k in range(len(MEDIA)))


def test_a_file_that_goes_bad_later_is_named(files: Path, tmp_path: Path) -> None:
    model = load_backbone(VIT, files / "vit")
    shutil.copytree(files / "images", tmp_path / "images")
    keys = keys_of(tmp_path)
    with online_features(untuned(), model, VIT, Media(tmp_path), keys, CPU) as online:
        (tmp_path / MEDIA[1]).unlink()
        with pytest.raises(ChangedFile, match=r"images/1\.png has changed since its manifest"):
            read(online, MEDIA)


FILM, FBANK, MEL = torch.rand(2, 4, 3, 32, 32), torch.rand(2, 64, 32), torch.rand(2, 8, 40)
ENCODERS = {
    "clip": (encoders.tiny_clip, encoders.CLIP_SPEC, FILM[:, 0]),
    "open_clip": (encoders.tiny_open_clip, encoders.OPEN_CLIP_SPEC, FILM[:, 0]),
    "timm": (tiny_vit, SPEC, FILM[:, 0]),
    "ast": (encoders.tiny_ast, encoders.AST_SPEC, FBANK),
    "whisper": (encoders.tiny_whisper, encoders.WHISPER_SPEC, MEL),
    "timesformer": (encoders.tiny_timesformer, encoders.TIMESFORMER_SPEC, FILM),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_all_that_is_tuned_of_a_backbone_of_every_loader(
    name: str, tmp_path: Path
) -> None:
    write, spec, inputs = ENCODERS[name]
    write(tmp_path)
    model = load_backbone(backbone_spec(spec), tmp_path)
    frozen = model(inputs)
    method = {**TUNED, "source": {"count": 1}}
    adapter = new_adapter(method, spec["shape"], LLM_SHAPE, {"backbone": model})
    with adapter.tuned("backbone", model):
        tokens = model(inputs)
    torch.testing.assert_close(tokens, frozen)  # a tuning starts from nothing
    tokens[:, -1].square().sum().backward()
    for key, parameter in adapter.tuning.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model(inputs), frozen)


# runs


def test_a_frozen_backbone_trains_and_generates_as_from_the_cache(
    files: Path, tmp_path: Path
) -> None:
    """But for the cache's float16."""
    online, cached = (train(files, tmp_path / name, online=name == "o") for name in "oc")
    start = train(files, tmp_path / "start", settings=SETTINGS.model_copy(update={"lr": 0.0}))
    moved = {name: (cached[name] - start[name]).norm() for name in start}
    assert online.keys() == cached.keys()
    for name, distance in moved.items():
        assert distance > 0
        assert (online[name] - cached[name]).norm() < 0.1 * distance
    assert generate(files, tmp_path / "o") == generate(files, tmp_path / "o", online=False)
    records = [read_json(tmp_path / name / "adapter.json") for name in "oc"]
    assert records[0].keys() == records[1].keys()
    assert records[0]["training"].keys() == records[1]["training"].keys()


def test_augmented_training_differs_but_the_same_seed_gives_the_same_bytes(
    files: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"augment": True})
    for name in "ab":
        train(files, tmp_path / name, settings=settings)
    train(files, tmp_path / "clean")
    digests = [sha256_file(tmp_path / name / "adapter.safetensors") for name in ("a", "b", "clean")]
    assert digests[0] == digests[1] != digests[2]


def test_exactly_the_adapter_and_the_tuning_of_the_backbone_are_trained(
    files: Path, tmp_path: Path
) -> None:
    tensors = train(files, tmp_path, TUNED)
    start = train(files, tmp_path / "start", TUNED, SETTINGS.model_copy(update={"lr": 0.0}))
    assert tensors.keys() == start.keys()
    assert all(not torch.equal(tensors[name], start[name]) for name in tensors)
    tuning = {name for name in tensors if name.startswith("tuning.")}
    # each block: 4 Linears and 2 norms; the final norm
    assert len(tuning) == (12 * 6 + 1) * 2
    assert {name for name in tensors if name not in tuning} == untuned().state_dict().keys()
    record = read_json(tmp_path / "adapter.json")
    assert record["trainable_parameters"] == sum(value.numel() for value in tensors.values())


def test_a_tuned_backbone_comes_back_with_the_adapter(files: Path, tmp_path: Path) -> None:
    tensors = train(
        files,
        tmp_path,
        TUNED,
        SETTINGS.model_copy(update={"batch_size": 8, "lr": 3e-2, "steps": 100}),
    )
    answers = {sample.id: sample.references[0] for sample in samples(files)}
    assert generate(files, tmp_path, TUNED) == answers
    # a tuning by which nothing is left of the images
    scales = {n: -torch.ones_like(t) for n, t in tensors.items() if n.endswith(".scale")}
    replace_weights(tmp_path, tensors | scales)
    assert len(set(generate(files, tmp_path, TUNED).values())) == 1
    with pytest.raises(AdapterError, match="another method"):
        generate(files, tmp_path, METHOD)


def test_a_cache_is_refused_where_the_backbone_is_tuned(files: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="tokens of the frozen backbone"):
        train(files, tmp_path, TUNED, online=False)


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    files: Path,
    tmp_path: Path,
    killed_at: list[int],
) -> None:
    settings = SETTINGS.model_copy(update={"augment": True, "checkpoint_seconds": 0.0})
    train(files, tmp_path / "whole", TUNED, settings)
    killed_at += [5 + 3]
    with pytest.raises(Killed):
        train(files, tmp_path / "killed", TUNED, settings)
    assert (tmp_path / "killed/training/checkpoint.safetensors").is_file()
    train(files, tmp_path / "killed", TUNED, settings)
    digests = {sha256_file(tmp_path / n / "adapter.safetensors") for n in ("whole", "killed")}
    assert len(digests) == 1
    steps = (tmp_path / "killed/train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [1, 2, 3, 4, 5]


def test_bad_files_are_left_out_listed_and_tolerated_up_to_a_fraction(
    files: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(files, tmp_path / "broken")
    (broken / MEDIA[1]).write_bytes(b"no image")
    prepare(broken)
    train(broken, tmp_path / "run")
    lost = [Reject(key, MEDIA[1], "not an image that Pillow knows") for key in ("1", "5")]
    assert read_rejects(tmp_path / "run/train.rejects.parquet") == lost
    assert read_json(tmp_path / "run/adapter.json")["training"]["rejects"] == 2
    assert generate(broken, tmp_path / "run").keys() == {*"023467"}
    assert read_rejects(tmp_path / "run/generate.rejects.parquet") == lost
    assert read_json(tmp_path / "run/generate.json")["rejects"] == 2
    (broken / MEDIA[2]).write_bytes(b"")
    write_manifest(broken / "manifest.parquet", samples(broken))
    with pytest.raises(RejectError, match=r"2 of 4 rejected .*images/1\.png.*over max_reject"):
        train(broken, tmp_path / "other")


def test_what_the_cache_lacks_is_listed_too(files: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(files, tmp_path / "broken")
    (broken / MEDIA[1]).write_bytes(b"no image")
    prepare(broken)
    train(broken, tmp_path, online=False)
    lost = [Reject(key, MEDIA[1], "not an image that Pillow knows") for key in ("1", "5")]
    assert read_rejects(tmp_path / "train.rejects.parquet") == lost
    generate(broken, tmp_path, online=False)
    assert read_rejects(tmp_path / "generate.rejects.parquet") == lost
