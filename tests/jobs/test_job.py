"""Jobs: through JSON unchanged, from a rule, and refused with the key that is wrong."""

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_origin

import pytest
from snakemake.iocontainers import InputFiles, OutputFiles, Params, ResourceList

from depalm.jobs import JOBS, Job, JobError
from depalm.jobs.evaluate import TableJob
from depalm.jobs.extract import ExtractJob
from depalm.jobs.generate import GenerateJob
from depalm.jobs.job import hints_of
from depalm.jobs.manifest import ManifestJob, SubsetJob
from depalm.jobs.train import TrainJob
from depalm.specs import (
    BackboneSpec,
    LLMSpec,
    MethodSpec,
    PromptSpec,
    Spec,
    TableSpec,
    TrainSpec,
    TuneSpec,
)
from depalm.specs.dataset import DatasetSource, RowsSpec
from depalm.specs.features import Cached, NoFeatures
from depalm.specs.settings import GenerateSpec, ReportPart
from tests.support.specs import rows_spec

SUBSET = SubsetJob(manifest="m.parquet", fraction="50pct", seed=2**64 - 1, ids="ids.json")
VALUES: dict[Any, Any] = {
    str: "é\udcff\n",
    int: 7,
    bool: True,
    float: 1e-4,
    Any: {"a": [None, True, 0.1]},
}
SHAPE = {"layers": 1, "tokens": 1, "width": 1}
SPECS: dict[Any, Spec] = {
    MethodSpec: MethodSpec.model_validate({"version": 1, "inject": {"at": "none"}}),
    BackboneSpec: BackboneSpec.model_validate(
        {"version": 1, "modality": "none", "loader": "disabled", "shape": SHAPE}
    ),
    LLMSpec: LLMSpec.model_validate(
        {"version": 1, "family": "opt", "path": "opt", "shape": {"layers": 1, "width": 1}}
    ),
    NoFeatures: NoFeatures(),
    PromptSpec: PromptSpec(space=True),
    TrainSpec: TrainSpec(lr=1),
    TuneSpec: TuneSpec(lr=[1, 2]),
    GenerateSpec: GenerateSpec(),
    DatasetSource: DatasetSource(uri="hf://owner/name"),
    RowsSpec: rows_spec({"reader": "generic", "splits": ["test"], "templates": {"texts": [""]}}),
    TableSpec: TableSpec(name="main", title="Main"),
    ReportPart: ReportPart(table=TableSpec(name="main", title="Main"), scores=["a"]),
}


def example(kind: type[Job]) -> Job:
    """A job with some value of its type in each field."""

    def value(hint: Any) -> Any:
        arguments = get_args(hint)
        if get_origin(hint) is list:
            return [value(arguments[0])] * 2
        if get_origin(hint) is dict:
            return {"b": value(arguments[1]), "a": float("inf")}
        if hint in VALUES or hint in SPECS:
            return {**VALUES, **SPECS}[hint]
        return value(arguments[0])

    return kind(**{name: value(hint) for name, hint in hints_of(kind).items()})


@pytest.mark.parametrize("kind", JOBS.values(), ids=JOBS)
def test_a_job_goes_through_json_unchanged(kind: type[Job], tmp_path: Path) -> None:
    job = example(kind)
    text = job.to_json()
    text.encode()  # also with a file name that is not Unicode
    again = kind.from_json(text)
    assert again == job
    assert again.to_json() == text
    (tmp_path / "job.json").write_text(text)
    assert kind.from_file(tmp_path / "job.json") == job


@pytest.mark.parametrize("kind", JOBS.values(), ids=JOBS)
def test_the_help_of_a_job_explains_each_key(kind: type[Job]) -> None:
    explained = set(re.findall(r"`(\w+)`", kind.__doc__ or ""))
    assert {field.name for field in fields(kind)} <= explained


def changed(**values: Any) -> str:
    return json.dumps({**asdict(SUBSET), **values})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(sed=1), "job.json: unknown key 'sed'; did you mean 'seed'?"),
        (changed(seed="1"), "job.json: seed must be a whole number, but is '1'"),
        (changed(seed=True), "job.json: seed must be a whole number, but is True"),
        (changed(seed=1.0), "job.json: seed must be a whole number, but is 1.0"),
        (changed(ids=None, x=1), "job.json: unknown key 'x'; there are: fraction, ids, manifest, "),
        (changed(ids=None, x=1), "; ids must be a string, but is None"),
        ('{"manifest": "m", "ids": "i"}', "the key 'fraction' is missing; the key 'seed' is miss"),
        ('{"seed": 1, "seed": 2}', "job.json is not a job's JSON: the key 'seed' stands twice"),
        ("[1]", "job.json must be an object of JSON, but is [1]"),
        ("{'a': 1}", "job.json is not a job's JSON: Expecting property name"),
    ],
)
def test_what_is_no_job_is_refused_with_the_key(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(JobError, match=re.escape(message)) as caught:
        SubsetJob.from_file(tmp_path / "job.json")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"missing\.json cannot be read"):
        SubsetJob.from_file(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b'{"ids": "\xe9"}')
    with pytest.raises(JobError, match=r"latin\.json cannot be read"):
        SubsetJob.from_file(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone_directory", 1, "backbone_directory must be a string or null, but is 1"),
        ("backbone", [], "backbone: [] must be a mapping of keys to values"),
        ("train", {"lrr": 1.0}, "train: unknown key 'lrr'; did you mean 'lr'?"),
        ("train", {"batch_size": 4.0}, "train.batch_size: 4.0 must be a valid integer"),
        ("features", {"kind": "cach"}, "unknown value 'cach'; did you mean 'cached'?"),
        (
            "features",
            {"kind": "cached", "receipts": [], "views": ["1"]},
            "features.views.0: '1' must be a valid integer",
        ),
    ],
)
def test_wrong_values_are_told_in_words(key: str, value: Any, message: str) -> None:
    values = {**json.loads(example(TrainJob).to_json()), key: value}
    with pytest.raises(JobError, match=re.escape(message)):
        TrainJob.from_json(json.dumps(values))


