"""Names to URLs and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd2bot.errors import InputError
from fwd2bot.store.urls import name_of, url_of


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_every_name_comes_back(name):
    url = url_of(name)
    assert url.startswith("fwd2bot://")
    assert url.isascii()
    assert " " not in url
    assert name_of(url) == name


def test_slashes_stay_and_the_rest_is_encoded():
    assert url_of("holiday/a b%.png") == "fwd2bot://holiday/a%20b%25.png"


@pytest.mark.parametrize("url", ["", "fox.png", "http://x/y", "fwd2bot://", "FWD2BOT://x"])
def test_what_is_no_such_url_is_refused(url):
    with pytest.raises(InputError, match="is no stored image"):
        name_of(url)
