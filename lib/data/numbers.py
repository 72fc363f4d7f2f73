"""Numbers in text files, read strictly: what a program of another kind would read otherwise is no number here."""

from typing import AnyStr

LIMIT = 1e6  # px; OpenCV reads no image with a longer side

_CHARACTERS = "0123456789+-.eE \t\r\n"
_BYTES = _CHARACTERS.encode()


def is_plain(text: AnyStr) -> bool:
    """Whether text holds nothing but decimal numbers in ASCII and space; `1_0`, `nan`, `inf` and `0x1` are none."""
    return not text.strip(_CHARACTERS if isinstance(text, str) else _BYTES)  # strip stops at what it does not know


def plain_numbers(parts: list[str]) -> list[float]:
    """The numbers that the parts are; ValueError if one is none, or beyond `LIMIT`."""
    if not is_plain("".join(parts)):
        raise ValueError("no plain decimal number")
    values = list(map(float, parts))
    if values and not -LIMIT <= min(values) <= max(values) <= LIMIT:
        raise ValueError(f"beyond {LIMIT:,.0f}, the longest side of an image")
    return values
