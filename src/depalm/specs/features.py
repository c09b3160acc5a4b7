"""What a run reads its features from: nothing, the token store, or a backbone in the loop."""

from typing import Annotated, Any, Literal

from pydantic import Field

from depalm.specs.base import Compute, Fraction, Natural, Rate, Spec


class _Features(Spec):
    def given(self) -> dict[str, Any]:
        """All of it, for the kind stands in no YAML."""
        return self.filled()


class NoFeatures(_Features):
    """The method reads no backbone."""

    kind: Literal["none"] = "none"

    @property
    def places(self) -> list[str]:
        """The files that say what is read: none."""
        return []


class Cached(_Features):
    """Rows of the token store, as receipts tell them."""

    kind: Literal["cached"] = "cached"
    receipts: list[str] = Field(description="one for each view")
    views: list[Natural] = Field([0], description="views of the media, one an epoch in turn")
    store: str = Field("results/cache", description="folder of the token store, or a URL of one")

    @property
    def places(self) -> list[str]:
        """The files that say what is read."""
        return self.receipts


class Online(_Features):
    """The backbone runs on media files, decoded anew whenever they are read."""

    kind: Literal["online"] = "online"
    media: str = Field(description="folder of the files")
    decode_seconds: Rate = Field(60.0, description="a file that takes longer is rejected")
    max_reject_fraction: Fraction = Field(0.001, description="bad files that are tolerated")
    compute: Compute = Field("tf32", description="of the backbone")

    @property
    def places(self) -> list[str]:
        """The files that say what is read: none besides the manifest, which has their SHA-256."""
        return []


Features = Annotated[NoFeatures | Cached | Online, Field(discriminator="kind")]
