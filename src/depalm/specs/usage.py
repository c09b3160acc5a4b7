"""What an adapter's record says of how to use it."""

from pydantic import Field

from depalm.specs.backbone import BackboneSpec
from depalm.specs.base import Compute, Spec
from depalm.specs.llm import LLMSpec, PromptSpec
from depalm.specs.method import MethodSpec


class Usage(Spec):
    """All that it takes to ask an adapter, besides the models themselves."""

    method: MethodSpec
    backbone: BackboneSpec | None = Field(None, description="none for a method that reads none")
    backbone_directory: str | None = Field(None, description="where training read it")
    llm: LLMSpec
    llm_directory: str = Field(description="where training read it")
    prompt: PromptSpec = PromptSpec()
    template: str = Field("{question}", description="the prompt of a question")
    compute: Compute = Field("tf32", description="of the backbone")
    dtype: str | None = Field(None, description="that its tokens were kept in; none: not kept")
