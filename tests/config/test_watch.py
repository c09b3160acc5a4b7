"""States of a user's own files, kept before the DAG is built."""

from pathlib import Path

import pytest

from depalm.config.load import load_config
from depalm.config.schema import ConfigError
from depalm.config.watch import Watch
from depalm.files import read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Of a dataset and a backbone in folders of the user's own."""
    monkeypatch.chdir(tmp_path)
    for kind, name, source in (
        ("datasets", "mine", ROOT / "tests/smoke/datasets/shapes-vqa.yaml"),
        ("backbones", "vit", ROOT / "tests/smoke/backbones/vit-tiny.yaml"),
    ):
        path = tmp_path / "parts" / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(source.read_text())
    for folder in ("shapes-vqa", "vit-tiny"):
        (tmp_path / "resources/smoke" / folder).mkdir(parents=True)
    (tmp_path / "resources/smoke/vit-tiny/model.safetensors").write_text("weights")
    grid = {"datasets": ["mine"], "backbones": ["vit"], "llms": ["smollm2-135m"]}
    grid |= {"methods": ["limber_1"], "fractions": ["100pct"], "seeds": [0]}
    config = load_config({"parts": ["parts", "config"], "grid": [grid]}, [tmp_path, ROOT])
    return Watch(config, looks=True)


def test_states_are_there_before_anything_is_made(watch: Watch) -> None:
    state = watch.data("mine", "train")
    assert read_json(state) == {"files": None}
    (model,) = watch.backbone("vit")
    assert read_json(model).keys() == {"model.safetensors"}
    assert watch.backbone("dinov2-S") == []  # it is fetched


def test_each_is_looked_at_once_and_not_at_all_if_that_is_turned_off(watch: Watch) -> None:
    (model,) = watch.backbone("vit")
    before = read_json(model)
    Path("resources/smoke/vit-tiny/model.safetensors").write_text("others")
    watch.backbone("vit")
    assert read_json(model) == before
    Watch(watch.config, looks=False).backbone("vit")
    assert read_json(model) == before
    Watch(watch.config, looks=True).backbone("vit")
    assert read_json(model) != before


def test_results_that_cannot_be_written_are_told(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("results").write_text("no folder")
    watch.data("mine", "train")
    assert "edits are not looked for: results/mine/state/train/files.json cannot" in caplog.text


def test_a_dataset_is_not_called_as_a_folder_of_results_is(watch: Watch) -> None:
    Path("parts/datasets/cache.yaml").write_text(Path("parts/datasets/mine.yaml").read_text())
    settings = watch.config.settings.given()
    settings["grid"][0]["datasets"] = ["cache"]
    with pytest.raises(ConfigError, match="a dataset cannot be called 'cache'"):
        load_config(settings, [Path(), ROOT])
