"""A dataset's file: config/datasets/{name}.yaml."""

from typing import Annotated, Literal, Self

from annotated_types import MinLen
from pydantic import Field, ValidationInfo, model_validator

from depalm.specs.base import (
    Distinct,
    Fraction,
    Natural,
    Positive,
    Registered,
    Spec,
    Version,
    fault,
)
from depalm.specs.llm import SHA256, URI, one_of_source_and
from depalm.specs.train import TrainSpec

Split = Literal["train", "val", "test"]


class DatasetSource(Spec):
    """The place where a dataset, or a file of it, is published."""

    uri: URI = Field(description="hf://, https://, http://, file:// or pypi://, see docs/index.md")
    sha256: SHA256 | None = Field(None, description="of what is published there")
    unpack: bool = Field(False, description="it is a zip or tar archive; its contents are meant")


class Templates(Spec):
    """The prompts that samples get."""

    texts: Annotated[list[str], MinLen(1), Distinct] = Field(
        description="{question} stands for the question; an empty prompt is left to the LLM"
    )
    selection: Literal["first", "random"] | Natural = Field(
        "first", description="the first, the index of one, or drawn for each sample"
    )
    seed: Natural = Field(0, description="of `selection: random`")

    def selecting(self, selection: str | int | None) -> Self:
        """These templates with another selection, if one is given."""
        return self if selection is None else self.model_copy(update={"selection": selection})

    @property
    def default(self) -> str:
        """The text that is selected; the first, if it is drawn for each sample."""
        return self.texts[self.selection if isinstance(self.selection, int) else 0]


class SizeSpec(Spec):
    """How much a split has."""

    samples: Positive = Field(description="rows of its manifest")
    media: Positive = Field(description="different files among them")

    @model_validator(mode="after")
    def _check_media(self) -> Self:
        if self.media > self.samples:
            raise fault("there are more media than samples, of which each has one", at="media")
        return self


class Columns(Spec):
    """The columns of a table, or the members of a tar shard's samples."""

    media: str = Field(description="parquet: column of the media; webdataset: suffix, such as jpg")
    references: str = Field(description="texts, or lists of texts")
    question: str | None = Field(None, description="goes into the template")
    prompt: str | None = Field(None, description="taken instead of the template")
    id: str | None = Field(None, description="by default from the place of the row")


class RowsSpec(Spec):
    """The keys that decide the rows of a dataset's manifests."""

    version: Version
    reader: Annotated[str, Registered("reader")] = Field(description="annotation format")
    media_root: Annotated[str, Field(pattern=r"[^/]")] | None = Field(
        None, description="folder of the media, if it is not that of the annotations"
    )
    columns: Columns | None = Field(
        None, description="what is what, for readers of tables: parquet, webdataset"
    )
    splits: Annotated[list[Split], MinLen(1), Distinct]
    templates: Templates

    @model_validator(mode="after")
    def _check_columns(self, info: ValidationInfo) -> Self:
        readers = (info.context or {}).get("reader", {})
        if self.reader not in readers:
            return self
        if readers[self.reader].takes_columns and self.columns is None:
            raise fault(f"{self.reader} needs columns: media and references", at="columns")
        if not readers[self.reader].takes_columns and self.columns is not None:
            raise fault(f"{self.reader} knows its own columns", at="columns")
        return self

    @model_validator(mode="after")
    def _check_media_root(self, info: ValidationInfo) -> Self:
        readers = (info.context or {}).get("reader", {})
        if self.media_root is None or self.reader not in readers:
            return self
        naming = [name for name in readers if readers[name].names_media]
        if self.reader not in naming:
            raise fault(
                f"for readers whose annotations name the media: {', '.join(naming)}; "
                f"{self.reader} looks for them below root",
                at="media_root",
            )
        return self


class DatasetSpec(RowsSpec):
    """Samples, their media, and how they are scored."""

    modality: Literal["image", "audio", "video"]
    source: DatasetSource | Annotated[list[DatasetSource], MinLen(1)] | None = Field(
        None, description="where it is fetched from; the files of a list lie together"
    )
    root: str | None = Field(None, description="where it is on this machine, instead of source")
    obtain: str | None = Field(None, description="how to get what belongs in root")
    convert: Annotated[str, Registered("converter")] | None = Field(
        None, description="conversion of what was fetched"
    )
    splits: Annotated[list[Split], MinLen(1), Distinct] = Field(
        description="without train, its runs test an adapter that is there already (`checkpoint`)"
    )
    test_split: Split = Field(description="the split that is scored")
    max_reject_fraction: Fraction | None = Field(
        None, description="bad samples and files that are tolerated, over data.max_reject_fraction"
    )
    metrics: Annotated[list[Annotated[str, Registered("metric")]], MinLen(1)] = Field(
        description="metrics of its table cells, the main one first"
    )
    size: dict[Split, SizeSpec] = Field(
        {}, description="of splits; for `depalm plan --cost`, until there are manifests"
    )
    train: TrainSpec = Field(TrainSpec(), description="over the settings' train")

    def rows(self) -> RowsSpec:
        """The keys that decide the rows of the manifest."""
        given = self.given()
        return RowsSpec.model_validate({k: given[k] for k in RowsSpec.model_fields if k in given})

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        one_of_source_and("root", self)
        if self.test_split not in self.splits:
            raise fault(f"is not one of the splits {self.splits}", at="test_split")
        if self.obtain is not None and self.root is None:
            raise fault("obtain says how to get what belongs in root, but there is no root")
        return self
