"""The command `depalm verify`: whether results are what their inputs make."""

import argparse
import json
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depalm.cli_options import add_configfile
from depalm.cli_tables import damage, fallen
from depalm.config.experiment import Config
from depalm.config.load import load_files
from depalm.config.plan import RunPlan, manifest
from depalm.config.store_plan import StorePlan
from depalm.errors import DepalmError
from depalm.files import read_json
from depalm.jobs import JOBS

SAMPLES = 16
SALT = "verify"


class VerifyError(DepalmError):
    """Results that are not what their inputs make, or that are not there."""


@dataclass(frozen=True)
class Finding:
    """What was looked up again, how much of it, and what differs; empty if nothing does."""

    what: str
    count: int
    wrong: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.wrong or f'{self.count:,} equal'}"


def add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that looks results up again."""
    summary = "Make a random part of results again, and say whether it is equal."
    text = (
        "Of each run: the checksums of its adapter and of the rows that its test reads; the tokens "
        "of some media, through the backbone again; the texts of some samples, generated again; "
        "and the scores of all, from their texts. It is equal to the byte on the machine that "
        "made it; elsewhere the largest difference tells. Nothing of the results is changed. The "
        "exit code is 1 if something differs."
    )
    command = commands.add_parser(
        "verify",
        help=summary,
        description=f"{summary}\n\n{textwrap.fill(text, 90)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_configfile(command)
    command.add_argument("runs", metavar="RUN", nargs="*", help="folders of runs, or all (all)")
    command.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="N", help="how many of each (%(default)s)"
    )
    command.set_defaults(run=_verify, log=None)


def _verify(options: argparse.Namespace) -> None:
    config = load_files(options.configfile, [Path()])
    wrong = verified = 0
    plans = chosen(config, [name for name in options.runs if name != "all"])
    for plan in plans:
        print(plan.run.path, flush=True)
        if told := damage(plan):
            print(f"  {told}", flush=True)
            wrong += 1
            continue
        if reason := fallen(plan):
            print(f"  not verified: {reason}", flush=True)
            continue
        verified += 1
        for finding in findings(config, plan, options.samples):
            print(f"  {finding}", flush=True)
            wrong += bool(finding.wrong)
    if not (verified or wrong):
        raise VerifyError("no run has scores of this configuration")
    if wrong:
        raise VerifyError(f"{wrong} things differ in {len(plans)} runs")


def chosen(config: Config, names: Sequence[str]) -> list[RunPlan]:
    """The plans of runs by their folders, or of all. Raises VerifyError for a folder that is no run
    of the configuration.
    """
    plans = {plan.run.path: plan for plan in map(config.plan, config.runs)}
    wanted = [Path(name).as_posix() for name in names] or list(plans)
    if unknown := [name for name in wanted if name not in plans]:
        raise VerifyError(f"{unknown[0]} is no run of this configuration: see `depalm plan`")
    return [plans[name] for name in wanted]


def findings(config: Config, plan: RunPlan, samples: int) -> Iterator[Finding]:
    """What is found of a run, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        some = Some(config, plan, Path(name), samples)
        checks: list[tuple[str, Callable[[], Finding]]] = [("adapter", some.adapter)]
        if plan.arrays:
            checks += [("rows", some.rows), ("tokens", some.tokens)]
        checks += [("texts", some.texts), ("scores", some.scores)]
        for what, check in checks:
            try:
                yield check()
            except DepalmError as error:
                yield Finding(what, 0, str(error))


