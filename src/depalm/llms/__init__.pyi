from .base import LLM as LLM
from .base import LLMError as LLMError
from .injection import DecodingState as DecodingState
from .injection import Injection as Injection
from .injection import hidden_states as hidden_states
from .llama import LlamaLLM as LlamaLLM
from .load import load_llm as load_llm
from .registry import FAMILIES as FAMILIES
