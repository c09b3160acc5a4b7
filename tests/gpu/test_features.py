"""A backbone on a GPU gives the tokens that it gives on the CPU, to the cache and in the loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from depalm.backbones.load import load_backbone
from depalm.cache.errors import CacheError
from depalm.cache.formats import FORMATS, arrays_of
from depalm.cache.store import open_folder
from depalm.cache.writer import write_shard
from depalm.features.base import read
from depalm.features.cached import CachedViews
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.features.online import Media, online_features
from depalm.files import sha256_file, sha256_tree
from tests.support import encoders
from tests.support.gpu import CPU, DEVICE, GPU, error
from tests.support.media_files import write_images
from tests.support.specs import backbone_spec
from tests.support.tiny import LLM_SHAPE, METHODS, new_adapter
from tests.support.vit import SPEC, VIT, tiny_vit

pytestmark = GPU
MEDIA = [f"images/{i}.png" for i in range(7)]
ARRAYS = arrays_of("cls-9-11")
LAYERS = [9, 11]
ROUNDING = 0.01  # of convolutions in TF32, which PyTorch allows, through all layers
ENCODERS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], tuple[int, ...]]] = {
    "clip": (encoders.tiny_clip, encoders.CLIP_SPEC, (3, 32, 32)),
    "open_clip": (encoders.tiny_open_clip, encoders.OPEN_CLIP_SPEC, (3, 32, 32)),
    "timm": (tiny_vit, SPEC, (3, 32, 32)),
    "ast": (encoders.tiny_ast, encoders.AST_SPEC, (64, 32)),
    "whisper": (encoders.tiny_whisper, encoders.WHISPER_SPEC, (8, 40)),
    "timesformer": (encoders.tiny_timesformer, encoders.TIMESFORMER_SPEC, (4, 3, 32, 32)),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    tiny_vit(tmp_path / "weights")
    write_images(tmp_path, MEDIA)
    return tmp_path


def keys_of(data: Path) -> dict[str, str]:
    return {name: sha256_file(data / name) for name in MEDIA}


def extracted(
    data: Path,
    name: str,
    device: torch.device,
    batch_size: int = 3,
    view: int = 0,
    layout: str = "zarr",
) -> Path:
    """The folder of the rows of all media in a store of that name."""
    settings = Extraction(layout, batch_size=batch_size, workers=2)
    encoder = Encoder("vit", VIT, data / "weights", view, compute="float32")
    done = extract(encoder, data, keys_of(data), ARRAYS, data / name, settings, device)
    assert done.rejects == []
    return done.folder


@torch.inference_mode()
@pytest.mark.parametrize("name", ENCODERS)
def test_every_loaders_backbone_gives_the_tokens_of_the_cpu(name: str, tmp_path: Path) -> None:
    write, spec, shape = ENCODERS[name]
    write(tmp_path)
    inputs = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    model = load_backbone(backbone_spec(spec), tmp_path)
    reference = model(inputs)
    tokens = model.to(DEVICE)(inputs.to(DEVICE))
    assert tokens.device.type == DEVICE.type
    assert error(tokens, reference) < ROUNDING
    assert torch.equal(tokens, model(inputs.to(DEVICE)))


@pytest.mark.parametrize("layout", FORMATS)
def test_the_store_holds_the_tokens_of_the_cpu_and_the_same_bytes_again(
    data: Path, layout: str
) -> None:
    ours, again = (extracted(data, name, DEVICE, layout=layout) for name in ("ours", "again"))
    assert sha256_tree(ours) == sha256_tree(again)
    other, reference = (
        open_folder(extracted(data, f"{size}", device, size, layout=layout), {})
        for size, device in ((7, DEVICE), (4, CPU))
    )
    cache, keys = open_folder(ours, {}), list(keys_of(data).values())
    for cls_only in (True, False):
        tokens = cache.read(keys, LAYERS, cls_only).float()
        assert error(tokens, reference.read(keys, LAYERS, cls_only).float()) < ROUNDING
        assert error(other.read(keys, LAYERS, cls_only).float(), tokens) < ROUNDING


def test_rows_are_the_same_bytes_in_any_company(data: Path) -> None:
    keys = keys_of(data)
    whole = open_folder(extracted(data, "whole", DEVICE), {})
    encoder, settings = (
        Encoder("vit", VIT, data / "weights", compute="float32"),
        Extraction(batch_size=3),
    )
    for name in reversed(MEDIA):
        medium = {name: keys[name]}
        done = extract(encoder, data, medium, ARRAYS, data / "single", settings, DEVICE)
    single = open_folder(done.folder, {})
    assert single.digest(keys.values(), ARRAYS) == whole.digest(keys.values(), ARRAYS)


def test_an_augmented_view_is_that_of_the_cpu(data: Path) -> None:
    keys = list(keys_of(data).values())
    ours, reference = (
        open_folder(extracted(data, f"{i}", device, view=1), {})
        for i, device in enumerate((DEVICE, CPU))
    )
    tokens = ours.read(keys, LAYERS, cls_only=False).float()
    assert error(tokens, reference.read(keys, LAYERS, cls_only=False).float()) < ROUNDING


def test_tokens_that_are_not_finite_are_an_error(data: Path) -> None:
    tiny_vit(data / "weights")
    model = load_backbone(VIT, data / "weights").to(DEVICE)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with (
        pytest.raises(CacheError, match="a token is not finite in float16"),
        write_shard(data / "bad.tar", {}, SPEC["shape"], ARRAYS, "float16") as shard,
    ):
        shard.pack(model.layers(torch.rand(2, 3, 32, 32, device=DEVICE)))


def test_views_of_the_cache_are_read_onto_the_device(data: Path) -> None:
    cache, keys = open_folder(extracted(data, "store", DEVICE), {}), keys_of(data)
    views = CachedViews([cache], keys, LAYERS, cls_only=False, device=DEVICE)
    tokens = read(views, MEDIA)
    assert tokens.device.type == DEVICE.type
    assert torch.equal(tokens.cpu(), cache.read(list(keys.values()), LAYERS, cls_only=False))


@pytest.mark.parametrize("seed", [None, 0])
def test_features_online_are_those_of_the_cpu(data: Path, seed: int | None) -> None:
    seen = {}
    for device in (DEVICE, CPU):
        model = load_backbone(VIT, data / "weights").to(device)
        adapter = new_adapter(METHODS["qp_l0"], SPEC["shape"], LLM_SHAPE).to(device)
        media = Media(data, workers=2)
        with online_features(adapter, model, VIT, media, keys_of(data), device, seed) as features:
            tokens = read(features, [*MEDIA, MEDIA[0]], epoch=1)
        assert tokens.device.type == device.type
        seen[device.type] = tokens.detach()
    assert error(seen[DEVICE.type], seen["cpu"]) < ROUNDING
