"""What is wrong with a cache, or with one shard of it."""

from depalm.errors import DepalmError


class CacheError(DepalmError):
    """A cache that is damaged, was made for something else, or lacks what is asked of it."""


class ShardError(DepalmError):
    """A shard that is missing, damaged, or laid out by other software."""
