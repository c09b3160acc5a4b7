"""Parquet files of our own, with a checksum of every page that is verified when they are read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depalm.errors import DamagedFile
from depalm.files import atomic_file


def write_parquet(path: Path | str, table: pa.Table) -> None:
    """Write a table, atomically; the same table gives the same bytes."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def read_parquet(path: Path | str) -> pa.Table:
    """The table. Raises OSError for a file that cannot be opened, and DamagedFile for one that is
    not as it was written.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:  # which pyarrow raises without its errno
        raise
    except (OSError, ValueError) as error:  # pyarrow's own are such, and have none either
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(path, " ".join(str(error).split())) from error
