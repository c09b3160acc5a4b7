"""What a plan reads of the rooms of models and caches is light: in a process of its own."""

import subprocess
import sys

import pytest

from tests.support.project import ROOT

HEAVY = {
    "torch",
    "transformers",
    "timm",
    "open_clip",
    "zarr",
    "torchvision",
    "av",
    "soundfile",
    "PIL",
}
IMPORT = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted(set(sys.argv[2:]) & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    "module",
    [
        "depalm.backbones.registry",
        "depalm.cache.formats",
        "depalm.media.decoders",
        "depalm.identity",
    ],
)
def test_importing_a_list_of_names_imports_no_model_and_no_decoder(module: str) -> None:
    command = [sys.executable, "-c", IMPORT, module, *HEAVY]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert imported == []


def test_what_reads_cached_tokens_imports_what_it_needs_alone() -> None:
    """Every job of training and generation starts so."""
    unused = ["torchvision", "timm", "open_clip", "torch.distributed.fsdp", "wandb", "av"]
    code = """
import sys
import depalm.jobs.work.generate, depalm.jobs.work.train
from depalm.media.decoders import load_decoder
from pathlib import Path
from depalm.config.schema import load_yaml
from depalm.specs import BackboneSpec
load_decoder(BackboneSpec.model_validate(load_yaml(Path("config/backbones/dinov2-S.yaml")))).describe()
print(*sorted(set(sys.argv[1:]) & sys.modules.keys()))
"""
    command = [sys.executable, "-c", code, *unused]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_names_are_known_and_sizes_predicted_without_an_import() -> None:
    code = """
import sys
from depalm.backbones.registry import LOADERS
from depalm.cache.formats import FORMATS, predicted_bytes
assert "timm" in LOADERS and "timn" not in LOADERS
for known in FORMATS.values():
    shape = {"layers": 2, "tokens": 3, "width": 4}
    assert predicted_bytes(known, 2, shape, ["cls", "tokens/layer_1"])["cls"] > 32
assert not {"torch", "zarr"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
