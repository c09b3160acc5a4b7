"""Every file in config/datasets, and what the configuration says of invalid ones."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from depalm.config.experiment import Config
from depalm.config.load import load_config
from depalm.config.parts import Parts
from depalm.config.schema import ConfigError, check_schema, load_yaml
from depalm.datasets.manifest import choose_template
from depalm.datasets.readers import READERS
from depalm.evaluation.metrics import METRICS
from depalm.specs import SettingsSpec
from depalm.specs.dataset import RowsSpec, Templates

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "config/datasets").glob("*.yaml"))
VQA = "{question}\n\nAnswer:"
PAPER = {  # modality, main metric, prompt, test split (METHODS: training and generation, data)
    "aokvqa": ("image", "aokvqa_accuracy", VQA, "val"),
    "audiocaps": ("audio", "spider", "", "test"),
    "coco": ("image", "cider", "", "test"),
    "msrvtt": ("video", "cider", "", "test"),
    "okvqa": ("image", "vqa_accuracy", VQA, "val"),
    "textcaps": ("image", "cider", "", "val"),
    "textvqa": ("image", "vqa_accuracy", "{question}", "val"),
    "textvqa-hub": ("image", "vqa_accuracy", "{question}", "val"),
    "vqav2": ("image", "vqa_accuracy", VQA, "test"),
}


def dataset(name: str) -> dict[str, Any]:
    return Parts([ROOT / "config"]).dataset(name).given()


@pytest.mark.parametrize("name", NAMES)
def test_every_dataset_passes_its_schema_and_can_be_run(name: str) -> None:
    part = dataset(name)
    assert {"train", part["test_split"]} <= set(part["splits"])
    assert set(part["metrics"]) <= METRICS.keys()
    assert part["reader"] in READERS
    assert "source" in part or part["obtain"].strip()
    choose_template(Templates.model_validate(part["templates"]), "any sample")


@pytest.mark.parametrize("name", PAPER)
def test_datasets_are_the_papers(name: str) -> None:
    part = dataset(name)
    templates = Templates.model_validate({**part["templates"], "selection": "first"})
    prompt = choose_template(templates, "any sample")
    assert (part["modality"], part["metrics"][0], prompt, part["test_split"]) == PAPER[name]


CAPTIONS = [name for name in PAPER if PAPER[name][2] == ""]


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_have_a_prompt_unless_the_papers_is_asked_for(name: str) -> None:
    """With none a chat LLM goes on with anything (docs/extend/dataset.md#captions)."""
    own = Templates.model_validate(dataset(name)["templates"])
    assert choose_template(own, "any sample").startswith("Describe the ")

    def template(**data: Any) -> str:
        grid = {"datasets": [name], "backbones": ["dinov2-S"], "llms": ["smollm2-135m"]}
        grid |= {"methods": ["blind"], "fractions": ["100pct"], "seeds": [0]}
        settings = SettingsSpec.model_validate({"grid": [grid], "data": data})
        config = Config(settings, Parts([ROOT / "config"]))
        rows = RowsSpec.model_validate(config.manifest_settings(name, "train")["dataset"])
        return choose_template(rows.templates, "any sample")

    assert template() == choose_template(own, "any sample")
    assert template(template="first") == ""


def test_what_is_added_to_a_registry_is_valid_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {**dataset("coco"), "reader": "mine", "metrics": ["length"]}
    with pytest.raises(ConfigError) as error:
        check_schema(mine, "dataset", "mine.yaml")
    assert "mine.yaml, reader: unknown value 'mine'" in str(error.value)
    assert "mine.yaml, metrics.0: unknown value 'length'" in str(error.value)
    monkeypatch.setitem(READERS, "mine", READERS["generic"])
    monkeypatch.setitem(METRICS, "length", METRICS["cider"])
    check_schema(mine, "dataset", "mine.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "{question}"}, "unknown key 'template'; did you mean 'templates'"),
        ({"reader": "coco"}, "reader: unknown value 'coco'; "),
        ({"reader": "okvq"}, "did you mean 'okvqa'"),
        ({"templates": {"texts": []}}, "templates.texts: "),
        ({"templates": {"texts": ["x"], "selection": -1}}, "templates.selection: "),
        ({"templates": {"texts": ["x"], "selection": "last"}}, "templates.selection: "),
        ({"source": {"uri": "ftp://host/file"}}, "source.uri: "),
        ({"source": [{"uri": "https://host/file", "sha": "0"}]}, "unknown key 'sha'"),
        ({"source": []}, "source: "),
        ({"root": "data"}, "give either source or root"),
        ({"max_reject_fraction": 2}, "max_reject_fraction: 2 must be less than or equal to 1"),
    ],
)
def test_what_a_dataset_cannot_be_is_told(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_schema({**dataset("coco"), **change}, "dataset", "coco.yaml")
    assert str(error.value).startswith("coco.yaml")
    assert message in str(error.value)


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Load config/config.yaml with a dataset `mine`, which is easy-VQA but for some changes."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    settings = load_yaml(ROOT / "config/config.yaml")
    settings["grid"][0] |= {"datasets": ["mine"], "methods": ["blind"], "seeds": [0]}

    def load_mine(**changes: Any) -> Config:
        part = {k: v for k, v in {**dataset("easy-vqa"), **changes}.items() if v is not None}
        (tmp_path / "config/datasets/mine.yaml").write_text(yaml.safe_dump(part))
        return load_config(settings, [tmp_path])

    return load_mine


def test_a_missing_root_is_told_with_how_to_get_it(load: Any, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    with pytest.raises(ConfigError) as error:
        load(source=None, root=str(root), obtain="Ask the\nauthors.\n")
    assert str(error.value) == (
        f"dataset mine: root {root} does not exist. To get it: Ask the authors."
    )
    root.mkdir()
    config = load(source=None, root=str(root), obtain="Ask the authors.")
    assert config.parts.directory("dataset", "mine") == str(root)


def test_an_index_beyond_the_templates_is_told(load: Any) -> None:
    load(templates={"texts": ["a", "b"], "selection": 1})
    with pytest.raises(ConfigError, match="dataset mine: templates selects index 2 of 2"):
        load(templates={"texts": ["a", "b"], "selection": 2})


def test_a_datasets_own_tolerance_is_over_the_general_one(load: Any) -> None:
    assert load().max_reject_fraction("mine") == 0.0
    assert load(max_reject_fraction=0.25).max_reject_fraction("mine") == 0.25


def test_fetched_and_converted_datasets_have_their_own_directories(load: Any) -> None:
    assert load().parts.directory("dataset", "mine") == "resources/downloads/datasets/mine"
    converted = load(convert="textvqa_parquet").parts.directory("dataset", "mine")
    assert converted == "resources/models/datasets/mine"
