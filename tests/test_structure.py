"""What holds for the repository as a whole: who imports whom, sizes, public names, nothing of anyone's machine."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fwd2bot

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fwd2bot"
ENTRANCES = {"__init__", "__main__"}
HEAVY = {"lance", "lancedb", "numpy", "peft", "PIL", "pyarrow", "torch", "transformers"}


def project_files(pattern: str = "*") -> list[Path]:
    """The files that are, or would be, in the repository; without git, those that are not in a folder of ours."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        files = {ROOT / name for name in listed}
    except (OSError, subprocess.CalledProcessError):
        parts = ("__pycache__", "work", "build", "dist")
        files = {
            path
            for path in ROOT.rglob(pattern)
            if not any(part in parts or part[0] == "." for part in path.relative_to(ROOT).parts)
        }
    return sorted(path for path in files if path.is_file())


def room_of(module: str) -> str:
    """fwd2bot.store.base -> store"""
    return module.split(".")[1] if "." in module else module


def rules() -> dict[str, set[str]]:
    """Which room may import which, from the table in docs/architecture.md."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\|([^|]*)\|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    return {re.sub(r"\.py$|/$", "", room): set(re.findall(r"[\w.]+", allowed)) - {"nothing"} for room, allowed in rows}


def reachable(room: str, table: dict[str, set[str]]) -> set[str]:
    """What a room may import, and what that may import, and so on; the errors are everybody's."""
    found, waiting = {"errors"}, [room]
    while waiting:
        new = table.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Names of this package's modules that are imported when the code runs, so not those for type checkers alone."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def test_rooms_are_those_of_the_architecture():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - ENTRANCES == set(rules())


def test_imports_go_one_way():
    table = rules()
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        room = room_of(module)
        allowed = reachable(room, table)
        for name in imports_of(ast.parse(path.read_text())):
            if not name.startswith("fwd2bot.") or name == "fwd2bot.__version__" or room_of(name) == room:
                continue
            parts = name.split(".")[1:]
            if room not in ENTRANCES and not any(".".join(parts[: n + 1]) in allowed for n in range(len(parts))):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_what_mypy_must_not_see_has_its_reason():
    found = [
        line
        for path in project_files("*.py")
        for line in path.read_text().splitlines()
        if "# type: " + "ignore" in line
    ]
    assert found
    assert not [line for line in found if not re.search(r"ignore\[[\w-]+\]  # \w", line)]


def test_table_of_rooms_has_no_circle():
    table = rules()
    assert not [room for room in table if any(room in reachable(used, table) for used in table[room])]


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import fwd2bot.store", ["fwd2bot.store"]),
        ("def f():\n    from fwd2bot import losses", ["fwd2bot.losses"]),
        ("if TYPE_CHECKING:\n    from fwd2bot.model import load", []),
    ],
)
def test_imports_of_finds_what_runs(code, names):
    assert list(imports_of(ast.parse(code))) == names


def test_no_file_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in project_files("*.py")}
    assert not {str(path): length for path, length in lengths.items() if length > 450}


def test_no_function_is_long():
    long = []
    for path in project_files("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines")
    assert not long


def test_no_pickle_is_used():
    banned = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    found = []
    for path in project_files("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.keyword) else ""
            if banned & {name.split(".")[0] for name in names} or text in ("torch.load", "torch.save"):
                found.append(f"{path}:{node.lineno}")
            if text == "allow_pickle=True":
                found.append(f"{path}: {text}")
    assert not found


@pytest.mark.parametrize("module", ["fwd2bot", "fwd2bot.cli", "fwd2bot.training.plan_text"])
def test_import_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(loaded.split())


def test_public_names_are_these():
    assert fwd2bot.__all__ == ["Fwd2Bot", "Store", "__version__", "load"]
    assert dir(fwd2bot) == fwd2bot.__all__
    assert all(getattr(fwd2bot, name) for name in fwd2bot.__all__)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fwd2bot.lode  # noqa: B018


def test_repository_stays_small():
    assert sum(path.stat().st_size for path in project_files()) < 60 * 2**20


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="needs git and a checkout")
def test_history_stays_small():
    objects = subprocess.run(["git", "rev-list", "--objects", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    sizes = subprocess.run(
        ["git", "cat-file", "--batch-check=%(objectsize:disk)"],
        cwd=ROOT,
        input="".join(f"{line.split()[0]}\n" for line in objects.splitlines()),
        capture_output=True,
        text=True,
    ).stdout
    assert 0 < sum(map(int, sizes.split())) < 60 * 2**20


def test_nothing_names_a_machine():
    place = re.compile(r"(?<![\w.:/~-])/(root|home|Users|opt|work|mnt|srv)/\w|/tmp/dev\b")
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights, pictures
        found += [f"{path}: {match[0]}" for match in place.finditer(text) if path != Path(__file__)]
    assert not found


def test_wheel_has_every_file_of_the_package(tmp_path):
    build = pytest.importorskip("flit_core.wheel", reason="needs flit_core, the build back end")
    from zipfile import ZipFile

    wheel = build.make_wheel_in(ROOT / "pyproject.toml", tmp_path)
    packed = {name for name in ZipFile(wheel.file).namelist() if name.startswith("fwd2bot/")}
    wanted = {str(path.relative_to(ROOT)) for path in project_files() if PACKAGE in path.parents}
    assert len(wanted) > 30
    assert wanted <= packed
