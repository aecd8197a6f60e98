"""What can be typed: every command with its options and examples. Imports nothing heavy, so that help is instant."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn, TypeAlias

from fwd2bot import __version__
from fwd2bot.evaluation.catalogue import CATALOGUE

ABOUT = "Compress each image into a handful of tokens once; answer, caption and search from those tokens ever after."
QUANTISERS = ("bf16", "int8", "int4", "int2", "binary")
ALL_EXAMPLES = """\
  fwd2bot demo
  fwd2bot compress PHOTOS --store album.store
  fwd2bot ask "what is at the top left ?" --store album.store --image fox.png
  fwd2bot search "a small fox on a red background" --store album.store --top 5

fwd2bot COMMAND --help says more. Exit codes: 0 done, 2 a wrong argument, 3 a picture that cannot be read,
4 a model, 5 a store that cannot be used, 130 stopped, 1 a mistake of ours."""
EXAMPLES = {
    "demo": """\
  fwd2bot demo                              # a temporary store
  fwd2bot demo --store demo.store           # one that you keep""",
    "compress": """\
  fwd2bot compress ~/Pictures --store album.store
  fwd2bot compress a.png more/ --store small.store --tokens 4
  fwd2bot compress ~/Pictures --store album.store          # again: only what is new""",
    "ask": """\
  fwd2bot ask "what is at the top left ?" --store album.store --image fox.png
  fwd2bot ask "is there a fox ?" --store album.store --all --json
  fwd2bot ask --questions questions.jsonl --store album.store
                                            # lines of {"image": "fox.png", "question": "..."}; - reads stdin""",
    "caption": """\
  fwd2bot caption --store album.store                       # all images
  fwd2bot caption --store album.store --image fox.png --tokens 4""",
    "search": """\
  fwd2bot search "a small fox on a red background" --store album.store --top 5
  fwd2bot search --like query.png --store album.store
  fwd2bot search --queries queries.txt --store album.store --json      # a query a line; - reads stdin""",
    "match": """\
  fwd2bot match fox.png captions.txt                        # a text a line; - reads stdin""",
    "serve": """\
  fwd2bot serve album.store                                 # then open http://127.0.0.1:8000
  fwd2bot serve album.store --images ~/Pictures --port 9000
  fwd2bot serve album.store --host 0.0.0.0 --token SECRET   # for others, who need the token""",
    "info": """\
  fwd2bot info album.store
  fwd2bot info album.store --json
  fwd2bot info album.store --rows --json                    # each image with its URL for a server""",
    "verify": """\
  fwd2bot verify album.store                                # exit code 0: every byte is as it was written""",
    "repair": """\
  fwd2bot repair album.store                                # its old state stays beside it""",
    "migrate": """\
  fwd2bot migrate album.store --model my-new-model
  fwd2bot migrate album.store --model my-new-model          # after a kill: goes on where it was""",
    "delete": """\
  fwd2bot delete album.store fox.png
  fwd2bot delete album.store --missing                      # all whose files are gone
  fwd2bot delete album.store --path 'holiday/*' --until 2019-12-31""",
    "duplicates": """\
  fwd2bot duplicates album.store --above 0.99
  fwd2bot duplicates album.store --json""",
    "methods": """\
  fwd2bot methods
  fwd2bot methods --json""",
    "export": """\
  fwd2bot export emoji-world --to plain                       # a LLaVA for transformers
  fwd2bot export emoji-world --to plain-llm --for vllm        # the language model alone, for prompt embeddings""",
    "push": """\
  fwd2bot push work/emoji-world/fwd2bot owner/emoji-world --private
  fwd2bot ask "is there a fox ?" --store album.store --all --model owner/emoji-world""",
    "world": """\
  fwd2bot world --out test-world --images 1000 --split test
  fwd2bot compress test-world/images --store test.store
  fwd2bot ask --questions test-world/questions.jsonl --store test.store --json""",
    "score": """\
  fwd2bot score gqa --data data/gqa --predictions gqa.jsonl --json
  fwd2bot score vqav2 --data data/vqav2 --split test-dev --predictions vqav2.jsonl --submission upload
  fwd2bot score pope --data test-world/benchmarks/pope --predictions pope.jsonl     # of `world --benchmarks`""",
    "evaluate": """\
  fwd2bot evaluate --benchmarks pope,gqa --data benchmarks --model emoji-world --out results/pope-gqa
  fwd2bot evaluate --benchmarks coco_captions,coco_retrieval:val --data benchmarks      # both read benchmarks/coco
  fwd2bot evaluate --benchmarks sugarcrepe --data benchmarks --model openai/clip-vit-large-patch14  # a tower, too
  fwd2bot evaluate --suite world --images 100                                   # what the bundled model is good at""",
    "train": """\
  fwd2bot train configs/emoji-world/tower.yaml
  fwd2bot train configs/emoji-world/tower.yaml       # after a kill: goes on where it was
  fwd2bot train configs/llava-1.5-7b.yaml --plan --gpus 8 --gpu h200    # what it would need""",
}


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"fwd2bot: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; `.run` takes them and gives the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        raise SystemExit(2)
    return options


