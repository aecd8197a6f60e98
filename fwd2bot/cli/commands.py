"""One function a command: options in, exit code out. Heavy libraries are imported by what they call."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwd2bot.cli.output import (
    ProgressLine,
    note,
    one_line,
    print_json,
    print_json_with,
    print_results,
    print_rows,
    print_table,
)
from fwd2bot.errors import ImageError, InputError, ModelError
from fwd2bot.store import Store
from fwd2bot.wording import duration, plural

if TYPE_CHECKING:
    from fwd2bot.engine import Model, Reply
    from fwd2bot.ingest import CompressReport

DEFAULT_MODEL = "emoji-world"


def run_compress(options: argparse.Namespace) -> int:
    from fwd2bot.engine import compress_images

    store = Store.open(options.store) if Store.exists(options.store) else None
    model = load_model(options, store)
    model.batch_size = max(options.batch, 1)
    try:
        report = compress_images(
            model,
            options.paths,
            options.store,
            num_tokens=options.tokens,
            quantisation=options.quantise,
            batch_size=options.batch,
            progress=ProgressLine("compressed", "images"),
        )
    except KeyboardInterrupt:
        note(f"\nwhat was compressed is in {options.store}; the same command goes on from there")
        raise
    if options.json:
        print_json({**asdict(report), "failed": [{"image": n, "error": reason} for n, reason in report.failed]})
    else:
        _print_report(report)
    return ImageError.exit_code if report.failed else 0


def run_ask(options: argparse.Namespace) -> int:
    from fwd2bot.engine import ask

    store = Store.open(options.store)
    pairs = _questions(options, store)
    if not pairs:
        raise InputError(f"There is nothing to ask: {_told(options.questions or options.store)} is empty.")
    model = load_model(options, store)
    answers = ask(model, store, pairs, num_tokens=options.tokens)
    replies = _with_progress(answers, len(pairs), options.json)
    if options.json:
        return _json_replies(replies, "answer", ("image", "question"))
    several = len({question for _, question in pairs}) > 1
    return _print_replies(replies, len(pairs) == 1, ("image", "question") if several else ("image",))


def run_caption(options: argparse.Namespace) -> int:
    from fwd2bot.cli import stores
    from fwd2bot.engine import caption

    store = Store.open(options.store)
    images = stores.wanted_names(options, store)
    if not images:
        raise InputError(f"There is nothing to caption: {options.store} is empty.")
    model = load_model(options, store)
    captions = caption(model, store, images, num_tokens=options.tokens)
    replies = _with_progress(captions, len(images), options.json)
    if options.json:
        return _json_replies(replies, "caption", ("image",))
    return _print_replies(replies, len(images) == 1, ("image",))


def run_search(options: argparse.Namespace) -> int:
    from fwd2bot.cli.stores import filter_of
    from fwd2bot.engine import Found, search, search_like

    given = [way for way in (options.text, options.like, options.queries) if way is not None]
    if len(given) != 1:
        raise InputError("Search for one thing: a TEXT, --like FILE or --queries FILE.")
    if options.top < 1:
        raise InputError(f"--top must be at least 1, not {options.top}.")
    wanted = filter_of(options)
    store = Store.open(options.store)
    queries = [options.text] if options.queries is None else read_lines(options.queries)
    model = load_model(options, store)
    found: list[Found]
    if options.like is not None:
        found = [search_like(model, store, options.like, top=options.top, wanted=wanted, exact=options.exact)]
    else:
        found = search(model, store, queries, top=options.top, wanted=wanted, exact=options.exact)
    if options.queries is None and found[0].error is not None:
        raise InputError(found[0].error)
    for one in found:
        if one.error is not None:
            note(f"fwd2bot: {one.query}: {one.error}")
    if not any(one.results or one.error for one in found):
        note(f"fwd2bot: no image of {store.path} ({len(store.names()):,}) was searched")
    if options.json:
        _json_found(found, many=options.queries is not None)
    else:
        for one in found:
            if options.queries is not None:
                print(one.query)
            print_results(one.results, indent="  " if options.queries is not None else "")
    return InputError.exit_code if any(one.error is not None for one in found) else 0


def run_match(options: argparse.Namespace) -> int:
    from fwd2bot.engine import match

    if options.top is not None and options.top < 1:
        raise InputError(f"--top must be at least 1, not {options.top}.")
    texts = read_lines(options.texts)
    ranked = match(load_model(options), options.picture, texts, num_tokens=options.tokens)[: options.top]
    if options.json:
        print_json([{"text": text, "score": round(score, 6)} for text, score in ranked])
    else:
        print_results(ranked)
    return 0


def run_info(options: argparse.Namespace) -> int:
    from fwd2bot.cli import stores
    from fwd2bot.store.filters import EVERYTHING

    wanted = stores.filter_of(options)
    if wanted != EVERYTHING and not options.rows:
        raise InputError("--path and its like choose among images: add --rows.")
    store = Store.open(options.store)
    info = store.info()
    if options.rows:
        images = stores.listing_json(store, wanted)
        print_json_with(asdict(info), "images", images) if options.json else stores.print_listing(images)
        return 0
    if options.json:
        print_json(asdict(info))
        return 0
    names = f", under {info.names:,} names" if info.names != info.rows else ""
    rows = max(info.rows, 1)
    print(f"""{info.path}
  rows         {info.rows:,}{names}
  tokens       {info.num_tokens} a row, of {info.width} numbers as {info.quantisation}
  a row        {info.bytes_per_row:,} bytes: its tokens, and a vector for the search as {info.vector_quantisation}
  an image     {info.image_bytes // rows:,} bytes as a file, on average
  on disk      {info.disk_bytes:,} bytes: {info.disk_bytes // rows:,} a row
  model        {info.model}
  fingerprint  {info.fingerprint}""")
    return 0


def run_methods(options: argparse.Namespace) -> int:
    from fwd2bot.compressors.catalogue import CATALOGUE, LLAVA_GRID

    listed = [{"name": name, **method.facts()} for name, method in CATALOGUE.items()]
    if options.json:
        print_json(listed)
        return 0
    rows = [["method", "trained", "question", "storable", "source", f"tokens on a grid of {LLAVA_GRID} x {LLAVA_GRID}"]]
    for name, method in CATALOGUE.items():
        asked = (method.trained, method.needs_question, method.storable)
        answers = ("yes" if one else "no" for one in asked)
        rows.append([name, *answers, method.source or "-", method.told_counts(LLAVA_GRID)])
    print_table(rows)
    return 0


def run_export(options: argparse.Namespace) -> int:
    from fwd2bot.export import export_model

    done = export_model(options.model, options.to, target=options.target, dtype=options.dtype)
    if not done.merged:
        note(f"fwd2bot: {options.model} has no adapter to merge; {options.to} has its base as it is")
    print(f"{options.to}: {done.bytes:,} bytes in {done.dtype}; its README.md says how rows are read")
    return 0


def run_push(options: argparse.Namespace) -> int:
    import fwd2bot

    model = fwd2bot.load(options.model, device="cpu")
    print(model.push_to_hub(options.repo, private=options.private or None, commit_message=options.message))
    return 0


def run_world(options: argparse.Namespace) -> int:
    from fwd2bot.data.world.writers import write_world

    if options.images < 1:
        raise InputError(f"--images must be at least 1, not {options.images}.")
    if not options.out.strip():
        raise InputError("--out is empty: name a folder ('.' for the current one).")
    progress = ProgressLine("wrote", "images")
    write_world(
        options.out,
        options.images,
        options.split,
        seed=options.seed,
        benchmarks=options.benchmarks,
        progress=progress,
    )
    print(f"{plural(options.images, 'image')} of the {options.split} split in {options.out}")
    return 0


def run_train(options: argparse.Namespace) -> int:
    wished = {name: getattr(options, name) for name in ("gpus", "gpu", "mfu", "text_tokens")}
    wished = {name: value for name, value in wished.items() if value is not None}
    if options.plan:
        return _print_plan(options, wished)
    if wished or options.json:
        name = next(iter(wished), "json").replace("_", "-")
        raise InputError(f"--{name} is for a plan: add --plan, or leave it out to train.")
    from fwd2bot.training import run

    run(options.config)
    return 0


def _print_plan(options: argparse.Namespace, wished: dict[str, Any]) -> int:
    from fwd2bot.training.config import TrainConfig
    from fwd2bot.training.plan import make_plan
    from fwd2bot.training.plan_text import plan_text

    plan = make_plan(TrainConfig.load(Path(options.config)), **wished)
    if options.json:
        print_json({"config": options.config, **plan.to_dict()})
    else:
        print(plan_text(plan))
    return 0


def load_model(options: argparse.Namespace, store: Store | None = None) -> "Model":
    """The model that was asked for; else the one that wrote the store; else the bundled one."""
    import fwd2bot

    name = options.model or (DEFAULT_MODEL if store is None else store.header.source)
    try:
        model: Model = fwd2bot.load(name, device=options.device, dtype=options.dtype)
        return model
    except ModelError as error:
        if options.model is None and store is not None:
            raise ModelError(
                f"{error} It is the model that wrote {store.path}: say with --model where it is."
            ) from error
        raise


def read_lines(file: str) -> list[str]:
    """Lines of a text file (- is stdin), blank ones left out. Raises InputError where there is none."""
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{_told(file)} has no lines: write one text a line.")
    return lines


def _told(file: str) -> str:
    return "stdin" if file == "-" else repr(file) if not file.strip() else file


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"There is no file {_told(file)}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{_told(file)} is not text in UTF-8: save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{_told(file)} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def _questions(options: argparse.Namespace, store: Store) -> list[tuple[str, str]]:
    """(image, question) pairs of --questions, or of the question and the images."""
    some = any((options.path, options.since, options.until, options.larger, options.smaller))
    if options.questions is not None:
        if options.question is not None or options.image or options.all or some:
            raise InputError(
                "--questions brings images and questions: leave out QUESTION, --image, --all, and --path and its like."
            )
        return list(_read_questions(options.questions))
    if options.question is None:
        raise InputError("What is the question? Write it in quotes after `ask`, or give --questions FILE.")
    if not options.question.strip():
        raise InputError("The question is empty: write a question.")
    if bool(options.image) == (options.all or some):
        raise InputError("About which image? Give --image NAME (or several), --all, or --path and its like.")
    from fwd2bot.cli.stores import wanted_names

    return [(image, options.question) for image in wanted_names(options, store)]


def _read_questions(file: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{_told(file)} line {number} is not JSON: write an object a line.") from None
        pair = (value.get("image"), value.get("question")) if isinstance(value, dict) else (None, None)
        if not (isinstance(pair[0], str) and isinstance(pair[1], str)):
            raise InputError(f'{_told(file)} line {number} is not {{"image": "...", "question": "..."}}.')
        yield pair[0], pair[1]


def _with_progress(replies: "Iterable[Reply]", total: int, silent: bool) -> "Iterator[Reply]":
    """Errors as they come, and progress where the answers themselves are not seen as they come."""
    progress = ProgressLine("answered", "questions")
    shown = silent or not sys.stdout.isatty()
    for done, reply in enumerate(replies, start=1):
        if reply.error is not None:
            progress.close()
            note(f"fwd2bot: {reply.error}")
        yield reply
        if shown:
            progress(done, total)


def _json_replies(replies: "Iterable[Reply]", key: str, shown: tuple[str, ...]) -> int:
    """A list of objects; `key` is null where an "error" says why."""
    items: list[dict[str, Any]] = []
    for reply in replies:
        item = {name: getattr(reply, name) for name in shown}
        items.append({**item, key: reply.text, **({"error": reply.error} if reply.error else {})})
    print_json(items)
    return InputError.exit_code if any("error" in item for item in items) else 0


def _print_replies(replies: "Iterable[Reply]", single: bool, shown: tuple[str, ...]) -> int:
    code = 0
    for reply in replies:
        if reply.text is None:
            code = InputError.exit_code
        else:
            print_rows([[*(getattr(reply, name) for name in shown if not single), reply.text]])
    return code


def _json_found(found: "list[Any]", many: bool) -> None:
    lists = [[{"image": name, "score": round(score, 6)} for name, score in one.results] for one in found]
    if not many:
        print_json(lists[0])
        return
    errors = [{"error": one.error} if one.error is not None else {} for one in found]
    print_json(
        [
            {"query": one.query, "results": results, **error}
            for one, results, error in zip(found, lists, errors, strict=True)
        ]
    )


def _print_report(report: "CompressReport") -> None:
    rate = f", {report.added / report.seconds:.3g} a second" if report.added and report.seconds > 0 else ""
    print(f"{report.store}: {plural(report.added, 'image')} added in {duration(report.seconds)}{rate}")
    if report.present:
        print(f"  {plural(report.present, 'image')} already there")
    if report.moved:
        print(f"  {plural(report.moved, 'image')} moved: only the new name answers")
    if report.named:
        print(
            f"  {plural(report.named, 'image')} with the same content as another: one row, which answers to each name"
        )
    if report.failed:
        print(f"  {plural(len(report.failed), 'image')} could not be read:")
        for _, reason in report.failed:
            print(f"    {one_line(reason)}")
