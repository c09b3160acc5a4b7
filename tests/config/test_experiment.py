import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from depalm.cache.formats import array_names
from depalm.config.experiment import Config
from depalm.config.load import load_config
from depalm.config.schema import ConfigError, check_schema, load_yaml
from depalm.config.store_plan import StorePlan
from depalm.features.extract import Extraction
from depalm.specs import SettingsSpec, TrainSpec
from depalm.specs.features import Cached
from depalm.specs.settings import CacheSpec
from depalm.specs.train import TRAIN_DEFAULTS

ROOT = Path(__file__).parents[2]
# smoke-webdataset.yaml is read over smoke.yaml, and no configuration by itself
CONFIGS = sorted(
    {path.name for path in (ROOT / "config").glob("*.yaml")} - {"smoke-webdataset.yaml"}
)
PARTS = sorted((ROOT / "config").glob("*/*.yaml")) + sorted((ROOT / "tests/smoke").glob("*/*.yaml"))
DEMO = load_yaml(ROOT / "config/demo.yaml")


def demo(**changes: Any) -> Config:
    return load_config({**copy.deepcopy(DEMO), **changes}, [ROOT])


def block(**axes: Any) -> dict[str, Any]:
    return {**DEMO["grid"][0], **axes}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_configuration_is_valid(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in PARTS:  # what a part says lies on this machine
        part = load_yaml(path)
        for key in ("root", "path"):
            (tmp_path / part.get(key, "")).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = load_config(load_yaml(ROOT / "config" / name), [ROOT])
    assert config.runs


@pytest.mark.parametrize("path", PARTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_part_follows_its_schema(path: Path) -> None:
    check_schema(load_yaml(path), path.parent.name.removesuffix("s"), str(path))


def test_runs_are_the_products_of_the_blocks_each_once() -> None:
    config = demo(grid=[block(seeds=[0, 1]), block(methods=["blind"], seeds=[1, 2])])
    assert [(run.method, run.seed) for run in config.runs] == [
        ("blind", 0),
        ("blind", 1),
        ("qp_l0", 0),
        ("qp_l0", 1),
        ("blind", 2),
    ]
    assert config.runs[0].path == ("results/easy-vqa/runs/100pct/dinov2-S+smollm2-135m/blind/seed0")


def test_only_layers_that_a_method_reads_whole_are_cached() -> None:
    methods = ["blind", "limber_1", "epalm", "qp_l0", "qp_inner"]
    every = demo(grid=[block(methods=methods)], overrides=[])
    assert arrays(every) == {*array_names([8, 9, 10, 11], False), "cls"}
    assert arrays(demo(grid=[block(methods=methods[:3])], overrides=[])) == {"cls"}


def arrays(config: Config) -> set[str]:
    """All that the runs read of the token store."""
    return {name for cache in StorePlan(config).caches() for name in cache["arrays"]}


def test_settings_come_from_the_most_specific_place() -> None:
    where = {"methods": ["qp_l0"], "fractions": ["1pct"]}
    overrides = [
        {"where": {"methods": ["qp_l0"]}, "train": {"lr": 1e-3, "batch_size": 4}},
        {"where": where, "train": {"epochs": 30, "lr": 2e-3}},
        {"where": where, "method": {"connector": {"adapter_dim": 64}}},
    ]
    config = demo(
        train={"steps": 5, "lr": 1.0, "batch_size": 2},
        grid=[block(fractions=["100pct", "1pct"])],
        overrides=overrides,
    )
    runs = {(run.method, run.fraction): run for run in config.runs}
    blind, whole, part = (
        config.plan(runs[key]).train.given()
        for key in [("blind", "1pct"), ("qp_l0", "100pct"), ("qp_l0", "1pct")]
    )
    assert blind == {"steps": 5, "lr": 1.0, "batch_size": 2}
    assert whole == {"steps": 5, "lr": 1e-3, "batch_size": 4}
    assert part == {"epochs": 30, "lr": 2e-3, "batch_size": 4}
    method = config.plan(runs["qp_l0", "1pct"]).method.given()
    assert method["connector"]["adapter_dim"] == 64
    assert method["connector"]["mapper"]["queries"] == 32
    whole_method = config.plan(runs["qp_l0", "100pct"]).method
    assert whole_method.connector.adapter_dim != 64


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    """Snakemake reruns a job whose parameters are printed otherwise."""
    own = tmp_path / "methods" / "qp_l0.yaml"
    own.parent.mkdir()
    reversed_lines = (ROOT / "config/methods/qp_l0.yaml").read_text().splitlines()
    own.write_text("\n".join(reversed_lines[-2:] + reversed_lines[:-2]) + "\n")
    train = dict(reversed(DEMO["train"].items()))
    first, second = demo(), demo(parts=[str(tmp_path), "config"], train=train)
    for run in first.runs:
        one, other = first.plan(run), second.plan(run)
        assert str(one.method.given()) == str(other.method.given())
        assert str(one.train.given()) == str(other.train.given())


def set_key(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        for key in path[:-1]:
            settings = settings[key]
        settings[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("trian", value={}), r"unknown key 'trian'; did you mean 'train'\?"),
        (set_key("train", "lrr", value=1), r"train: unknown key 'lrr'; did you mean 'lr'\?"),
        (set_key("train", "lr", value=-1), r"train\.lr: -1 must be greater than 0"),
        (set_key("train", "lr", value="fast"), r"train\.lr: 'fast' must be a valid number"),
        (set_key("cache", "dtype", value="float61"), r"cache\.dtype: .*'float61'.*'float16'"),
        (set_key("grid", 0, "datasets", value=["easyvqa"]), r"'easyvqa'; did you mean 'easy-vqa'"),
        (set_key("grid", 0, "backbones", value=["dinov2S"]), r"'dinov2S'; did you mean 'dinov2-S'"),
        (set_key("grid", 0, "llms", value=["smolm2"]), r"'smolm2'; did you mean 'smollm2-"),
        (set_key("grid", 0, "methods", value=["qp_10"]), r"'qp_10'; did you mean 'qp_l0'"),
        (set_key("grid", 0, "fractions", value=["0pct"]), r"'0pct' is not a fraction"),
        (
            set_key("grid", 0, "fractions", value=["all"]),
            r"grid\.0\.fractions\.0: 'all' must",
        ),
        (set_key("grid", 0, "seeds", value=[]), r"grid\.0\.seeds: \[\] must have 1 or more"),
        (set_key("tables", 0, "methods", value=["qp_l1"]), r"'qp_l1', which no run of the grid"),
        (set_key("tables", 0, "published", value="paper.csv"), r"table demo: there is no file .*"),
        (set_key("train", "epochs", value=1), r"train needs either `steps` or `epochs`"),
        (set_key("device", value="tpu"), r"device: 'tpu' must match"),
        (set_key("gpus", value={"shard_llm": True}), r"gpus\.shard_llm: .* over several GPUs"),
        (set_key("seeds_per_job", value=0), r"seeds_per_job: "),
        (set_key("cache", "stream", value="maybe"), r"cache\.stream: 'maybe' must be a valid"),
        (set_key("cache", "stream", value=True), r"cache\.stream: .* set cache\.url to where"),
        (
            set_key("cache", value={**DEMO["cache"], "url": "https://a/b", "stream": True}),
            r"cache\.format: zarr shards .*nor streamed from cache\.url; set it to webdataset",
        ),
        (
            set_key("cache", value={**DEMO["cache"], "format": "zarr", "url": "https://a/b"}),
            r"cache\.format: zarr shards .*; set it to webdataset",
        ),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_right_one(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    settings = copy.deepcopy(DEMO)
    change(settings)
    with pytest.raises(ConfigError, match=message):
        load_config(settings, [ROOT])


def test_a_row_for_each_method_needs_one_backbone_in_each_cell() -> None:
    grid = [block(backbones=["dinov2-S", "dinov2-S-224"])]
    table = {"name": "all", "title": "All", "rows": "methods"}
    with pytest.raises(ConfigError, match=r"table all .*blind easy-vqa 100pct runs .*dinov2-S-224"):
        demo(grid=grid, tables=[table])
    assert demo(grid=grid, tables=[{**table, "backbones": ["dinov2-S"]}])


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"connector": {"adapter_dim": 100}}, "100 is not divisible by its 8 heads"),
        ({"connector": {"resampler": {"type": "avg", "factor": 9}}}, "8x8 patches"),
        ({"source": {"count": 13}}, r"do not fit into 12 layers"),
        ({"inject": {"at": "inner", "targets": {"end": 30}}}, r"do not fit into 30 layers"),
    ],
)
def test_a_method_that_does_not_fit_is_found_before_anything_runs(
    method: dict[str, Any], message: str
) -> None:
    overrides = [{"where": {"methods": ["qp_l0"]}, "method": method}]
    with pytest.raises(ConfigError, match=rf"method 'qp_l0' does not fit .*{message}"):
        demo(overrides=overrides)