def make_parser() -> Parser:
    parser = Parser(prog="fwd2bot", description=ABOUT, epilog=_examples(ALL_EXAMPLES), formatter_class=_Formatter)
    parser.add_argument("--version", action="version", version=f"fwd2bot {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for add in (
        _demo,
        _compress,
        _ask,
        _caption,
        _search,
        _match,
        _serve,
        _info,
        _verify,
        _repair,
        _migrate,
        _delete,
        _duplicates,
        _methods,
        _export,
        _push,
        _world,
        _score,
        _evaluate,
        _train,
    ):
        add(commands)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


_Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def _examples(text: str) -> str:
    return "examples:\n" + text


def _command(commands: _Commands, name: str, about: str, *parents: Parser) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=about[0].lower() + about[1:].rstrip("."),
        description=about,
        epilog=_examples(EXAMPLES[name]),
        formatter_class=_Formatter,
        parents=[*parents, _debug()],
    )
    parser.set_defaults(run=_later(name))
    return parser


_HOMES = dict.fromkeys(("verify", "repair", "migrate", "delete", "duplicates"), "stores")


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    """The command's function, imported when it runs."""

    def run(options: argparse.Namespace) -> int:
        home = f"fwd2bot.cli.{name if name in ('demo', 'score', 'evaluate', 'serve') else _HOMES.get(name, 'commands')}"
        code: int = getattr(import_module(home), f"run_{name}")(options)
        return code

    return run


def _debug() -> Parser:
    parent = Parser(add_help=False)
    parent.add_argument("--debug", action="store_true", help="show where an unexpected error came from")
    return parent


def _model() -> Parser:
    parent = Parser(add_help=False)
    group = parent.add_argument_group("model")
    group.add_argument("--model", metavar="NAME", help="bundled name, folder or hub id (default: emoji-world or, "
                       "where there is a store, the model that wrote it)")  # fmt: skip
    group.add_argument("--device", metavar="D", help="cpu or cuda (default: a GPU where there is one)")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="numbers that it computes in")
    return parent


def _json() -> Parser:
    parent = Parser(add_help=False)
    parent.add_argument("--json", action="store_true", help="print JSON")
    return parent


def _filter() -> Parser:
    parent = Parser(add_help=False)
    group = parent.add_argument_group("of the images in the store, only those")
    group.add_argument("--path", metavar="GLOB", help="whose name or path is such, as 'holiday/*'")
    group.add_argument("--since", metavar="DATE", help="whose file was changed on that day or later, as 2024-12-31")
    group.add_argument("--until", metavar="DATE", help="whose file was changed on that day or before")
    group.add_argument("--larger", metavar="SIZE", help="at least as large: bytes as 300KB, or pixels as 800x600")
    group.add_argument("--smaller", metavar="SIZE", help="at most as large")
    return parent


def _store(parser: Parser, about: str = "folder of the store") -> None:
    parser.add_argument("--store", metavar="STORE", required=True, help=about)


def _whole_store(parser: Parser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder of the store")


def _rows(parser: Parser, about: str) -> None:
    """How rows are made."""
    parser.add_argument("--quantise", choices=QUANTISERS, help=about)
    parser.add_argument("--batch", metavar="N", type=int, default=32, help="images at once (default: 32)")


def _tokens(parser: Parser, about: str) -> None:
    parser.add_argument("--tokens", metavar="N", type=int, help=about)


def _demo(commands: _Commands) -> None:
    about = "Show the main job on the sample album: compress, close the images, answer, caption and search."
    parser = _command(commands, "demo", about, _model())
    parser.add_argument("--store", metavar="STORE", help="keep the store there (default: a temporary one)")


def _compress(commands: _Commands) -> None:
    about = "Compress images into a store, only those that are not in it yet."
    parser = _command(commands, "compress", about, _model(), _json())
    parser.add_argument("paths", metavar="PHOTOS", nargs="+", help="files, and folders with all that is below them")
    _store(parser, "folder of the store; made where there is none")
    _tokens(parser, "tokens an image, of those that the model offers (default: the most)")
    _rows(parser, "how a new store keeps its tokens (default: int2)")


def _ask(commands: _Commands) -> None:
    about = "Answer a question about images, from their rows alone."
    parser = _command(commands, "ask", about, _model(), _filter(), _json())
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="in quotes")
    _store(parser)
    parser.add_argument("--image", metavar="NAME", action="append", default=[], help="may be given several times")
    parser.add_argument("--all", action="store_true", help="every image of the store")
    parser.add_argument("--questions", metavar="FILE", help="JSON lines of image and question")
    _tokens(parser, "read only the first N tokens of each row, where the model offers N")


