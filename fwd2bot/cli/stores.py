"""Looking after a store: verify, repair, migrate, delete, duplicates; and which of its images a command means."""

import argparse
import datetime
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fwd2bot.cli.commands import load_model
from fwd2bot.cli.output import ProgressLine, note, one_line, print_json, print_rows
from fwd2bot.disk import gone
from fwd2bot.errors import ImageError, InputError, StoreError
from fwd2bot.store import Store
from fwd2bot.wording import duration, plural

if TYPE_CHECKING:
    from fwd2bot.store.filters import Filter

LAST_DAY = 253_402_128_000
"""Nearly the last of the year 9999, in seconds since 1970: dates end there, the times of files do not."""


def run_verify(options: argparse.Namespace) -> int:
    from fwd2bot.store.care import verify

    found = verify(options.store)
    code = 0 if found.whole else StoreError.exit_code
    if options.json:
        print_json({**asdict(found), "whole": found.whole})
        return code
    if found.unguarded:
        note(
            f"fwd2bot: {found.store}/care lacks the guards of {plural(found.unguarded, 'file')}, by which damage to "
            "them would be mended: the next `fwd2bot compress` makes new ones"
        )
    if found.whole:
        print(f"{found.store}: {plural(found.rows, 'row')} in {plural(found.files, 'file')}, all as they were written")
        return code
    print(f"{found.store}: {plural(len(found.damaged), 'file')} damaged")
    for one in found.damaged:
        print(f"  {one.file} ({_fate(one.restorable)})")
    if found.images:
        print(f"{plural(len(found.images), 'image')} with a row that is hurt:")
        for image in found.images:
            print(f"  {one_line(image.image)} ({_fate(image.restorable)})")
    if found.unnamed:
        print(f"{plural(found.unnamed, 'row')} whose names are hurt, too")
    if found.older:
        print("the last commit is lost: a repair goes back to what was there before it")
    note(f"fwd2bot: {found.store} is damaged: run `fwd2bot repair {found.store}`")
    return code


def _fate(restorable: bool) -> str:
    return "can be given back" if restorable else "lost"


def run_repair(options: argparse.Namespace) -> int:
    from fwd2bot.store.care import repair

    done = repair(options.store)
    lost = len(done.gone) + done.unnamed
    code = ImageError.exit_code if lost or done.older else 0
    if options.json:
        print_json(asdict(done))
    elif done.aside is None:
        print(f"{done.store}: {plural(done.rows, 'row')}, all as they were written: nothing to repair")
    else:
        print(f"{done.store}: mended, with {plural(done.rows, 'row')}; its old state is {done.aside}")
        for file in done.restored:
            print(f"  {file} given back")
        if done.older:
            print("  the last commit is lost: compress again what it added, delete again what it deleted")
        if lost:
            print(f"  {plural(lost, 'image')} lost; `fwd2bot compress` adds them again, where their files are:")
            for name in done.gone:
                print(f"    {one_line(name)}")
            if done.unnamed:
                print(f"    and {plural(done.unnamed, 'row')} whose names were hurt, too")
    return code


def run_migrate(options: argparse.Namespace) -> int:
    from fwd2bot.migrate import migrate

    store = Store.open(options.store)
    model = load_model(options, store)
    model.batch_size = max(options.batch, 1)
    progress = ProgressLine("compressed", "images")
    try:
        done = migrate(
            model,
            options.store,
            num_tokens=options.tokens,
            quantisation=options.quantise,
            batch_size=options.batch,
            progress=progress,
        )
    except KeyboardInterrupt:
        note(f"\n{options.store} is as it was; the same command goes on with the migration")
        raise
    progress.close()
    if options.json:
        print_json({**asdict(done), "failed": [{"image": name, "error": reason} for name, reason in done.failed]})
    else:
        print(f"{done.store}: {plural(done.images, 'image')} of {model.name} in {duration(done.seconds)}")
        print(f"  the old rows are in {done.aside}")
        if done.failed:
            print(f"  {plural(len(done.failed), 'image')} could not be read, and stay there alone:")
            for _, reason in done.failed:
                print(f"    {one_line(reason)}")
    return ImageError.exit_code if done.failed else 0


