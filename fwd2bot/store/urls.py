"""The URL by which a server is asked for a stored image: fwd2bot://NAME, percent-encoded."""

from urllib.parse import quote, unquote

from fwd2bot.errors import InputError

SCHEME = "fwd2bot://"


def url_of(name: str) -> str:
    """holiday/a b.png -> fwd2bot://holiday/a%20b.png"""
    return SCHEME + quote(name)


def name_of(url: str) -> str:
    """The name in a URL. Raises InputError where it is no such URL."""
    name = unquote(url.removeprefix(SCHEME), errors="replace")
    if not url.startswith(SCHEME) or not name:
        raise InputError(
            f"{url!r} is no stored image: its URL is {SCHEME}NAME, as `fwd2bot info STORE --rows --json` tells."
        )
    return name
