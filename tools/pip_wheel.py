"""Get pip where Python comes without it, as Debian's python3 does, with the standard library only.

One version, held by its hash, looked for where pip's own configuration says: first `find-links`, then the indexes.
"""

import base64
import configparser
import hashlib
import os
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

WHEEL = "pip-26.2.1-py3-none-any.whl"
SHA256 = "71138adf1f4ca900cdb7d289c21b7494329f2332b6d85f0e1c42108c0384ed3e"
PUBLIC_INDEX = "https://pypi.org/simple"


class NoPipError(Exception):
    """pip's wheel is nowhere to be had; the message says where it was looked for and what came back."""


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """What of pip's configuration says where packages come from."""

    find_links: tuple[str, ...]
    indexes: tuple[str, ...]
    certificates: str | None
    proxy: str | None


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """The files that pip reads, the later ones winning."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME", "~")).expanduser()
    system = [Path(folder, "pip/pip.conf") for folder in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    system.append(Path("/etc/pip.conf"))
    user = [home / ".pip/pip.conf", Path(environ.get("XDG_CONFIG_HOME") or home / ".config", "pip/pip.conf")]
    if sys.platform == "darwin":
        system.append(Path("/Library/Application Support/pip/pip.conf"))
        user.append(home / "Library/Application Support/pip/pip.conf")
    return [*system, *user, *([Path(named)] if named else [])]


def read_settings(environ: Mapping[str, str]) -> PipSettings:
    """pip's files and its environment variables, read as pip reads them."""
    values: dict[str, str] = {}
    for file in config_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (OSError, ValueError, configparser.Error):
            continue  # pip will say what is wrong with it
        for section in ("global", "install"):
            if parser.has_section(section):
                values |= {key.lower().replace("_", "-"): value for key, value in parser.items(section)}
    for key, value in environ.items():
        if key.startswith("PIP_") and value:
            values[key[4:].lower().replace("_", "-")] = value
    indexes = [values.get("index-url", PUBLIC_INDEX), *values.get("extra-index-url", "").split()]
    if values.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        indexes = []
    return PipSettings(
        find_links=tuple(values.get("find-links", "").split()),
        indexes=tuple(index.rstrip("/") for index in indexes),
        certificates=values.get("cert"),
        proxy=values.get("proxy"),
    )


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for key, value in attrs if tag == "a" and key == "href" and value]


def links_to_wheel(page: str, address: str) -> list[str]:
    """The addresses at which a page of links offers our wheel."""
    links = _Links()
    links.feed(page)
    targets = [urllib.parse.urldefrag(urllib.parse.urljoin(address, target)).url for target in links.targets]
    return [target for target in targets if target.rsplit("/", 1)[-1] == WHEEL]


def fetch(address: str, settings: PipSettings) -> bytes:
    """Read an address. What it gives is only believed if its hash is right, so a machine without certificates may ask
    again without checking them, and then without the password.
    """
    parts = urllib.parse.urlsplit(address)
    secret, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    certificates = settings.certificates
    folder = certificates if certificates and Path(certificates).is_dir() else None
    context = ssl.create_default_context(cafile=None if folder else certificates, capath=folder)
    proxies = [urllib.request.ProxyHandler(dict.fromkeys(("http", "https"), settings.proxy))] if settings.proxy else []
    authorised = {"Authorization": "Basic " + base64.b64encode(urllib.parse.unquote(secret).encode()).decode()}
    for headers in ((authorised if secret else {}), {}):
        request.unredirected_hdrs = {"Accept": "text/html", **headers}
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), *proxies)
        try:
            with opener.open(request, timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLCertVerificationError):
                raise
            context = ssl._create_unverified_context()
    raise NoPipError(f"{host}: its certificate cannot be checked")


def candidates(settings: PipSettings) -> Iterator[tuple[str, bool]]:
    """Where the wheel may be, in pip's order: an address, and whether it is a page of links rather than the wheel."""
    for place in settings.find_links:
        parts = urllib.parse.urlsplit(place)
        path = Path(urllib.request.url2pathname(parts.path) if parts.scheme == "file" else place).expanduser().resolve()
        if parts.scheme in ("http", "https") or path.is_file():
            yield (place if parts.scheme else path.as_uri()), True
        else:
            yield (path / WHEEL).as_uri(), False
    for index in settings.indexes:
        local = urllib.parse.urlsplit(index).scheme == "file"
        yield index + ("/pip/index.html" if local else "/pip/"), True


def download(folder: Path, environ: Mapping[str, str]) -> Path:
    """Put pip's wheel into the folder.

    Raises: NoPipError if no place that pip's configuration names has it.
    """
    settings = read_settings(environ)
    troubles = []
    for address, is_page in candidates(settings):
        try:
            targets = [address]
            if is_page:
                targets = links_to_wheel(fetch(address, settings).decode("utf-8", "replace"), address)
            for target in targets:
                content = fetch(target, settings)
                if hashlib.sha256(content).hexdigest() == SHA256:
                    (folder / WHEEL).write_bytes(content)
                    return folder / WHEEL
                troubles.append(f"{target} is not the file whose hash we hold")
        except (OSError, ValueError, NoPipError) as error:
            if not (address.startswith("file:") and isinstance(getattr(error, "reason", error), FileNotFoundError)):
                troubles.append(f"{_without_secret(address)}: {getattr(error, 'reason', error)}")
    raise NoPipError("; ".join(troubles) or f"no place that pip's configuration names has {WHEEL}")


def _without_secret(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