def run_delete(options: argparse.Namespace) -> int:
    from fwd2bot.store.filters import EVERYTHING

    wanted = filter_of(options)
    if bool(options.images) == (options.missing or wanted != EVERYTHING):
        raise InputError("Delete which images? Name them, or give --missing, --path or another of those options.")
    if options.yes and not options.missing:
        raise InputError("--yes is for --missing alone: leave it out.")
    store = Store.open(options.store)
    with store.writing():
        try:
            if options.images:
                names = [_one_name(store, image) for image in options.images]
            elif options.missing:
                names = _missing(store, wanted, sure=options.yes)
            else:
                names = [row.name for row in store.listing(wanted)]
            names = list(dict.fromkeys(names))
            store.remove(names)
        except InputError:  # perhaps an image that one before deleted, and was stopped before its bytes were gone
            store.tidy(erase=True)
            raise
        store.tidy(erase=True)
    if options.json:
        print_json({"store": options.store, "deleted": names})
    else:
        print(f"{options.store}: {plural(len(names), 'image')} deleted")
        for name in names:
            print_rows([[f"  {name}"]])
    return 0


def _one_name(store: Store, image: str) -> str:
    """As `Store.find`, but where a picture lies under several such names, it is not said which: InputError."""
    name, asked = store.find(image), PurePosixPath(image.strip()).as_posix()
    key, _ = store.owner(name) or ("", "")
    ending = "/" + asked.removeprefix("/")
    alike = [one for one, path in store.names_of(key).items() if asked == key or path.endswith(ending)]
    if name not in (image, asked) and len(alike) > 1:
        raise InputError(f"{image!r} may be {' or '.join(map(repr, alike[:3]))} of {store.path}: give the whole name.")
    return name


def _missing(store: Store, wanted: "Filter", *, sure: bool) -> list[str]:
    """Images whose files are gone. Raises InputError where that looks like a disk that is away, unless it is `sure`."""
    missing, folders, unknown = [], set(), 0
    for row in store.listing(wanted):
        away = gone(row.path)
        unknown += away is None
        if away:
            missing.append(row.name)
            folders.add(Path(row.path).parent)
    if unknown:
        note(f"{plural(unknown, 'file')} may not be looked at: the rows stay")
    lost = next((folder for folder in sorted(folders) if not folder.is_dir()), None)
    if missing and not sure and (lost or len(missing) == len(store.names())):
        what = f"the folder {lost} is gone, too" if lost else "no file of the store is there"
        raise InputError(
            f"{plural(len(missing), 'file')} cannot be found, and {what}: is a disk away? "
            "--yes deletes the rows anyway."
        )
    return missing


def run_duplicates(options: argparse.Namespace) -> int:
    from fwd2bot.store.duplicates import duplicates

    store = Store.open(options.store)
    progress = ProgressLine("compared", "images")
    groups = duplicates(store, options.above, progress=progress)
    progress.close()
    if options.json:
        print_json([{"images": group.images, "score": round(group.score, 6)} for group in groups])
    else:
        for group in groups:
            print_rows([[f"{group.score:6.3f}", *group.images]])
    return 0


def filter_of(options: argparse.Namespace) -> "Filter":
    """Of --path, --since, --until, --larger and --smaller. Raises InputError where one of them cannot be read."""
    from fwd2bot.store.filters import parse_filter

    return parse_filter(options.path, options.since, options.until, options.larger, options.smaller)


def wanted_names(options: argparse.Namespace, store: Store) -> list[str]:
    """The images of --image, or of the options that choose some, or all. Raises InputError where both are given."""
    from fwd2bot.store.filters import EVERYTHING

    wanted = filter_of(options)
    if wanted == EVERYTHING:
        return options.image or store.names()
    if options.image:
        raise InputError("Give --image, or --path and its like, not both.")
    names = [row.name for row in store.listing(wanted)]
    if not names:
        raise InputError(f"No image of {store.path} ({len(store.names()):,}) meets these options.")
    return names


def listing_json(store: Store, wanted: "Filter") -> Iterator[dict[str, Any]]:
    """What `fwd2bot info --rows --json` tells of each image."""
    from fwd2bot.store.urls import url_of

    for row in store.listing(wanted):
        yield {
            "image": row.name,
            "url": url_of(row.name),
            "key": row.hash,
            "path": row.path,
            "bytes": row.file_bytes,
            "width": row.width,
            "height": row.height,
            "modified": datetime.datetime.fromtimestamp(min(row.modified, LAST_DAY)).astimezone().isoformat(),
        }


def print_listing(images: Iterable[dict[str, Any]]) -> None:
    print_rows(
        [
            one["image"],
            f"{one['bytes']:,} bytes",
            f"{one['width']} x {one['height']}",
            one["modified"][:10],
            one["path"],
        ]
        for one in images
    )
