"""The texts of a generation in progress, from which a killed one goes on."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from depalm.files import first_difference, naming
from depalm.progress import logger


class Partial:
    """Texts by the index of their sample, kept in a file as batches end.

    A line of the file is a batch: [CRC-32 of the rest, indices, texts, seconds]; the first line has
    the `identity` of the generation instead. The texts of another identity are not used, and what
    follows a cut or damaged line is not either. A process that leaves the file to another one only
    reads it (`writes`).
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], writes: bool = True):
        self.path, self.writes = path, writes
        self.texts: dict[int, str] = {}
        self.seconds = 0.0
        whole = self._read(json.loads(json.dumps(identity)))
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.truncate(whole)
        if not whole:
            self._append([identity])

    def add(self, indices: Sequence[int], texts: Sequence[str], seconds: float) -> None:
        """Keep the texts of a batch, which took so many seconds."""
        if self.writes:
            self._append([list(indices), list(texts), seconds])
        self._take(indices, texts, seconds)

    def _take(self, indices: Sequence[int], texts: Sequence[str], seconds: float) -> None:
        self.texts |= zip(indices, texts, strict=True)
        self.seconds += seconds

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _append(self, content: list[Any]) -> None:
        with naming(self.path), self.path.open("ab") as stream:
            stream.write(json.dumps([_checksum(content), *content]).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, identity: Mapping[str, Any]) -> int:
        """Take over what is there; the bytes up to which the file is whole and ours."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return 0
        whole = 0
        for number, line in enumerate(lines):
            try:
                checksum, *content = json.loads(line)
                if not line.endswith(b"\n") or checksum != _checksum(content):
                    raise ValueError("it is cut")
            except (ValueError, TypeError):
                logger.warning("%s: line %d is damaged: going on from before it", self.path, number)
                return whole
            if number == 0:
                difference = first_difference(content[0], identity, "")
                if difference is not None:
                    field, found, wanted = difference
                    logger.info(
                        "%s is of a generation with %s %r, not %r: not used",
                        *(self.path, field, found, wanted),
                    )
                    return 0
            else:
                self._take(*content)
            whole += len(line)
        if self.texts:
            logger.info("%d texts are there already", len(self.texts))
        return whole


def _checksum(content: list[Any]) -> int:
    return crc32(json.dumps(content).encode())
