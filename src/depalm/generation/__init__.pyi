from .generate import GenerationError as GenerationError
from .generate import beam_search as beam_search
from .generate import pad_left as pad_left
from .generate import write_texts as write_texts
from .partial import Partial as Partial
