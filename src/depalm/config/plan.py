"""The plan of a run: all that is decided about it before any job, once for all who ask."""

from dataclasses import asdict, dataclass
from typing import Any

from depalm.adapters.layout import Layout
from depalm.adapters.record import RECORD, WEIGHTS
from depalm.cache.formats import array_names, layers_of
from depalm.config import paths
from depalm.config.run import Run
from depalm.files import sha256_json
from depalm.identity import parts_of, run_settings
from depalm.specs import (
    BackboneSpec,
    DatasetSpec,
    LLMSpec,
    MethodSpec,
    PromptSpec,
    Templates,
    TrainSpec,
    TuneSpec,
)
from depalm.specs.features import Cached, Features, NoFeatures, Online
from depalm.specs.settings import CacheSpec


def training_views(count: int) -> list[int]:
    """The views that training reads of `count`: the augmented ones, or the clean one if it is
    alone. Evaluation always reads view 0.
    """
    return list(range(1, count)) or [0]


def manifest(dataset: str, split: str) -> str:
    return paths.MANIFEST.format(dataset=dataset, split=split)


def receipt(dataset: str, backbone: str, split: str, view: int, layers: str) -> str:
    """The receipt of the rows of a split, in the arrays that `layers` names."""
    return paths.RECEIPT.format(
        dataset=dataset, backbone=backbone, split=split, view=view, layers=layers
    )


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class RunPlan:
    """A run, the parts that it is made of, how it is trained, and the files that it reads and
    writes.

    `checkpoint` is the folder of a trained adapter that it only tests; None if it trains its own.
    `online`: its backbone runs in the loop, rather than being read from a cache. `media` is where
    the dataset's files lie, the directories are those of the models' weights. `layout` says which
    layers it reads, and on which it acts. `templates` make the prompts of questions.
    """

    run: Run
    dataset: DatasetSpec
    backbone: BackboneSpec
    llm: LLMSpec
    method: MethodSpec
    label: str
    layout: Layout
    prompt: PromptSpec
    templates: Templates
    train: TrainSpec
    tune: TuneSpec | None
    cache: CacheSpec
    checkpoint: str | None
    online: bool
    media: str
    backbone_directory: str
    llm_directory: str
    max_reject_fraction: float

    @property
    def reads_backbone(self) -> bool:
        """Whether the method reads any token at all; blind reads none."""
        return bool(self.layout.source_layers)

    @property
    def training(self) -> Features:
        """The source of the features that training reads."""
        return self._features("train", training_views(self.cache.views))

    def testing(self, split: str) -> Features:
        """The source of the features that the generation for a split reads."""
        return self._features(split, [0])

    def _features(self, split: str, views: list[int]) -> Features:
        if not self.reads_backbone:
            return NoFeatures()
        if self.online:
            return Online(
                media=self.media,
                decode_seconds=self.cache.decode_seconds,
                max_reject_fraction=self.max_reject_fraction,
                compute=self.cache.compute,
            )
        run = self.run
        receipts = [receipt(run.dataset, run.backbone, split, v, self.layers) for v in views]
        store = str(self.cache.url) if self.cache.stream else paths.STORE
        return Cached(receipts=receipts, views=views, store=store)

    @property
    def arrays(self) -> list[str]:
        """The arrays of the token store that the run reads."""
        if not self.reads_backbone or self.online:
            return []
        return array_names(self.layout.source_layers, self.layout.cls_only)

    @property
    def layers(self) -> str:
        """Those arrays as they stand in the paths of receipts."""
        return layers_of(self.arrays)

    def cached(self) -> list[tuple[str, int]]:
        """The splits and views of which the run reads rows of the token store."""
        if not self.arrays:
            return []
        views = [] if self.checkpoint else training_views(self.cache.views)
        return [*(("train", view) for view in views), (self.dataset.test_split, 0)]

    def training_inputs(self) -> dict[str, Any]:
        """The files that training depends on, by the names of its job's fields."""
        return {**self._learns_from(self.run.seed), "tuned": self.tuned_file}

    def tuning_inputs(self) -> dict[str, Any]:
        """The files that its tuning depends on, by the names of its job's fields."""
        return self._learns_from(0 if self.tune is None else self.tune.seed)

    def _learns_from(self, seed: int) -> dict[str, Any]:
        values = {**asdict(self.run), "seed": seed}
        return {
            "manifest": manifest(self.run.dataset, "train"),
            "subset": paths.SUBSET.format(**values),
            "init": self.starts_from,
            **self._models(self.training),
        }

    @property
    def tuned_file(self) -> list[str]:
        """The file with what was chosen for its method, if it is tuned."""
        return [] if self.tune is None else [paths.TUNED.format(**asdict(self.run))]

    def training_settings(self) -> dict[str, Any]:
        """The settings of training, by the names of its job's fields."""
        told = {
            "train": self.train.given(),
            "seed": self.run.seed,
            "template": self.templates.default,
            **({} if self.tune is None else {"tune": self.tune.given()}),
        }
        return self._told(self.training) | told

    def tuning_settings(self) -> dict[str, Any]:
        """The settings of its tuning, by the names of its job's fields."""
        if self.tune is None:
            return {}
        told = {"train": self.train.given(), "tune": self.tune.given(), "seed": self.tune.seed}
        return self._told(self.training) | told

    def testing_inputs(self, split: str) -> dict[str, Any]:
        """The files that the generation for a split depends on, by its job's fields."""
        adapter, record = self.adapter_files
        return {
            "manifest": manifest(self.run.dataset, split),
            "adapter": adapter,
            "record": record,
            **self._models(self.testing(split)),
        }

    def testing_settings(self, split: str) -> dict[str, Any]:
        """The settings of the generation for a split, by the names of its job's fields."""
        return self._told(self.testing(split))

    def scoring_settings(self, split: str) -> dict[str, Any]:
        """The settings of scoring, by the names of its job's fields."""
        about = {**asdict(self.run), "split": split, "label": self.label}
        # it is there, for the adapter was trained on it
        trained_on = None if self.checkpoint else manifest(self.run.dataset, "train")
        return {"about": about, "metrics": self.dataset.metrics, "train_manifest": trained_on}

    def _models(self, features: Features) -> dict[str, Any]:
        return {"receipts": features.places, "models": self.states}

    @property
    def folders(self) -> dict[str, str | None]:
        """The folders of the models that the run reads, by the names of its jobs' fields."""
        return {
            "backbone_directory": self.backbone_directory if self.reads_backbone else None,
            "llm_directory": self.llm_directory,
        }

    @property
    def states(self) -> list[str]:
        """The files that tell whether a model in a folder of the user's own has changed."""
        own = {
            "backbone": self.backbone.path if self.reads_backbone else None,
            "llm": self.llm.path,
        }
        return [
            paths.MODEL_STATE.format(kind=f"{kind}s", part=getattr(self.run, kind))
            for kind, folder in own.items()
            if folder is not None
        ]

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Its method, backbone and LLM, and how the LLM is prompted if it is said, as JSON."""
        return parts_of(self.method, self.backbone, self.llm, self.prompt)

    def _told(self, features: Features) -> dict[str, Any]:
        return {
            **self.folders,
            **self.parts,
            "features": features.given(),
        }

    @property
    def adapter_files(self) -> list[str]:
        """The two files of the adapter that is tested."""
        folder = self.checkpoint or self.run.path
        return [f"{folder}/{name}" for name in (WEIGHTS, RECORD)]

    @property
    def starts_from(self) -> list[str]:
        """The two files of the adapter that training starts from (`train.init_from`), if any."""
        folder = self.train.init_from
        return [] if folder is None else [f"{folder}/{name}" for name in (WEIGHTS, RECORD)]

    @property
    def settings_sha256(self) -> str:
        """SHA-256 of the settings of its training, as its scores tell it (`config_sha256`)."""
        online = self.online and self.reads_backbone
        return sha256_json(run_settings(self.parts, self.train, online, self.tune))

    @property
    def scores(self) -> str:
        return f"{self.run.path}/{self.dataset.test_split}.scores.json"

    @property
    def sample_scores(self) -> str:
        return f"{self.run.path}/{self.dataset.test_split}.samples.parquet"

    def reads(self) -> list[str]:
        """Files and folders that training and test read, but for what the run makes itself."""
        folders = [folder for folder in self.folders.values() if folder is not None]
        if self.online:
            folders.append(self.media)
        return [*self.reads_files(), *folders]

    def reads_files(self) -> list[str]:
        """The files among them."""
        steps = [self.testing_inputs(self.dataset.test_split)]
        if not self.checkpoint:
            steps.insert(0, self.training_inputs())
        files = [file for step in steps for value in step.values() for file in listed(value)]
        own = {f"{self.run.path}/{name}" for name in (WEIGHTS, RECORD)}
        return [file for file in dict.fromkeys(files) if file not in own]

    def writes(self) -> list[str]:
        """Files that training and test write."""
        split = self.dataset.test_split
        tested = (
            *("texts.jsonl", "generate.json", "generate.rejects.parquet"),
            *("scores.json", "predictions.jsonl", "samples.parquet"),
        )
        trained = (
            () if self.checkpoint else (WEIGHTS, RECORD, "train.jsonl", "train.rejects.parquet")
        )
        names = [*trained, *(f"{split}.{name}" for name in tested)]
        return [f"{self.run.path}/{name}" for name in names]
