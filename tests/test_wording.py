"""Times and counts as a person reads them."""

import pytest

from fwd2bot.wording import duration, plural


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7322, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plural() -> None:
    assert [plural(count, "image") for count in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]
