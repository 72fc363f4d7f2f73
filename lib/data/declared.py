"""How large an image says that it is, from its header alone: asked before a decoder sets memory aside for it."""

import re
import struct
from collections.abc import Iterator

_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_JPEG_SCAN = 0xDA
_JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")  # the last of its fill bytes, and its marker
_JPEG_SEGMENTS = 10_000  # before the scan; no camera writes so many, and more are not looked at
_HEADER_BYTES = 4096  # in which PNM has its size, and PNG what it says of its samples
_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: its start, and at once the marker with its size
_BOXES = 1000  # at the top of a JPEG 2000 or AVIF file; more are not looked at


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in px by the header of a JPEG, PNG, BMP, WebP, TIFF, GIF, PNM, JPEG 2000 or AVIF file.

    None: it is none of these, or its header is cut short.
    """
    try:
        return _declared(data)
    except (struct.error, IndexError):
        return None


def _declared(data: bytes) -> tuple[int, int] | None:
    if data[:2] == b"\xff\xd8":
        frame = next((place for marker, place in jpeg_segments(data) if marker in _JPEG_FRAMES), None)
        return None if frame is None else _pair(">HH", data, frame + 5)[::-1]
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _pair(">II", data, 16)
    if data[:2] == b"BM":
        old = struct.unpack_from("<I", data, 14)[0] == 12
        width, height = _pair("<HH" if old else "<ii", data, 18)
        return abs(width), abs(height)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(data)
    if data[:4] == b"GIF8":
        return _pair("<HH", data, 6)
    if match := re.match(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*(\d{1,9})\s+(\d{1,9})\s", data[:_HEADER_BYTES]):
        return int(match[1]), int(match[2])
    if data[:4] == _CODESTREAM:
        return _codestream(data, 0)
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        place, _ = _boxes(data).get(b"jp2c", (len(data), 0))
        return _codestream(data, place)
    if data[4:8] == b"ftyp":
        return _avif(data)
    return None


def _pair(form: str, data: bytes, place: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, data, place)
    return first, second


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _boxes(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Start and end of what is in the boxes at the top of a file, of each kind the first."""
    found: dict[bytes, tuple[int, int]] = {}
    place = 0
    for _ in range(_BOXES):
        if place + 8 > len(data):
            break
        size, start = struct.unpack_from(">I", data, place)[0], place + 8
        if size == 1:
            size, start = struct.unpack_from(">Q", data, start)[0], start + 8
        end = place + size if size else len(data)  # 0: up to the end of the file
        if end < start:
            break
        found.setdefault(data[place + 4 : place + 8], (start, end))
        place = end
    return found


def _codestream(data: bytes, place: int) -> tuple[int, int] | None:
    """The size that JPEG 2000's decoder goes by; what the boxes around it say may be another."""
    if data[place : place + 4] != _CODESTREAM:
        return None
    right, lower, left, upper = struct.unpack_from(">IIII", data, place + 8)
    return max(0, right - left), max(0, lower - upper)


def _avif(data: bytes) -> tuple[int, int] | None:
    """The largest of the sizes of its images, of which one is shown; None for a film, whose size is elsewhere."""
    boxes = _boxes(data)
    if b"meta" not in boxes or b"moov" in boxes:
        return None
    sizes = [_pair(">II", data, found.end() + 4) for found in re.compile(b"ispe").finditer(data, *boxes[b"meta"])]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    found: dict[int, int] = {}
    for entry in range(struct.unpack_from(f"{order}H", data, start)[0]):
        tag, kind = struct.unpack_from(f"{order}HH", data, start + 2 + 12 * entry)
        if tag in (256, 257):
            if tag in found or kind not in (3, 4):  # decoders choose among doubles, and look for other kinds elsewhere
                return None
            found[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 10 + 12 * entry)[0]
    return (found[256], found[257]) if len(found) == 2 else None


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, position of its 0xFF) of a JPEG's segments up to its first scan, that one included.

    What lies between segments is passed over, as decoders do.
    """
    place = 2
    for _ in range(_JPEG_SEGMENTS):
        found = _JPEG_SEGMENT.search(data, place)
        if found is None or found.start() + 4 > len(data):
            break
        place = found.start()
        yield data[place + 1], place
        if data[place + 1] == _JPEG_SCAN:
            break
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which a decoder would fill with grey; bytes behind the end are no matter."""
    if data[:2] == b"\xff\xd8":
        # Past the segments: a thumbnail in one of them has an end of its own.
        scan = next((place for marker, place in jpeg_segments(data) if marker == _JPEG_SCAN), None)
        return scan is None or data.rfind(b"\xff\xd9", scan) < 0  # at the end, where it is found at once
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        place = 8
        while place + 12 <= len(data):
            if data[place + 4 : place + 8] == b"IEND":
                return False
            place += 12 + struct.unpack_from(">I", data, place)[0]
        return True
    return False


def png_bits(data: bytes) -> int | None:
    """How many bits of each sample of a PNG are significant, if it says so (its chunk sBIT)."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    place = data.find(b"sBIT", 0, _HEADER_BYTES)
    return max(data[place + 4 : place + 4 + min(4, data[place - 1])], default=None) if place > 0 else None