def test_a_part_of_the_users_own_folder_wins(tmp_path: Path) -> None:
    own = tmp_path / "methods" / "qp_l0.yaml"
    own.parent.mkdir()
    own.write_text(
        (ROOT / "config/methods/qp_l0.yaml").read_text().replace("version: 1", "version: 9")
    )
    config = demo(parts=[str(tmp_path), "config"])
    assert config.parts.method("qp_l0").version == 9
    assert config.parts.method("blind").version == 1


@pytest.mark.parametrize(
    ("kind", "key"), [("dataset", "root"), ("backbone", "path"), ("llm", "path")]
)
def test_a_missing_file_of_the_users_is_named(tmp_path: Path, kind: str, key: str) -> None:
    name = {"dataset": "easy-vqa", "backbone": "dinov2-S", "llm": "smollm2-135m"}[kind]
    lines = (ROOT / "config" / f"{kind}s" / f"{name}.yaml").read_text().splitlines()
    fetched = ("source:", "  uri:", "  sha256:", "convert:")
    kept = [line for line in lines if not line.startswith(fetched)]
    own = tmp_path / f"{kind}s" / f"{name}.yaml"
    own.parent.mkdir()
    own.write_text("\n".join([*kept, f"{key}: {tmp_path}/nowhere\n"]))
    with pytest.raises(ConfigError, match=rf"{kind} {name}: {key} .*nowhere does not exist"):
        demo(parts=[str(tmp_path), "config"])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "config/methods/blind.yaml").write_text("version: [1\n")
    with pytest.raises(ConfigError, match=r"blind\.yaml is not YAML"):
        load_config(DEMO, [tmp_path])


