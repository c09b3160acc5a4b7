"""What is wrong with a cache, or with one shard of it."""

from depalm.errors import DepalmError


class CacheError(DepalmError):
    """A cache that is damaged, was made for something else, or lacks what is asked of it."""


class ShardError(DepalmError):
    """A shard that is missing, damaged, or laid out by other software."""


class DamagedRow(ShardError):  # noqa: N818
    """A row of a shard that is not as it was written: its shard, medium and array."""

    def __init__(self, path: object, key: str, array: str):
        super().__init__(f"{path}: the row of {key} in {array} is damaged: its CRC-32C is wrong")
        self.path, self.key, self.array = path, key, array