def _caption(commands: _Commands) -> None:
    parser = _command(commands, "caption", "Describe images, from their rows alone.", _model(), _filter(), _json())
    _store(parser)
    parser.add_argument("--image", metavar="NAME", action="append", default=[], help="may be given several times "
                        "(default: every image)")  # fmt: skip
    _tokens(parser, "read only the first N tokens of each row, where the model offers N")


def _search(commands: _Commands) -> None:
    about = "Find the images nearest to a text or a picture."
    parser = _command(commands, "search", about, _model(), _filter(), _json())
    parser.add_argument("text", metavar="TEXT", nargs="?", help="in quotes")
    _store(parser)
    parser.add_argument("--like", metavar="FILE", help="a picture")
    parser.add_argument("--queries", metavar="FILE", help="a text a line")
    parser.add_argument("--top", metavar="N", type=int, default=10, help="results (default: 10)")
    parser.add_argument("--exact", action="store_true", help="compare every row, also where there are very many")


def _match(commands: _Commands) -> None:
    parser = _command(commands, "match", "Rank the lines of a file by how well they fit a picture.", _model(), _json())
    parser.add_argument("picture", metavar="PICTURE", help="a file")
    parser.add_argument("texts", metavar="TEXTS", help="a file with a text a line")
    parser.add_argument("--top", metavar="N", type=int, help="results (default: all)")
    _tokens(parser, "tokens of the picture and of each text (default: the most)")


def _serve(commands: _Commands) -> None:
    about = "Serve a store: OpenAI's end points, the album's, and a page to look at; see docs/serving.md."
    parser = _command(commands, "serve", about, _model())
    _whole_store(parser)
    parser.add_argument("--host", metavar="H", default="127.0.0.1", help="address to serve on (default: 127.0.0.1, "
                        "which this machine alone reaches)")  # fmt: skip
    parser.add_argument("--port", metavar="N", type=int, default=8000, help="0: one that is free (default: 8000)")
    parser.add_argument("--images", metavar="FOLDER", action="append", default=[], help="whose pictures may be shown, "
                        "and asked about by their path; may be given several times (default: none)")  # fmt: skip
    parser.add_argument("--token", metavar="TEXT", help="what askers must say; needed where others reach the host "
                        "(default: that in FWD2BOT_TOKEN)")  # fmt: skip
    parser.add_argument("--batch", metavar="N", type=int, default=32, help="answers at once (default: 32)")
    parser.add_argument("--queue", metavar="N", type=int, default=128, help="what may wait for the model before others "
                        "are told to come again (default: 128)")  # fmt: skip


def _info(commands: _Commands) -> None:
    about = "Say what is in a store: rows, bytes a row beside those of the files, and the model that wrote it."
    parser = _command(commands, "info", about, _filter(), _json())
    _whole_store(parser)
    parser.add_argument("--rows", action="store_true", help="list the images")


def _verify(commands: _Commands) -> None:
    about = "Read every byte of a store, and name the files and images that are not as they were written."
    parser = _command(commands, "verify", about, _json())
    _whole_store(parser)


def _repair(commands: _Commands) -> None:
    about = "Make a damaged store whole: give back what can be given back, and keep all other rows."
    parser = _command(commands, "repair", about, _json())
    _whole_store(parser)


def _migrate(commands: _Commands) -> None:
    about = "Compress a store's images again with another model; the old rows answer until that is done."
    parser = _command(commands, "migrate", about, _model(), _json())
    _whole_store(parser)
    _tokens(parser, "tokens an image, of those that the model offers (default: as many as now, if it offers that)")
    _rows(parser, "how to keep tokens (default: as now)")


def _delete(commands: _Commands) -> None:
    about = "Delete images from a store; their files are left alone."
    parser = _command(commands, "delete", about, _filter(), _json())
    _whole_store(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="names")
    parser.add_argument("--missing", action="store_true", help="all whose files are gone")
    parser.add_argument("--yes", action="store_true", help="with --missing: also where whole folders are gone")


