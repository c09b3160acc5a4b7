"""The plan of a run: all that is decided about it before any job, once for all who ask."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from depalm.adapters.layout import Layout
from depalm.adapters.record import RECORD, WEIGHTS
from depalm.cache.formats import FORMATS
from depalm.config import paths
from depalm.config.run import Run
from depalm.specs import BackboneSpec, DatasetSpec, LLMSpec, MethodSpec, TrainSpec
from depalm.specs.features import Cached, Features, NoFeatures, Online
from depalm.specs.settings import CacheSpec


def training_views(count: int) -> list[int]:
    """The views that training reads of `count`: the augmented ones, or the clean one if it is
    alone. Evaluation always reads view 0.
    """
    return list(range(1, count)) or [0]


def manifest(dataset: str, split: str) -> str:
    return paths.MANIFEST.format(dataset=dataset, split=split)


def shards(
    cache: CacheSpec, dataset: str, backbone: str, split: str, views: Sequence[int]
) -> list[str]:
    """The shards of some views of a split: those of one view after those of another."""
    return [
        f"{paths.SHARD}{FORMATS[cache.format].suffix}".format(
            dataset=dataset,
            backbone=backbone,
            split=split,
            view=view,
            shard=i,
            shards=cache.shards,
        )
        for view in views
        for i in range(cache.shards)
    ]


@dataclass(frozen=True)
class RunPlan:
    """A run, the parts that it is made of, how it is trained, and the files that it reads and
    writes.

    `checkpoint` is the folder of a trained adapter that it only tests; None if it trains its own.
    `online`: its backbone runs in the loop, rather than being read from a cache. `media` is where
    the dataset's files lie, the directories are those of the models' weights. `layout` says which
    layers it reads, and on which it acts.
    """

    run: Run
    dataset: DatasetSpec
    backbone: BackboneSpec
    llm: LLMSpec
    method: MethodSpec
    label: str
    layout: Layout
    train: TrainSpec
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
        """What training reads its features from."""
        return self._features("train", training_views(self.cache.views))

    def testing(self, split: str) -> Features:
        """What the generation for a split reads its features from."""
        return self._features(split, [0])

    def _features(self, split: str, views: list[int]) -> Features:
        if not self.reads_backbone:
            return NoFeatures()
        if self.online:
            return Online(
                media=self.media,
                decode_seconds=self.cache.decode_seconds,
                max_reject_fraction=self.max_reject_fraction,
            )
        places = shards(self.cache, self.run.dataset, self.run.backbone, split, views)
        if self.cache.stream:
            root = str(self.cache.url).rstrip("/")
            places = [f"{root}/{place.removeprefix(f'{paths.RESULTS}/')}" for place in places]
        return Cached(shards=places, views=views)

    def cached(self) -> list[tuple[str, int]]:
        """The splits and views of which the run reads a cache on this disk."""
        if not self.reads_backbone or self.online or self.cache.stream:
            return []
        views = [] if self.checkpoint else training_views(self.cache.views)
        return [*(("train", view) for view in views), (self.dataset.test_split, 0)]

    @property
    def backbone_weights(self) -> list[str]:
        """The directory of the backbone's weights, unless nothing of it is read."""
        return [self.backbone_directory] if self.reads_backbone else []

    def about(self, split: str) -> dict[str, Any]:
        """What the scores of a split say about the run."""
        return {**asdict(self.run), "split": split, "label": self.label}

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
    def scores(self) -> str:
        return f"{self.run.path}/{self.dataset.test_split}.scores.json"

    def reads(self) -> list[str]:
        """Files and folders that training and test read."""
        run, split = self.run, self.dataset.test_split
        splits = [split] if self.checkpoint else ["train", split]
        manifests = [manifest(run.dataset, name) for name in splits]
        features = [*([] if self.checkpoint else [self.training]), self.testing(split)]
        found = [
            *manifests,
            *([] if self.checkpoint else [paths.SUBSET.format(**asdict(run))]),
            *(place for feature in features for place in feature.places),
            *self.backbone_weights,
            self.llm_directory,
            *(self.adapter_files if self.checkpoint else self.starts_from),
        ]
        return list(dict.fromkeys(found))

    def writes(self) -> list[str]:
        """Files that training and test write."""
        split = self.dataset.test_split
        tested = ("predictions.jsonl", "generate.json", "generate.rejects.parquet", "scores.json")
        trained = (
            () if self.checkpoint else (WEIGHTS, RECORD, "train.jsonl", "train.rejects.parquet")
        )
        names = [*trained, *(f"{split}.{name}" for name in tested)]
        return [f"{self.run.path}/{name}" for name in names]
