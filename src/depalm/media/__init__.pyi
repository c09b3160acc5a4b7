from .decoders import load_decoder as load_decoder
from .decoders import view_seed as view_seed
from .pool import DecodedBatch as DecodedBatch
from .pool import DecodingPool as DecodingPool
from .pool import File as File
from .preview import write_preview as write_preview