def _duplicates(commands: _Commands) -> None:
    about = "List groups of images that look the same to the model."
    parser = _command(commands, "duplicates", about, _json())
    _whole_store(parser)
    parser.add_argument("--above", metavar="C", type=float, default=0.98, help="cosine of two images (default: 0.98)")


def _methods(commands: _Commands) -> None:
    about = "List the methods of compression: what each needs and gives, and where it is from."
    _command(commands, "methods", about, _json())


def _export(commands: _Commands) -> None:
    about = "Write a model as a plain transformers folder, its adapter of pass 2 merged."
    parser = _command(commands, "export", about)
    parser.add_argument("model", metavar="MODEL", help="bundled name, folder or hub id")
    parser.add_argument("--to", metavar="FOLDER", required=True, help="folder to write, new or empty")
    parser.add_argument("--for", dest="target", choices=("transformers", "vllm"), default="transformers", help="what "
                        "will read it; for vllm, the language model alone (default: transformers)")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="numbers in the files (default: "
                        "float32 for a small model, bfloat16 for a large one)")  # fmt: skip


def _push(commands: _Commands) -> None:
    parser = _command(commands, "push", "Put a model on the Hugging Face hub, its base with it.")
    parser.add_argument("model", metavar="MODEL", help="folder, bundled name or hub id")
    parser.add_argument("repo", metavar="OWNER/NAME", help="where to; made where there is none")
    parser.add_argument("--private", action="store_true", help="only you see it, where it is new")
    parser.add_argument("--message", metavar="TEXT", default="Upload a model of fwd2bot", help="of the commit")


def _world(commands: _Commands) -> None:
    about = "Write generated images with questions, captions and every annotation file."
    parser = _command(commands, "world", about)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder to write; made where there is none")
    parser.add_argument("--images", metavar="N", type=int, required=True, help="how many")
    parser.add_argument("--split", default="test", help="train, val, test or composition (default: test)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="other images of the same split (default: 0)")
    parser.add_argument("--benchmarks", action="store_true", help="write them in the layouts of benchmarks, too, for "
                        "fwd2bot score")  # fmt: skip


def _score(commands: _Commands) -> None:
    about = "Score predictions against a benchmark's official files, as its official scorer does."
    parser = _command(commands, "score", about, _json())
    parser.add_argument("benchmark", metavar="BENCHMARK", help=f"{', '.join(CATALOGUE)}; see docs/benchmarks.md")
    parser.add_argument("--data", metavar="DIR", required=True, help="folder that holds its files")
    parser.add_argument("--predictions", metavar="FILE", required=True, help="JSON lines of question_id, prompt, text")
    parser.add_argument("--split", metavar="S", help="one of those in docs/benchmarks.md (default: the first)")
    parser.add_argument("--submission", metavar="DIR", help="write the file for the benchmark's server there instead")


def _evaluate(commands: _Commands) -> None:
    about = "Take the figures of a model on benchmarks; a run that was stopped goes on."
    parser = _command(commands, "evaluate", about, _model(), _json())
    parser.add_argument("--benchmarks", metavar="NAMES", help="such as pope,gqa or vqav2:val, which names the split")
    parser.add_argument("--data", metavar="DIR", help="where each benchmark has its folder, named as it is")
    parser.add_argument("--suite", choices=("world",), help="instead of benchmarks: the generated world")
    parser.add_argument("--images", metavar="N", type=int, help="of the suite (default: 1000)")
    _tokens(parser, "tokens an image, of those that the model offers (default: the most)")
    parser.add_argument("--prompt", metavar="TEXT", help="what asks for a caption, instead of LLaVA-1.5's sentence")
    parser.add_argument("--out", metavar="DIR", help="folder of answers and figures (default: evaluation/MODEL-TOKENS)")


def _train(commands: _Commands) -> None:
    about = "Train what a configuration says; a run that was stopped goes on."
    parser = _command(commands, "train", about, _json())
    parser.add_argument("config", metavar="CONFIG.yaml", help="see configs/ and docs/training.md")
    plan = parser.add_argument_group("instead of training, say what it would need")
    plan.add_argument("--plan", action="store_true", help="memory, FLOPs, hours and disk; needs no weights, no network")
    plan.add_argument("--gpus", metavar="N", type=int, help="how many (default: 1)")
    plan.add_argument("--gpu", metavar="KIND", help="h100, h200, a100-40, a100-80, l40s, rtx-4090 and others "
                      "(default: h100)")  # fmt: skip
    plan.add_argument("--mfu", metavar="S", type=float, help="share of the GPU's peak that is reached (default: 0.35)")
    plan.add_argument("--text-tokens", metavar="N", type=int, help="text of an average conversation (default: 300 "
                      "where data comes from files, else data.length)")  # fmt: skip
