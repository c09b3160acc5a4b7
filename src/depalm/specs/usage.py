"""What an adapter's record says of how to use it."""

from pydantic import Field

from depalm.specs.backbone import BackboneSpec
from depalm.specs.base import Compute, Spec
from depalm.specs.llm import LLMSpec, PromptSpec
from depalm.specs.method import MethodSpec


class Usage(Spec):
    """All that it takes to ask an adapter, besides the models themselves."""

    method: MethodSpec
    backbone: BackboneSpec
    backbone_directory: str | None = Field(
        None, description="where training read it; null for a method that reads none"
    )
    llm: LLMSpec
    llm_directory: str = Field(description="where training read it")
    prompt: PromptSpec = PromptSpec()
    template: str = Field("{question}", description="the prompt of a question")
    compute: Compute = Field("tf32", description="of the backbone")
    dtype: str | None = Field(None, description="that its tokens were kept in; none: not kept")
