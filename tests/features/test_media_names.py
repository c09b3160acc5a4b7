"""Extraction and online features read below their root alone."""

from pathlib import Path

import pytest

from depalm.datasets.manifest import (
    Sample,
    read_manifest,
    unique_media,
    write_manifest,
)
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.features.online import Media, OnlineFeatures
from depalm.files import OutsideError
from tests.support.media_files import write_images
from tests.support.vit import VIT, tiny_vit


def test_extraction_and_online_features_read_below_their_root(tmp_path: Path) -> None:
    tiny_vit(tmp_path / "weights")
    write_images(tmp_path, ["outside.png", "root/a.png"])
    write_manifest(tmp_path / "m.parquet", [Sample("1", "../outside.png", "", ["x"])])
    media, root = unique_media(read_manifest(tmp_path / "m.parquet")), tmp_path / "root"
    store = tmp_path / "store"
    encoder, keys = Encoder("vit", VIT, tmp_path / "weights"), dict.fromkeys(media, "0")
    with pytest.raises(OutsideError, match=r"'\.\./outside\.png' leaves its folder"):
        extract(encoder, root, keys, ["cls"], store, Extraction(), "cpu")
    assert not list(store.rglob("*.zarr"))
    features = OnlineFeatures(None, None, None, Media(root), keys, "cpu", None)  # type: ignore[arg-type]
    with pytest.raises(OutsideError, match=r"'\.\./outside\.png' leaves its folder"):
        features._files(media, None)
