"""config/paper.yaml against the 183 runs of the paper (data/paper_grid.csv): their settings, all
their layers, and every count given.
"""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from depalm.config.experiment import Config
from depalm.config.parts import Parts
from depalm.config.report import trainable_parameters
from depalm.config.run import Run
from depalm.config.schema import load_yaml, validated
from depalm.specs import GenerateSpec, PromptSpec, SettingsSpec, TrainSpec

ROOT = Path(__file__).parents[2]
ROWS = list(csv.DictReader((ROOT / "tests" / "data" / "paper_grid.csv").open()))
TUNED = "eva-clip-L-tuned"  # the backbone of the bias tuning suite: its tokens cannot be cached


@pytest.fixture(scope="module")
def config() -> Config:
    settings = validated(SettingsSpec, load_yaml(ROOT / "config" / "paper.yaml"), "paper.yaml")
    return Config(settings, Parts([ROOT / "config"]))


def run_of(row: dict[str, str]) -> Run:
    fraction = f"{float(row['train_fraction']) * 100:g}pct"
    backbone, llm = row["backbone"], row["llm"].removesuffix("-7b")
    if row["backbone_bias_tuning"] == "true":
        backbone = TUNED
    if row["time_average"] == "true":
        backbone += "_avg"
    if row["cls_is_mean_pool"] == "true":
        backbone += "_mean"
    return Run(row["dataset"], fraction, backbone, llm, row["method"], 0)


def test_the_grid_is_whole(config: Config) -> None:
    """And each of its runs has five seeds; in addition there is blind."""
    assert len(ROWS) == 183
    assert len([row for row in ROWS if row["trainable_parameters"]]) == 43
    runs = [run for run in config.runs if run.method != "blind"]
    assert len(runs) == 5 * 183
    assert set(runs) == {replace(run_of(row), seed=seed) for row in ROWS for seed in range(5)}
    blind = {(run.dataset, run.fraction) for run in config.runs if run.method == "blind"}
    assert blind == {(run.dataset, run.fraction) for run in runs}


def test_the_tuned_backbone_is_the_other_one(config: Config) -> None:
    assert config.parts.backbone(TUNED) == config.parts.backbone("eva-clip-L")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['suite']}-{row['method']}")
def test_a_run_of_the_paper(config: Config, row: dict[str, str]) -> None:
    run = run_of(row)
    plan = config.plan(run)
    layout, connector = plan.layout, plan.method.connector
    assert layout.source_layers == [int(layer) for layer in row["source_layers"].split()]
    assert layout.target_layers == [int(layer) for layer in row["target_layers"].split()]
    if row["trainable_parameters"]:
        assert trainable_parameters(plan) == int(row["trainable_parameters"])

    mapper = "" if connector.mapper is None else connector.mapper.layers
    assert str(mapper) == row["mapper_layers"]
    width = {"auto": "", "llm_dim": "llm"}.get(row["adapter_dim"], row["adapter_dim"])
    assert str(connector.adapter_dim or "") == width
    for option in ("time_average", "cls_is_mean_pool"):
        assert getattr(plan.backbone, option) == (row[option] == "true")
    tuned = plan.method.finetune.backbone.linears
    assert tuned == (row["backbone_bias_tuning"] == "true")
    assert plan.online == (tuned or run.dataset == "msrvtt")  # drop path is the video model's alone
    if run.method == "r_qpmapper_l0":
        assert connector.resampler.activation == "identity"
        further = connector.mapper is not None
        assert further == (run.fraction == "1pct")
        assert connector.norm_at == ("resampler" if further else "output")
        assert not further or connector.mapper.activation == "identity"
    for key in ("epochs", "batch_size", "accumulate", "lr", "clip_norm"):
        assert getattr(plan.train, key) == float(row[key])


def test_the_released_protocol(config: Config) -> None:
    """docs/methods.md#released-protocol: each point is a setting, whose default is another."""
    plan = config.plan(run_of(ROWS[0]))
    train, default = plan.train, TrainSpec()
    said = {
        "frozen_dropout": True,
        "accumulation": "sum",
        "leftovers": "drop",
        "schedule": "batches",
    }
    for key, value in said.items():
        assert getattr(train, key) == value
        assert getattr(default, key) != value
    assert (plan.prompt.space, plan.prompt.end_token, plan.prompt.tokenize) == (True, True, "apart")
    assert not any((PromptSpec().space, PromptSpec().end_token))
    assert config.settings.generate.length_of == "text"
    assert GenerateSpec().length_of == "answer"
    backbones = {name: config.parts.backbone(name) for name in (row["backbone"] for row in ROWS)}
    assert backbones["eva-clip-L"].crop_pct == 0.9
    assert backbones["dinov2-L"].position_interpolation == "dinov2"
    assert backbones["clip-vit-L"].crop_pct is None
    film, clip = backbones["timesformer"], backbones["clip-vit-L"]
    assert (film.mean, film.std, film.final_norm) == (clip.mean, clip.std, True)
    assert (film.drop_path, film.token_order) == (0.1, "frames")
    assert config.parts.llm("opt-6.7b").prompt_end == "</a>"
    rows = config.manifest_settings("coco", "train")["dataset"]["templates"]
    assert (rows["selection"], rows["texts"][0]) == ("first", "")
