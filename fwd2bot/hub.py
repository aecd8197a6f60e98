"""The Hugging Face hub: a model's files fetched and put there, and the head of its card.

The only module that imports huggingface_hub; whatever that raises becomes a ModelError that says what to do.
"""

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.errors import ModelError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
"""A model there: owner/name, or owner/name@version with a branch, tag or commit."""
_CACHED = re.compile(r".*/models--([^/]+?)--([^/]+)/snapshots/(\w+)(/.*)?")
_HEAD = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*\n", re.MULTILINE | re.DOTALL)


def download(name: str, patterns: Sequence[str]) -> Path:
    """The folder, in the hub's cache, with a model's files; `name` is owner/name, or owner/name@version.

    Raises ModelError when that fails: no such model, no right, no network, no room.
    """
    from huggingface_hub import snapshot_download

    repo, _, version = name.partition("@")
    try:
        return Path(snapshot_download(repo, revision=version or None, allow_patterns=list(patterns)))
    except Exception as error:  # its errors have no common base: network, name, rights, disk
        reason = _reason(error, repo, version)
        raise ModelError(f"{name!r} is no folder here and cannot be fetched from the hub: {reason}") from error


def name_of(folder: Path) -> str | None:
    """owner/name@commit of a folder that `download` gave, or that is in one; None of a folder elsewhere."""
    found = _CACHED.fullmatch(folder.absolute().as_posix())
    return f"{found[1]}/{found[2]}@{found[3]}" if found else None


def upload(
    name: str,
    files: Mapping[str, Path | bytes],
    *,
    replaces: Sequence[str] = (),
    private: bool | None = None,
    token: str | None = None,
    message: str = "",
) -> str:
    """Puts `files`, by their places there, into a model repository in one commit; gives the commit's address.

    A repository that is not there is made. What stands below the folders `replaces` there, and is not among `files`,
    goes. Raises ModelError when that fails: no token, no right, no network.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    refused = f"{name!r} cannot be put on the hub: "
    if not (token or get_token()):
        raise ModelError(f"{refused}it must know who you are; {LOG_IN}.")
    api = HfApi(token=token)
    try:
        repo = api.create_repo(name, private=private, exist_ok=True).repo_id
        gone = [path for path in api.list_repo_files(repo) if path not in files and path.startswith(tuple(replaces))]
        changes: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in gone]
        changes += [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()]
        return str(api.create_commit(repo, changes, commit_message=message or "Upload a model").commit_url)
    except Exception as error:  # as above
        raise ModelError(f"{refused}{_reason(error, name, writing=True)}") from error


def with_head(card: str, values: Mapping[str, Any]) -> str:
    """A card (README.md) whose YAML head has these values. What it said before stays; lists are joined.

    Raises ModelError for a head that is no YAML.
    """
    found = _HEAD.match(card)
    try:
        head = yaml.safe_load(found[1]) if found else {}
        joined: dict[str, Any] = dict(head or {})
    except (yaml.YAMLError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"The head of README.md, between the lines ---, is no YAML mapping: {reason}") from error
    for name, value in values.items():
        if isinstance(value, list) and isinstance(joined.get(name), list):
            joined[name] = list(dict.fromkeys([*joined[name], *value]))
        else:
            joined.setdefault(name, value)
    body = card[found.end() :] if found else f"\n{card}"
    return f"---\n{yaml.safe_dump(joined, sort_keys=False, allow_unicode=True)}---\n{body}"


def _reason(error: Exception, name: str, version: str = "", *, writing: bool = False) -> str:
    """What went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    status = next((one.response.status_code for one in _chain(error) if isinstance(one, errors.HfHubHTTPError)), None)
    if isinstance(error, errors.HFValidationError):
        return "that is no hub id; write owner/name."
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated; ask for access at {constants.ENDPOINT}/{name}, then {LOG_IN}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no version {version!r}; name a branch, a tag or a commit of it."
    if isinstance(error, errors.RepositoryNotFoundError) and not writing:
        return f"it is not there, or private; check the name, and for a private model {LOG_IN}."
    if status == 401:
        return f"your token is not accepted; {LOG_IN}, with a new token."
    if status == 403 or (status == 404 and writing):
        wish = "write there" if writing else "read it"
        return f"your token may not {wish}; take one that may, see {constants.ENDPOINT}/settings/tokens."
    if any(isinstance(one, errors.OfflineModeIsEnabled) for one in _chain(error)):
        return "HF_HUB_OFFLINE is set; unset it, or give a folder."
    if any(isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in _chain(error)):
        return f"the disk is full; free some, or set HF_HOME to a folder on another disk ({constants.HF_HUB_CACHE})."
    if status is None and any(type(one).__module__.startswith("httpx") for one in _chain(error)):
        return f"{constants.ENDPOINT} cannot be reached; check the connection, and try again."
    if status is not None and status >= 500:
        return f"{constants.ENDPOINT} answers with an error of its own ({status}); try again later."
    told = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__