def test_without_java_a_caption_metric_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "datasets" / "easy-vqa.yaml"
    own.parent.mkdir()
    text = (ROOT / "config/datasets/easy-vqa.yaml").read_text()
    own.write_text(text.replace("metrics: [vqa_accuracy]", "metrics: [cider]"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo().runs
    with pytest.raises(ConfigError, match="cider: caption metrics need Java"):
        demo(parts=[str(tmp_path), "config"])


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1e-3\nb: 5.0e-3\nc: 1e3x\n")
    assert load_yaml(tmp_path / "a.yaml") == {"a": 1e-3, "b": 5e-3, "c": "1e3x"}


def test_the_shortest_configuration_is_a_grid() -> None:
    config = load_config({"grid": DEMO["grid"]}, [ROOT])
    run = config.runs[0]
    assert config.plan(run).train.given() == {"batch_size": 16, "epochs": 8, "lr": 8e-4}
    reading = next(run for run in config.runs if run.method != "blind")
    features = config.plan(reading).training
    assert isinstance(features, Cached)
    assert features.views == [0]
    assert config.max_reject_fraction(run.dataset) == 0.001
    assert [table.name for table in config.settings.tables] == ["main"]
    assert config.settings.device == "auto"


def test_defaults_of_the_cache_are_those_of_extraction() -> None:
    """The spec tells them to readers; the job has them for callers in Python."""
    said, used = CacheSpec().model_dump(), vars(Extraction())
    shared = said.keys() & used.keys()
    assert shared >= {"batch_size"}
    assert {key: said[key] for key in shared} == {key: used[key] for key in shared}


def test_all_that_is_wrong_is_told_at_once() -> None:
    settings = {**copy.deepcopy(DEMO), "trian": {}, "device": "tpu"}
    settings["cache"]["shards"] = 2.0
    with pytest.raises(ConfigError) as error:
        load_config(settings, [ROOT])
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert any("unknown key 'trian'" in line for line in lines)
    assert any("cache.shards: 2.0 must be a valid integer" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("train", "lr", value=float("nan")), r"train\.lr: nan must be a finite number"),
        (set_key("train", "lr", value=float("inf")), r"train\.lr: inf must be a finite number"),
        (set_key("train", "batch_size", value=1e1), r"batch_size: 10\.0 must be a valid integer"),
        (set_key("data", "max_reject_fraction", value=float("nan")), r"max_reject_fraction: nan"),
        (set_key("grid", 0, "seeds", value=[-1]), r"grid\.0\.seeds\.0: -1 must be greater"),
        (set_key("grid", 0, "seeds", value=[2**63]), r"grid\.0\.seeds\.0: 9223372036854775808"),
        (set_key("grid", 0, "seeds", value=[1, 1]), r"grid\.0\.seeds: 1 stands here twice"),
        (set_key("grid", 0, "methods", value=["x" * 256]), r"at most 255 bytes"),
        (set_key("grid", 0, "methods", value=["../x"]), r"methods\.0: a name is part of a path"),
        (set_key("tables", value=[DEMO["tables"][0]] * 2), r"tables: 2 are called 'demo'"),
        (
            set_key("overrides", 0, "where", value={"methods": ["qp_l1"]}),
            r"overrides, where: unknown method 'qp_l1'; did you mean 'qp_l0'",
        ),
    ],
)
def test_what_was_taken_without_a_word_is_an_error(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    settings = copy.deepcopy(DEMO)
    change(settings)
    with pytest.raises(ConfigError, match=message):
        load_config(settings, [ROOT])


SHARDED = {"gpus": {"generate": 2, "shard_llm": True}, "generate": {"batch_size": "auto"}}
TUNED = {
    "gpus": {"train": 2, "shard_llm": True},
    "overrides": [{"where": {"seeds": [0]}, "method": {"finetune": {"llm": {"norms": True}}}}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": {"train": 2}, "device": "cuda:1"}, r"device: 'cuda:1' is one GPU, .*set cuda"),
        ({"gpus": {"train": 2}, "seeds_per_job": 2}, r"seeds_per_job: .* trains one seed"),
        (SHARDED, r"generate\.batch_size: .*sharded needs a number"),
        (TUNED, r"tunes the LLM, whose layers gpus\.shard_llm spreads"),
    ],
)
def test_several_gpus_that_do_not_fit_the_rest_are_an_error(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({**copy.deepcopy(DEMO), **changes}, [ROOT])


def test_a_key_given_twice_is_told_with_its_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n")
    with pytest.raises(ConfigError, match=r"the key 'c' stands twice, in lines 3 and 5"):
        load_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes("label: Café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"b\.yaml is not UTF-8"):
        load_yaml(tmp_path / "b.yaml")


def test_the_defaults_stand_commented_in_the_main_configuration(tmp_path: Path) -> None:
    """Lines that begin with `#-` are them; every key is there."""
    lines = (ROOT / "config/config.yaml").read_text().splitlines()
    defaults = "\n".join(line.removeprefix("#-") for line in lines if line.startswith("#-"))
    (tmp_path / "defaults.yaml").write_text(defaults)
    shown = load_yaml(tmp_path / "defaults.yaml")
    assert shown["train"].pop("epochs") == TRAIN_DEFAULTS.epochs
    expected = SettingsSpec.model_validate({"grid": DEMO["grid"]})
    given = SettingsSpec.model_validate({"grid": DEMO["grid"], **shown})
    assert given == expected
    assert shown.keys() == SettingsSpec.model_fields.keys() - {
        *("grid", "overrides", "parts", "checkpoint")
    }
    for block in ("cache", "data", "generate", "threads"):
        assert shown[block].keys() == type(getattr(expected, block)).model_fields.keys()
    assert shown["train"].keys() == TrainSpec.model_fields.keys() - {"steps", "epochs"}


def test_texts_of_the_command_line_are_read_by_what_belongs_there() -> None:
    """What is nested in Snakemake's option --config comes as texts."""
    told = {
        "cache": {"shards": "2", "stream": "false", "url": "null", "dtype": "float16"},
        "train": {"steps": "3", "lr": "1e-3"},
        "data": {"max_rows": {"test": "0.5"}},
        "device": "cpu",
    }
    settings = load_config({"grid": DEMO["grid"], **told}, [ROOT]).settings
    assert (settings.cache.shards, settings.cache.stream, settings.cache.url) == (2, False, None)
    assert (settings.train.steps, settings.train.lr) == (3, 1e-3)
    assert settings.data.max_rows.test == 0.5
    for wrong, message in (
        ("three", "'three' must be"),
        ("{", "'{' must be"),
        ("1.5", "1.5 must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config({"grid": DEMO["grid"], "cache": {"shards": wrong}}, [ROOT])


@pytest.fixture
def quantized(tmp_path: Path) -> dict[str, Any]:
    """The demo with its LLM in 4 bits, a file of one's own."""
    (tmp_path / "llms").mkdir()
    llm = load_yaml(ROOT / "config/llms/smollm2-135m.yaml")
    (tmp_path / "llms/small.yaml").write_text(yaml.safe_dump({**llm, "quantize": "int4"}))
    grid = [{**row, "llms": ["small"]} for row in DEMO["grid"]]
    return {**copy.deepcopy(DEMO), "grid": grid, "parts": [str(tmp_path), "config"]}


def test_a_quantized_llm_is_not_sharded(quantized: dict[str, Any]) -> None:
    load_config(quantized, [ROOT])
    with pytest.raises(ConfigError, match=r"llm 'small' is quantized, and gpus\.shard_llm"):
        load_config({**quantized, "gpus": {"train": 2, "shard_llm": True}}, [ROOT])


def test_a_quantized_llm_needs_its_library(
    quantized: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depalm.config.checks.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"llm 'small' is quantized by bitsandbytes, which is"):
        load_config(quantized, [ROOT])
