"""Addresses of stored images, `fwd2bot://more/flag.png`: what an OpenAI client gives as an `image_url`."""

from urllib.parse import quote, unquote

from fwd2bot.errors import InputError

SCHEME = "fwd2bot://"


def url_of(name: str) -> str:
    """The address of the image of this name, percent-encoded."""
    return SCHEME + quote(name)


def name_of(url: str) -> str:
    """The name in an address. Raises InputError where it is none of ours."""
    name = unquote(url.removeprefix(SCHEME))
    if not url.startswith(SCHEME) or not name:
        raise InputError(f"{url[:80]!r} is no address of a stored image, which looks like {SCHEME}fox.png.")
    return name
