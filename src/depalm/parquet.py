"""Parquet files of our own, with a digest of what is in them that is verified when they are read.

Parquet has checksums of pages alone: a flipped byte in the head of a page, or in the file's own
description, can lose rows or change values without a word.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depalm.errors import DamagedFile
from depalm.files import atomic_file

DIGEST = b"depalm.sha256"  # in the schema's metadata


def write_parquet(path: Path | str, table: pa.Table) -> None:
    """Write a table, atomically; the same table gives the same bytes."""
    told = {**(table.schema.metadata or {}), DIGEST: digest(table).encode()}
    with atomic_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(told), temporary, write_page_checksum=True)


def read_parquet(path: Path | str) -> pa.Table:
    """The table. Raises OSError for a file that cannot be opened, and DamagedFile for one that is
    not as it was written. A file that is not our own, or of an earlier version, has no digest.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        told = dict(table.schema.metadata or {})
        known = told.pop(DIGEST, None)
        table = table.replace_schema_metadata(told or None)
        found = None if known is None else digest(table).encode()
    except FileNotFoundError:  # which pyarrow raises without its errno
        raise
    except (OSError, ValueError, pa.ArrowException) as error:  # pyarrow's have no errno either
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(path, " ".join(str(error).split())) from error
    if found != known:
        raise DamagedFile(path, "its content has another checksum")
    return table


def digest(table: pa.Table) -> str:
    """SHA-256 of the names, types and values of a table, however they are cut into chunks."""
    found = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        found.update(f"{name}\0".encode())
        _feed(found, column.combine_chunks())
    return found.hexdigest()


def _feed(found: Any, array: Any) -> None:
    # of a nested type the name alone: that of its parts is another once it is read
    kind = array.type
    found.update(f"{len(array)}\0{kind.id if pa.types.is_nested(kind) else kind}\0".encode())
    found.update(_bytes(array.is_valid()))
    if pa.types.is_dictionary(kind):
        _feed(found, array.dictionary_decode())
    elif pa.types.is_struct(kind):
        for part in array.flatten():
            _feed(found, part)
    elif pa.types.is_fixed_size_list(kind):
        _feed(found, array.flatten())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        found.update(_bytes(pc.fill_null(pc.list_value_length(array), 0)))
        _feed(found, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        texts = pc.fill_null(array.cast(pa.large_binary()), b"")
        found.update(_bytes(pc.binary_length(texts)))
        offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :][: len(texts) + 1]
        if len(texts) and texts.buffers()[2] is not None:
            found.update(memoryview(texts.buffers()[2])[offsets[0] : offsets[-1]])
    elif not pa.types.is_null(kind):
        found.update(_bytes(pc.fill_null(array, False if pa.types.is_boolean(kind) else 0)))


def _bytes(array: pa.Array) -> bytes:
    return array.to_numpy(zero_copy_only=False).tobytes()
