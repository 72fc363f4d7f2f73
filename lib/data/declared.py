"""How large an image says that it is, from its header alone: asked before a decoder sets memory aside for it."""

import re
import struct

_JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_JPEG_SCAN = 0xDA
_HEADER_BYTES = 4096  # in which JPEG 2000 and AVIF have their sizes


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
    for box in (b"ihdr", b"ispe"):
        place = data.find(box, 0, _HEADER_BYTES)
        if place >= 0:
            return _pair(">II", data, place + 4)[::-1] if box == b"ihdr" else _pair(">II", data, place + 8)
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


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    found: dict[int, int] = {}
    for entry in range(struct.unpack_from(f"{order}H", data, start)[0]):
        tag, kind = struct.unpack_from(f"{order}HH", data, start + 2 + 12 * entry)
        if tag in (256, 257):
            found[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 10 + 12 * entry)[0]
    return (found[256], found[257]) if len(found) == 2 else None


def jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """(marker, position of its 0xFF) of a JPEG's segments up to its first scan, that one included.

    What lies between segments is passed over, as decoders do.
    """
    found, place = [], 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # no segment
            place += 2
        else:
            found.append((marker, place))
            if marker == _JPEG_SCAN:
                break
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return found


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
