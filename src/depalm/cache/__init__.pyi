from .errors import CacheError as CacheError
from .formats import FORMATS as FORMATS
from .formats import format_of as format_of
from .formats import predicted_bytes as predicted_bytes
from .reader import TokenCache as TokenCache
from .writer import ShardWriter as ShardWriter
from .writer import require_disk as require_disk
from .writer import write_shard as write_shard
