"""What a run reads its features from: nothing, caches of tokens, or a backbone in the loop."""

from typing import Annotated, Any, Literal

from pydantic import Field

from depalm.specs.base import Fraction, Natural, Rate, Spec


class _Features(Spec):
    def given(self) -> dict[str, Any]:
        """All of it, for the kind stands in no YAML."""
        return self.filled()


class NoFeatures(_Features):
    """The method reads no backbone."""

    kind: Literal["none"] = "none"

    @property
    def places(self) -> list[str]:
        """The files read on this machine: none."""
        return []


class Cached(_Features):
    """Shards of a cache."""

    kind: Literal["cached"] = "cached"
    shards: list[str] = Field(description="paths or URLs: those of one view after those of another")
    views: list[Natural] = Field([0], description="views of the media, one an epoch in turn")

    @property
    def places(self) -> list[str]:
        """The files read on this machine: the shards that are not read over the network."""
        return [shard for shard in self.shards if "://" not in shard]


class Online(_Features):
    """The backbone runs on media files, decoded anew whenever they are read."""

    kind: Literal["online"] = "online"
    media: str = Field(description="folder of the files")
    decode_seconds: Rate = Field(60.0, description="a file that takes longer is rejected")
    max_reject_fraction: Fraction = Field(0.001, description="bad files that are tolerated")

    @property
    def places(self) -> list[str]:
        """The files read on this machine: the folder of the media."""
        return [self.media]


Features = Annotated[NoFeatures | Cached | Online, Field(discriminator="kind")]
