"""Jobs that find the GPU, use it, and say so."""

import gc
from pathlib import Path

import pytest
import torch

from depalm.files import read_json, sha256_file
from depalm.provenance import choose_device, device_name, machine
from tests.support import runs
from tests.support.gpu import DEVICE, GPU
from tests.support.tiny import METHODS
from tests.support.training import Killed

pytestmark = GPU
AUTO = "auto" if DEVICE.type == "cuda" else str(DEVICE)
SETTINGS = runs.SETTINGS.model_copy(update={"steps": 6, "checkpoint_seconds": 0})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_files(tmp_path_factory.mktemp("files"))


def train(files: Path, folder: Path, device: str = AUTO) -> str:
    """SHA-256 of the adapter."""
    runs.train(files, folder, settings=SETTINGS, device=device)
    return sha256_file(folder / "adapter.safetensors")


def test_auto_is_the_gpu() -> None:
    assert choose_device(AUTO).type == DEVICE.type
    assert choose_device("cpu").type == "cpu"
    assert machine(choose_device(AUTO))["device"].startswith(DEVICE.type)


@pytest.mark.parametrize("method", ["qp_l0", "blind"])
def test_a_run_trains_and_generates_on_the_gpu_and_names_it(
    files: Path, tmp_path: Path, method: str
) -> None:
    runs.train(files, tmp_path, METHODS[method], device=AUTO)
    texts = runs.generate(files, tmp_path, METHODS[method], device=AUTO)
    card = device_name(DEVICE)
    assert read_json(tmp_path / "adapter.json")["training"]["device"] == card
    assert read_json(tmp_path / "generate.json")["device"] == card
    assert len(texts) == len(runs.SAMPLES)
    # an adapter goes from one machine to another
    assert len(runs.generate(files, tmp_path, METHODS[method], device="cpu")) == len(texts)


def test_a_killed_job_ends_with_the_bytes_of_an_undisturbed_one(
    files: Path, tmp_path: Path, killed_at: list[int]
) -> None:
    whole = train(files, tmp_path / "whole")
    killed_at.append(6 + 4)
    with pytest.raises(Killed):
        train(files, tmp_path / "killed")
    assert (tmp_path / "killed/training/checkpoint.safetensors").is_file()
    assert train(files, tmp_path / "killed") == whole


def test_what_was_begun_on_the_gpu_is_not_continued_on_the_cpu(
    files: Path, tmp_path: Path, killed_at: list[int]
) -> None:
    whole = train(files, tmp_path / "whole", "cpu")
    killed_at.append(6 + 4)
    with pytest.raises(Killed):
        train(files, tmp_path / "killed")
    assert train(files, tmp_path / "killed", "cpu") == whole


def test_no_tensor_is_left_on_the_gpu(files: Path, tmp_path: Path) -> None:
    if DEVICE.type != "cuda":
        pytest.skip("the memory of a GPU is counted")
    left = []
    for name in "abc":
        train(files, tmp_path / name)
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    assert left[2] == left[1]
