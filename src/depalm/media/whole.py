"""Whether a media file has its end, told from what its container says of its own size. Decoders go
by what is there, and take the first half of a file for a short one.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from depalm.rejects import MediaError

HEADER_SLACK = 64  # bytes by which careless writers get the size in a RIFF header wrong
STREAMED = 0x7FFF0000  # a larger size in a RIFF header was not known when it was written
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
METADATA = 4096  # bytes in which the metadata of an FLV file stand
LONGEST_PAGE = 65307  # bytes of a page of Ogg
PAGE = re.compile(rb"OggS\x00[\x00-\x07]")
LAST_PAGE = 4  # flag
FLV_TAGS = (8, 9, 15, 18)  # sound, picture, data
MP3_SLACK = 1024  # bytes by which editors of tags leave the size wrong
MP3_FRAME = 4096  # bytes in which the first frame of an MP3 file says how long the file is


def require_whole(path: Path) -> None:
    """Raise MediaError if the file ends before its container says: WAV and AVI (RIFF), MP4 and MOV
    (ISO 14496-12), WebM and Matroska (RFC 9559), Ogg (RFC 3533), FLV, MP3 (the Xing header).

    Containers that do not say how long they are, such as those written to a pipe, are whole.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(16)
        stream.seek(0)
        check = next((check for fits, check in CONTAINERS if fits(head)), None)
        said = None if check is None else check(stream, size)
    if said is not None:
        raise MediaError(f"truncated: {said}")


def _bytes(there: int, size: int) -> str:
    return f"{there} of {size} bytes are there"


def _riff(stream: BinaryIO, size: int) -> str | None:
    """RIFF: the size in its header, and in that of each of its chunks."""
    head = stream.read(12)
    if len(head) < 12:
        return "its header is cut"
    (stated,) = struct.unpack("<I", head[4:8])
    if size - 8 < stated - HEADER_SLACK and stated < STREAMED:
        return _bytes(size - 8, stated)
    place = 12
    while head[8:12] == b"WAVE" and place + 8 <= size:
        stream.seek(place)
        name, length = struct.unpack("<4sI", stream.read(8))
        end = place + 8 + length
        if name == b"data" and size < end - HEADER_SLACK and length < STREAMED:
            return _bytes(size - place - 8, length)
        place = end + length % 2
    return None


def _boxes(stream: BinaryIO, size: int) -> str | None:
    """MP4: a size in front of every box, and a moov among them."""
    place, names = 0, []
    while place + 8 <= size:
        stream.seek(place)
        head = stream.read(16)
        length, name = struct.unpack(">I4s", head[:8])
        if length and not name.isalnum():  # what somebody has appended
            break
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length == 0:  # to the end of the file
            length = size - place
        names.append(name)
        place += max(length, 8)
    if place > size:
        return _bytes(size, place)
    return None if b"moov" in names else "the index (moov) at its end is missing"


def _matroska(stream: BinaryIO, size: int) -> str | None:
    """EBML elements: the Segment's size, or where it is not known those of its clusters."""
    place = 0
    while place < size:
        stream.seek(place)
        head = stream.read(12)
        if not head[0]:  # no element, but padding
            break
        name_length, length_length = _vint(head), _vint(head[_vint(head) :])
        start = place + name_length + length_length
        value = head[name_length : name_length + length_length]
        if not value or len(value) < length_length:
            return f"it ends within an element at byte {place}"
        bits = int.from_bytes(value, "big") & ((1 << 7 * length_length) - 1)
        unknown = bits == (1 << 7 * length_length) - 1
        if not unknown and start + bits > size:
            return _bytes(size, start + bits)
        # into a segment, or an element of unknown size; behind any other
        place = start if unknown or head.startswith(SEGMENT) else start + bits
    return None


def _vint(head: bytes) -> int:
    """The bytes of a number of EBML, by its first one."""
    return 9 - head[0].bit_length() if head and head[0] else 1


def _ogg(stream: BinaryIO, size: int) -> str | None:
    """Ogg: the last page is whole, and marked as the end of its stream."""
    stream.seek(max(0, size - 2 * LONGEST_PAGE))
    tail = stream.read()
    pages = [match.start() for match in PAGE.finditer(tail)]
    if not pages:
        return "its last page is missing"
    page = tail[pages[-1] :]
    count = page[26] if len(page) > 26 else 0
    length = 27 + count + sum(page[27 : 27 + count])
    if len(page) < 27 or length > len(page):
        return "its last page is cut"
    return None if page[5] & LAST_PAGE else "its last page is missing"


def _flv(stream: BinaryIO, size: int) -> str | None:
    """FLV: `filesize` of its metadata, and the size in front of every tag."""
    start = stream.read(METADATA)
    found = re.search(rb"\x00\x08filesize\x00(.{8})", start, re.DOTALL)
    if found is not None:
        stated = int(struct.unpack(">d", found[1])[0])
        if stated > size:
            return _bytes(size, stated)
    place = int.from_bytes(start[5:9], "big") + 4
    while place < size:
        stream.seek(place)
        tag = stream.read(11)
        if tag[0] not in FLV_TAGS:  # what somebody has appended
            break
        place += 11 + int.from_bytes(tag[1:4], "big") + 4
    return _bytes(size, place) if place > size else None


def _mp3(stream: BinaryIO, size: int) -> str | None:
    """MP3: the bytes that a Xing header counts from its own frame on."""
    head = stream.read(10)
    place = 0
    if head[:3] == b"ID3":  # four bytes of seven bits
        place = 10 + sum(byte << 7 * i for i, byte in enumerate(reversed(head[6:10])))
    stream.seek(place)
    frame = stream.read(MP3_FRAME)
    found = re.search(rb"(?:Xing|Info)\x00\x00\x00(.)", frame, re.DOTALL)
    if found is None or not found[1][0] & 2:
        return None
    after = found.end() + 4 * (found[1][0] & 1)  # behind the number of frames
    if len(frame) < after + 4:
        return None
    (stated,) = struct.unpack(">I", frame[after : after + 4])
    return _bytes(size - place, stated) if stated - MP3_SLACK > size - place else None


def _is_mp3(head: bytes) -> bool:
    synchronised = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # layer 3
    return head[:3] == b"ID3" or synchronised


# whether a file begins as one of a container, and what is missing of it, if anything
CONTAINERS: list[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], str | None]]] = [
    (lambda head: head[:4] == b"RIFF", _riff),
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"), _boxes),
    (lambda head: head[:4] == EBML, _matroska),
    (lambda head: head[:4] == b"OggS", _ogg),
    (lambda head: head[:3] == b"FLV", _flv),
    (_is_mp3, _mp3),
]