@dataclass(frozen=True)
class Some:
    """A random part of a run, made again in `folder`: so many samples of its test split."""

    config: Config
    plan: RunPlan
    folder: Path
    count: int

    @property
    def split(self) -> str:
        return self.plan.dataset.test_split

    def written(self, count: int | None) -> tuple[str, list[Any]]:
        """A manifest of `count` samples of the split, drawn at random (None: of all)."""
        from depalm.datasets.manifest import read_manifest, write_manifest
        from depalm.datasets.subsets import lowest

        samples = read_manifest(manifest(self.plan.run.dataset, self.split))
        if count is not None:
            kept = set(lowest([s.id for s in samples], min(count, len(samples)), salt=SALT))
            samples = [sample for sample in samples if sample.id in kept]
        path = self.folder / f"{count}.parquet"
        write_manifest(path, samples)
        return str(path), samples

    def adapter(self) -> Finding:
        """The checksum of its tensors."""
        from depalm.files import sha256_file

        weights, record = self.plan.adapter_files
        recorded, found = read_json(record).get("sha256"), sha256_file(weights)
        wrong = "" if recorded == found else f"its SHA-256 is {found}, but was {recorded}"
        return Finding("adapter, by its checksum", 1, wrong)

    def views(self, samples: Sequence[Any]) -> Any:
        """The rows of samples, as the run's test reads them, and the media that have some."""
        from depalm.features.source import Source

        plan = self.plan
        directory = Path(plan.backbone_directory)
        told = (plan.testing(self.split), plan.layout, samples)
        views = Source(plan.backbone, directory, *told).views
        return views, [name for name in views.keys if name not in views.rejected]

    def rows(self) -> Finding:
        """Every row that the test reads, by its checksum. Raises CacheError for a damaged one."""
        views, media = self.views(self.written(None)[1])
        for name in media:
            views.load([name])
        return Finding("rows of the token store, by their checksums", len(media))

    def tokens(self) -> Finding:
        """The tokens of some media, through the backbone again."""
        from depalm.cache.store import open_folder

        path, samples = self.written(self.count)
        plan, store = self.plan, StorePlan(self.config)
        place = {"dataset": plan.run.dataset, "backbone": plan.run.backbone, "view": "0"}
        place |= {"split": self.split, "layers": plan.layers, "shard": "0", "shards": "1"}
        report, fresh = self.folder / "report.json", self.folder / "store"
        how = {key: value for key, value in store.extraction_how(place).items() if key != "url"}
        told = store.encoder_settings(place) | how
        told |= {"manifest": path, "report": str(report), "store": str(fresh)}
        _do("extract", told | {"threads": self.config.settings.threads.extract})
        views, media = self.views(samples)
        again = replace(views, caches=[open_folder(fresh / read_json(report)["store"], {})])
        largest = 0.0
        for name in media:
            first, second = (of.load([name]).float() for of in (views, again))
            largest = max(largest, float((first - second).abs().max()))
        wrong = f"the largest difference is {largest:.3g}" if largest else ""
        return Finding("tokens of media, through the backbone", len(media), wrong)

    def texts(self) -> Finding:
        """The texts of some samples, generated again."""
        from depalm.evaluation.scores import read_texts

        path, _ = self.written(self.count)
        settings, plan = self.config.settings, self.plan
        known = plan.testing_inputs(self.split)
        outputs = {name: str(self.folder / name) for name in ("texts", "summary", "rejects")}
        told = {
            **plan.testing_settings(self.split),
            **{"manifest": path, "adapter": known["adapter"], "record": known["record"]},
            **{"generate": settings.generate.given(), "device": settings.device},
            **{"threads": settings.threads.generate, "workers": settings.cache.workers},
            **outputs,
        }
        _do("generate", told)
        again = read_texts(outputs["texts"])
        kept = read_texts(self.file("texts.jsonl"))
        other = [key for key, text in again.items() if kept.get(key) != text]
        wrong = f"{len(other)} of {len(again)} are others: {', '.join(other[:5])}" if other else ""
        return Finding("texts, generated", len(again), wrong)

    def scores(self) -> Finding:
        """All scores, from the texts that were generated."""
        outputs = {"scores": "scores.json", "predictions": "predictions.jsonl"}
        outputs["samples"] = "samples.parquet"
        told = {
            **self.plan.scoring_settings(self.split),
            **{"manifest": manifest(self.plan.run.dataset, self.split)},
            **{"texts": self.file("texts.jsonl"), "generated": self.file("generate.json")},
            **{"record": self.plan.adapter_files[1]},
            **{name: str(self.folder / file) for name, file in outputs.items()},
        }
        _do("score", told)
        first, second = read_json(self.file("scores.json")), read_json(told["scores"])
        gaps = [
            abs((first["metrics"][name] or 0) - (value or 0))
            for name, value in second["metrics"].items()
        ]
        differ = [
            file
            for file in outputs.values()
            if Path(self.file(file)).read_bytes() != (self.folder / file).read_bytes()
        ]
        wrong = f"{', '.join(differ)} differ; scores by at most {max(gaps):.3g}" if differ else ""
        return Finding("scores, from the texts", second["samples"], wrong)

    def file(self, ending: str) -> str:
        """A file of the run's test."""
        return f"{self.plan.run.path}/{self.split}.{ending}"


def _do(name: str, told: dict[str, Any]) -> None:
    """Do the job of this name, given by its fields."""
    known = {key: value for key, value in told.items() if value is not None}
    JOBS[name].from_json(json.dumps(known), "verify").run()
