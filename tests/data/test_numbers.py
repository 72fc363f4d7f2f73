import pytest

from lib.data.numbers import LIMIT, is_plain, plain_numbers


def test_decimal_numbers_are_read() -> None:
    parts = ["1", "-2.5", "+.5", "3.", "1e3", "2E-2", f"{LIMIT}", "-0"]
    assert plain_numbers(parts) == [1, -2.5, 0.5, 3, 1000, 0.02, LIMIT, 0]
    assert plain_numbers([]) == []


@pytest.mark.parametrize(
    "bad", ["", "1_0", "nan", "inf", "-Infinity", "0x10", "1e", "--1", "1-1", "1 2", "1,2", "\u0661", "1\0", "true"]
)
def test_anything_else_is_none(bad: str) -> None:
    with pytest.raises(ValueError, match=r"number|float"):
        plain_numbers(["1", bad])


@pytest.mark.parametrize("bad", ["1e39", "-1e39", "1e999", "1000001"])
def test_more_than_an_image_can_have_is_none(bad: str) -> None:
    with pytest.raises(ValueError, match="beyond 1,000,000"):
        plain_numbers([bad])


def test_bytes_and_text_are_judged_alike() -> None:
    for text in ("1.5 2\n3e4\t-5\r\n", "1_0", "1\x002", "1 2 é", ""):
        assert is_plain(text) == is_plain(text.encode())
    assert is_plain(b"1 2\n3")
    assert not is_plain(b"1 _ 2")
