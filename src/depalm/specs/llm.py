"""An LLM's file: config/llms/{name}.yaml."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from depalm.specs.base import Positive, Registered, Spec, Version, fault, nearest


def _known_scheme(uri: str, info: ValidationInfo) -> str:
    """The scheme is a name of the registry `scheme`, if a context has it."""
    scheme = uri.partition("://")[0]
    known = (info.context or {}).get("scheme")
    if known is not None and scheme not in known:
        raise fault(f"{uri}: unknown kind of source {scheme!r}{nearest(scheme, known)}")
    return uri


URI = Annotated[str, Field(pattern="^[a-z0-9+.-]+://"), AfterValidator(_known_scheme)]
SHA256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class SourceSpec(Spec):
    """The place where a model is published."""

    uri: URI = Field(description="hf://, https://, http://, file:// or pypi://, see docs/index.md")
    sha256: SHA256 | None = Field(None, description="of what is published there")


def one_of_source_and(place: str, spec: Spec) -> None:
    """Raise an error unless just one of `source` and `place` is given."""
    given = [key for key in ("source", place) if getattr(spec, key) is not None]
    if len(given) != 1:
        raise fault(f"give either source or {place}, not {' and '.join(given) or 'neither'}")
    if getattr(spec, "convert", None) is not None and spec.model_dump()["source"] is None:
        raise fault("convert is for what was fetched from a source")


class PromptSpec(Spec):
    """How prompts and answers become tokens (docs/methods.md#prompt-text)."""

    space: bool = Field(
        False, description="a space behind a prompt that ends in neither a space nor a line break"
    )
    end_token: bool = Field(False, description="the LLM's `prompt_end` behind the prompt")
    tokenize: Literal["apart", "together"] = Field(
        "apart", description="prompt and answer in training, each for itself or as one text"
    )


class LLMShape(Spec):
    """The size of an LLM."""

    layers: Positive
    width: Positive


class LLMSpec(Spec):
    """A frozen language model."""

    version: Version
    family: Annotated[str, Registered("family")] | None = Field(
        None,
        description="model_type of transformers that config.json must have; without it, whatever "
        "is there is tried when it is loaded",
    )
    source: SourceSpec | None = Field(None, description="where it is fetched from")
    path: str | None = Field(
        None, description="Hugging Face directory on this machine, instead of source"
    )
    answer_prompt: str = Field(
        "", description="stands where a sample has no prompt, as in captioning"
    )
    prompt_end: Annotated[str, Field(pattern=r"^\S+$")] | None = Field(
        None,
        description="special token that `prompt.end_token` puts behind prompts; one that the "
        "tokenizer lacks gets the first id behind its vocabulary",
    )
    chat: bool = Field(
        False,
        description="prompt and answer are turns of the tokenizer's chat template; visual tokens "
        "stand where the prompt starts",
    )
    quantize: Literal["int8", "int4"] | None = Field(
        None, description="weights of the layers in so many bits, by bitsandbytes"
    )
    convert: Annotated[str, Registered("converter")] | None = Field(
        None, description="conversion of the fetched weights"
    )
    shape: LLMShape

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        one_of_source_and("path", self)
        if self.chat and self.prompt_end is not None:
            raise fault("a chat has its own end of a prompt: leave prompt_end out")
        return self