def test_a_wrong_setting_of_generation_is_told_too() -> None:
    values = {**json.loads(example(GenerateJob).to_json()), "generate": {"beam": 1}}
    with pytest.raises(JobError, match=r"generate: unknown key 'beam'; did you mean 'beams'\?"):
        GenerateJob.from_json(json.dumps(values))


def rule(
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    params: dict[str, Any],
    resources: dict[str, Any],
) -> Any:
    """What Snakemake gives to the script of a rule."""
    return SimpleNamespace(
        rule="name",
        threads=3,
        input=InputFiles(fromdict=inputs),
        output=OutputFiles(fromdict=outputs),
        params=Params(fromdict=params),
        resources=ResourceList(fromdict=resources),
    )


def test_a_rule_gives_its_script_a_job() -> None:
    """Also files that an input function leaves out, or gives as a list of one."""
    specs = {"method": MethodSpec, "backbone": BackboneSpec, "llm": LLMSpec, "train": TrainSpec}
    features = Cached(receipts=["a"], views=[1, 2])
    params = {name: SPECS[kind].given() for name, kind in specs.items()}
    params |= {"features": features.given(), "seed": 4}
    inputs = {"manifest": "m", "subset": "s", "llm_directory": "l", "places": ["a"], "init": ["i"]}
    outputs = {name: name for name in ("adapter", "record", "curve", "rejects")}
    expected = TrainJob(
        **{name: SPECS[kind] for name, kind in specs.items()},
        **outputs,
        manifest="m",
        subset="s",
        llm_directory="l",
        features=features,
        seed=4,
        threads=3,
        workers=2,
    )
    resources = {"workers": 2, "mem_mb": 10}
    given = rule({**inputs, "backbone_directory": []}, outputs, params, resources)
    assert TrainJob.from_snakemake(given) == expected
    files = {**inputs, "backbone_directory": ["b"]}
    job = TrainJob.from_snakemake(rule(files, outputs, params, resources))
    assert job == replace(expected, backbone_directory="b")
    two = {**inputs, "subset": ["s", "t"]}
    with pytest.raises(JobError, match=r"rule name: subset must be a string, but is \['s', 't'\]"):
        TrainJob.from_snakemake(rule(two, outputs, params, resources))


def test_a_list_of_files_stays_one_however_many_there_are() -> None:
    table = TableSpec(name="main", title="Main")
    outputs = {name: name for name in ("csv", "md", "tex", "html", "pairs")}
    for scores in (["a"], ["a", "b"]):
        files = {"scores": scores, "published": []}
        job = TableJob.from_snakemake(rule(files, outputs, {"table": table.given()}, {}))
        assert job == TableJob(**outputs, scores=scores, table=table)


def test_a_rule_that_gives_no_job_is_refused() -> None:
    params = {"dataset": SPECS[RowsSpec].given(), "split": "test", "max_rows": None}
    outputs = {"manifest": "m", "rejects": "r", "files": "f"}
    job = ManifestJob.from_snakemake(rule({"data": "d"}, outputs, params, {}))
    assert job.max_rows is None
    with pytest.raises(JobError, match="rule name: the key 'data' is missing"):
        ManifestJob.from_snakemake(rule({}, outputs, params, {}))
    with pytest.raises(JobError, match=r"rule name: data must be a string, but is \['d', 'e'\]"):
        ManifestJob.from_snakemake(rule({"data": ["d", "e"]}, outputs, params, {}))


def test_the_commands_are_the_names_of_the_rules() -> None:
    root = Path(__file__).parents[2] / "workflow"
    rules = {
        name.replace("_", "-")
        for path in (root / "rules").glob("*.smk")
        for name in re.findall(r"^ *rule (\w+):", path.read_text(), re.MULTILINE)
    }
    rules.add("train-seeds")  # a rule for every few seeds, with their number behind it
    assert set(JOBS) == rules
    assert JOBS["extract"] is ExtractJob
