import pytest

from fwd2bot.errors import InputError
from fwd2bot.store.urls import name_of, url_of


@pytest.mark.parametrize(
    "name", ["fox.png", "more/flag.png", "a b?c#d%20.png", "füchse/1.png", "../x", "/x", "fwd2bot:"]
)
def test_an_address_gives_the_name_back(name):
    assert name_of(url_of(name)) == name
    assert url_of(name).isascii()
    assert not set(url_of(name).removeprefix("fwd2bot:")) & set(" ?#:")


@pytest.mark.parametrize("url", ["", "fox.png", "http://fox.png", "fwd2bot://"])
def test_what_is_no_address_is_told(url):
    with pytest.raises(InputError, match="is no stored image"):
        name_of(url)
