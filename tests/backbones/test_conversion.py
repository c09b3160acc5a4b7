"""Checkpoints of PyTorch, made into safetensors without running what is in them."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.files import read_checked, write_json
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from depalm.sources.weight_formats import read_pytorch
from tests.support.backbones import FILM, SOURCE, converted
from tests.support.encoders import (
    CLIP_SPEC,
    TIMESFORMER_SPEC,
    WHISPER_SPEC,
    tiny_ast,
    tiny_timesformer,
)
from tests.support.specs import backbone_spec


class Evil:
    """What a pickle can do: call something when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    """pytorch_model.bin, as some models on the hub are only published."""
    model = tiny_timesformer(tmp_path / "published")
    expected = load_backbone(backbone_spec(TIMESFORMER_SPEC), tmp_path / "published")(FILM)
    download = tmp_path / "download"
    download.mkdir()
    (download / "config.json").write_bytes((tmp_path / "published/config.json").read_bytes())
    weights = tmp_path / "model"
    torch.save(model.state_dict(), download / "pytorch_model.bin")
    write_json(download / "source.json", SOURCE)
    convert(download, weights, "pytorch")
    names = ["config.json", "model.safetensors", "source.json"]
    assert sorted(path.name for path in weights.iterdir()) == names
    assert read_checked(weights / "source.json") == {**SOURCE, "converter": "pytorch"}
    assert load_backbone(backbone_spec(TIMESFORMER_SPEC), weights)(FILM).equal(expected)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    content = {"model": {"x": torch.zeros(1)}, "args": Evil(tmp_path / "ran")}
    with pytest.raises(ConvertError, match="not a checkpoint of plain data"):
        converted(tmp_path, content, "model.pth")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], torch.zeros(1)])
def test_a_checkpoint_without_named_tensors(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConvertError, match=r"model\.pth holds no tensors by name"):
        converted(tmp_path, content, "model.pth")


def test_numbers_of_numpy_1_are_read_by_any_numpy(tmp_path: Path) -> None:
    """The name of their class is another than in numpy 2."""
    torch.save({"state_dict": {"x": torch.ones(3)}, "map": np.float64(0.5)}, tmp_path / "new.pt")
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as new,
        zipfile.ZipFile(tmp_path / "old.pt", "w") as old,
    ):
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core.multiarray\nscalar" in (tmp_path / "old.pt").read_bytes()
    assert read_pytorch(tmp_path / "old.pt")["x"].equal(torch.ones(3))


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_json(download / "source.json", SOURCE)
    torch.save({"x": torch.zeros(1000)}, download / "model.pt")
    (download / "model.pt").write_bytes((download / "model.pt").read_bytes()[:2000])
    with pytest.raises(ConvertError, match=r"model\.pt is not a checkpoint"):
        convert(download, tmp_path / "model", "pytorch")


def test_several_checkpoints_without_an_index(tmp_path: Path) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_json(download / "source.json", SOURCE)
    for name in ("a.pt", "b.pt"):
        torch.save({"x": torch.zeros(1)}, download / name)
    with pytest.raises(ConvertError, match=r"must hold one checkpoint .*a\.pt.*b\.pt"):
        convert(download, tmp_path / "model", "pytorch")


def test_another_class_of_model_is_told(tmp_path: Path) -> None:
    """Which transformers would load, with weights at random."""
    tiny_ast(tmp_path)
    with pytest.raises(BackboneError, match=r"'audio-spectrogram-transformer' model, .* 'whisper'"):
        load_backbone(backbone_spec(WHISPER_SPEC), tmp_path)
    with pytest.raises(BackboneError, match=r"but the loader is for 'clip_vision_model'"):
        load_backbone(backbone_spec(CLIP_SPEC), tmp_path)
