"""Set up the environment in .venv once, then run a job in it: `./demo` and `./test` come here.

Standard library only. The environment holds what requirements/*.txt lock, and this checkout itself, editable.

    .venv/ready.json    what the environment was made from; when it still fits, a job starts at once
    .venv/unfinished    there while packages are being installed: whoever finds it starts anew
    .venv/setup.log     all that pip said
    .venv.lock          held while setting up, by pip too, so that two starts never install at the same time
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pip_wheel

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GIGABYTES = {"cpu": 2, "gpu": 9}
# Settings of pip that say what to install, not where from: they would spoil the lock.
FOREIGN_SETTINGS = (
    *("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__", "PIP_CONSTRAINT", "PIP_DRY_RUN", "PIP_EDITABLE"),
    *("PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_PREFIX", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_REQUIRE_HASHES"),
    *("PIP_ROOT", "PIP_TARGET", "PIP_UPGRADE"),
)
DISK_FULL = (
    "the disk is full: make room where this checkout is and in the folder for temporary files (TMPDIR names another),"
    " then start again"
)
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|Errno 28\b|Errno 122\b")
NO_NETWORK = re.compile(
    r"name resolution|Name or service not known|nodename nor servname|getaddrinfo failed|NewConnectionError"
    r"|NameResolutionError|ConnectTimeout|ReadTimeout|timed out|Network is unreachable|No route to host"
    r"|Connection refused|ConnectionResetError|ProxyError|Max retries exceeded"
)


class SetupError(Exception):
    """The environment cannot be made; the message is one sentence with the remedy."""


class NetworkError(SetupError):
    """The package index cannot be reached. pip downloads before it installs, so nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The virtual environment of one checkout."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def ready(self) -> Path:
        return self.folder / "ready.json"

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    def lock_file(self, name: str) -> Path:
        return self.root / "requirements" / f"{name}.txt"

    def state(self) -> dict[str, str]:
        """What the environment was made from; empty where there is none that was finished."""
        try:
            state = json.loads(self.ready.read_text())
            return state if isinstance(state, dict) and self.python.exists() else {}
        except (OSError, ValueError):
            return {}


def accelerator(environ: Mapping[str, str]) -> str:
    """`gpu` where PyTorch with CUDA is of use, else `cpu`; FWD2BOT_TORCH=cpu or gpu decides otherwise."""
    wish = environ.get("FWD2BOT_TORCH", "")
    if wish not in ("", "cpu", "gpu"):
        raise SetupError(f"FWD2BOT_TORCH is {wish!r}: set it to cpu or gpu, or leave it out")
    found = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/usr/lib/wsl/lib/nvidia-smi").exists()
    return wish or ("gpu" if sys.platform == "linux" and found else "cpu")


def wanted_state(env: Environment, kind: str) -> dict[str, str]:
    """The state that a finished environment for running and testing would have now."""
    place = [env.root, sys.base_prefix, sys.version_info[:2], platform.machine(), kind]
    content = hashlib.sha256()
    for file in (env.root / "pyproject.toml", env.lock_file("run"), env.lock_file("torch")):
        content.update(file.read_bytes())
    development = hashlib.sha256(env.lock_file("dev").read_bytes())
    return {
        "place": hashlib.sha256(repr(place).encode()).hexdigest(),
        "run": content.hexdigest(),
        "dev": development.hexdigest(),
    }


def fits(env: Environment, wanted: dict[str, str], *, dev: bool) -> bool:
    """Whether a job can start. Tools half installed are no hindrance to a job that needs none."""
    if env.unfinished.exists() and (dev or env.unfinished.read_text() != "tools"):
        return False
    state = env.state()
    return all(state.get(key) == wanted[key] for key in ("place", "run", *(("dev",) if dev else ())))


@contextlib.contextmanager
def locked(env: Environment) -> Iterator[int]:
    """Hold the lock; gives its file descriptor, for pip to hold it as well."""
    descriptor = os.open(env.root / ".venv.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another start is setting up .venv: waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def prepare(env: Environment, *, dev: bool) -> None:
    """Make or mend the environment, if it does not fit already.

    Raises: SetupError
    """
    kind = accelerator(os.environ)
    wanted = wanted_state(env, kind)
    if fits(env, wanted, dev=dev):
        return
    with locked(env) as lock:
        state = env.state()
        if env.folder.exists() and not (state or env.unfinished.exists()):
            raise SetupError(f"{env.folder} is there already and not ours: move it away and start again")
        if fits(env, wanted, dev=dev):
            return  # another start has done it meanwhile
        clean = not env.unfinished.exists() and state.get("place") == wanted["place"]
        started = time.monotonic()
        try:
            build(env, Installer(env=env, lock=lock), state=state if clean else {}, wanted=wanted, kind=kind, dev=dev)
        except NetworkError:
            if clean:
                env.unfinished.unlink(missing_ok=True)
            raise
        say(f"set up in {time.monotonic() - started:.0f} s")


def build(  # the stages in their order
    env: Environment, installer: "Installer", *, state: dict[str, str], wanted: dict[str, str], kind: str, dev: bool
) -> None:
    """Install what `state` lacks of `wanted`; an empty state starts from nothing."""
    if not state:
        free = shutil.disk_usage(env.root).free / 2**30
        needed = GIGABYTES[kind] + (1 if dev else 0)
        if free < needed:
            raise SetupError(f"{env.root} has {free:.1f} GB free and .venv needs {needed} GB: make room first")
        say(f"setting up .venv with Python {platform.python_version()}, once: a few minutes")
        make_environment(env, installer)
    changed = state.get("run") != wanted["run"]
    env.unfinished.write_text("packages" if changed else "tools")
    if changed:
        install_torch(installer, env.lock_file("torch"), kind)
        installer.step("transformers, Lance and the rest", *locked_packages(env.lock_file("run")))
        installer.step("fwd2bot itself", "--no-deps", "--no-build-isolation", "--editable", str(env.root))
    if dev and state.get("dev") != wanted["dev"]:
        installer.step("the tools that check and test", *locked_packages(env.lock_file("dev")))
    finished = wanted if dev else {**wanted, "dev": state.get("dev", "")}
    fresh = env.ready.with_suffix(".new")
    fresh.write_text(json.dumps(finished, indent=1))
    fresh.replace(env.ready)
    env.unfinished.unlink()


def make_environment(env: Environment, installer: "Installer") -> None:
    """An empty environment with pip in it, in place of what was there."""
    shutil.rmtree(env.folder, ignore_errors=True)
    env.folder.mkdir()
    env.unfinished.touch()
    venv.EnvBuilder(symlinks=True, prompt="fwd2bot").create(env.folder)
    if importlib.util.find_spec("ensurepip") and installer.run("-m", "ensurepip") == 0:
        return
    try:
        wheel = pip_wheel.download(env.folder, os.environ)
    except pip_wheel.NoPipError as error:
        raise NetworkError(
            f"pip could not be fetched ({error}): connect to the network, name a reachable index in PIP_INDEX_URL,"
            " or install pip for Python (Debian, Ubuntu: apt install python3-venv)"
        ) from error
    installer.check(installer.run(f"{wheel}/pip", "install", "--no-index", "--no-deps", str(wheel)))
    wheel.unlink()


def locked_packages(file: Path) -> list[str]:
    """pip's arguments for a lock file: these files, by their hashes, and nothing built here."""
    return ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(file)]


def install_torch(installer: "Installer", file: Path, kind: str) -> None:
    """The build of PyTorch that suits the machine.

    On Linux the package index itself has only the build with CUDA (several GB), and the CPU build is called
    `VERSION+cpu`. It is taken from wherever pip's configuration has it, else from PyTorch's own index, and has no
    hash in the lock, since each place has its own.
    """
    version = re.findall(r"^torch=+([\w.]+)", file.read_text(), re.MULTILINE)[0]
    indexed = locked_packages(file)
    if sys.platform != "linux":
        installer.step(f"PyTorch {version}", *indexed)
        return
    cpu = ["--no-deps", "--only-binary", ":all:", f"torch=={version}+cpu"]
    builds = [("CPU build", cpu)]
    if kind == "gpu":
        builds.insert(0, ("CUDA build, several GB", indexed))
    elif installer.may_name_an_index():
        builds.append(("CPU build, from PyTorch's index", [*cpu, "--index-url", CPU_INDEX, "--retries", "1"]))
        builds.append(("no CPU build within reach: CUDA build, several GB", indexed))
    for words, arguments in builds:
        last = arguments is builds[-1][1]
        if installer.step(f"PyTorch {version}, {words}", *arguments, may_lack=None if last else "torch"):
            return


@dataclass(frozen=True, kw_only=True)
class Installer:
    """Runs pip, shows where it is, and turns its failures into sentences."""

    env: Environment
    lock: int

    def may_name_an_index(self) -> bool:
        return bool(pip_wheel.read_settings(os.environ).indexes)

    def step(self, words: str, *arguments: str, may_lack: str | None = None) -> bool:
        """`pip install` with these arguments; False if there is no such build of the package that `may_lack`.

        Raises: SetupError if it fails otherwise.
        """
        say(f"  {words}")
        code = self.run("-m", "pip", "install", "--no-compile", *arguments)
        if code and may_lack and f"No matching distribution found for {may_lack}" in self.last_words():
            return False
        self.check(code)
        return True

    def last_words(self) -> str:
        """What the last command said."""
        return ("\n" + self.env.log.read_text(errors="replace")).rsplit("\n$ python ", 1)[-1].partition("\n")[2]

    def run(self, *arguments: str) -> int:
        """The environment's Python with these arguments; its output goes to the log."""
        environ = {key: value for key, value in os.environ.items() if key not in FOREIGN_SETTINGS}
        environ |= {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        with self.env.log.open("a") as log:
            log.write(f"$ python {' '.join(arguments)}\n")
            log.flush()
            start = log.tell()
            with subprocess.Popen(
                [self.env.python, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.env.root,
                env=environ,
                pass_fds=(self.lock,),
            ) as process:
                try:
                    show_progress(process, self.env.log, start)
                except BaseException:
                    process.terminate()
                    process.wait()
                    raise
        if process.returncode < 0:
            raise SetupError(f"pip was stopped by signal {-process.returncode}: start again")
        return process.returncode

    def check(self, code: int) -> None:
        """Raises: SetupError, with what the log says of the last command, unless the code is 0."""
        if code == 0:
            return
        said = self.last_words()
        errors = [line for line in said.splitlines() if line.startswith("ERROR: ")]
        last = (errors or said.strip().splitlines() or ["nothing said"])[-1].removeprefix("ERROR: ")
        if NO_SPACE.search(said):
            raise SetupError(DISK_FULL)
        if "CERTIFICATE_VERIFY_FAILED" in said:
            raise NetworkError(
                "the package index's certificate cannot be checked: install the system's certificates (Debian, Ubuntu:"
                " apt install ca-certificates) or name your network's in PIP_CERT, then start again"
            )
        if NO_NETWORK.search(said):
            raise NetworkError(
                "the package index cannot be reached: connect to the network, or name a reachable index in"
                f" PIP_INDEX_URL, then start again (what pip tried is in {self.env.log})"
            )
        if "No matching distribution found for torch" in said:
            raise SetupError(
                f"PyTorch has no build for {platform.system()} on {platform.machine()} with Python"
                f" {platform.python_version()}: use Linux (x86-64 or ARM, glibc 2.28) or macOS 14 on Apple silicon"
            )
        raise SetupError(f"pip failed: {last} (all it said is in {self.env.log})")


def show_progress(process: "subprocess.Popen[bytes]", log: Path, start: int) -> None:
    """Until the process ends, on a terminal, one line that changes: what pip does now, and for how long."""
    since = time.monotonic()
    while True:
        try:
            process.wait(timeout=0.5 if sys.stderr.isatty() else None)
            break
        except subprocess.TimeoutExpired:
            with log.open(errors="replace") as file:
                file.seek(start)
                lines = file.read().split("\n")
            now = next((line.strip() for line in reversed(lines) if line.strip()), "")
            print(f"\r\033[K    {time.monotonic() - since:3.0f} s  {now[:90]}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def job_environ(env: Environment) -> dict[str, str]:
    """The process environment of a job: as if the virtual environment had been activated."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONHOME")}
    environ.pop("PYTHONPATH", None)
    return {**environ, "VIRTUAL_ENV": str(env.folder), "PATH": f"{env.python.parent}{os.pathsep}{os.environ['PATH']}"}


def test(env: Environment, arguments: list[str]) -> int:
    """Every check, then the tests, also where a check has failed; gives the exit code."""
    workers = max(2, min(4, os.cpu_count() or 2))
    environ = {"OMP_NUM_THREADS": "1", **job_environ(env)}  # the workers share the cores
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it, and its tests
    checks = {
        "ruff check": ["ruff", "check", "--quiet"],
        "ruff format --check": ["ruff", "format", "--check", "--quiet"],
        "mypy": ["mypy", "--no-error-summary"],
        "pytest": ["pytest", "-n", str(workers), *arguments],
    }
    codes = {}
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        codes[name] = subprocess.run([env.python, "-m", *command], cwd=env.root, env=environ).returncode
    failed = [name for name, code in codes.items() if code]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return codes["pytest"] or int(bool(failed))


def explain(error: Exception, env: Environment) -> str:
    """A sentence for an error while setting up."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{env.root} cannot be written to ({error}): clone into a folder of your own, and not as another user"
    return str(error)


def main(job: str, arguments: list[str]) -> int:
    env = Environment(root=Path(__file__).resolve().parent.parent)
    try:
        prepare(env, dev=job == "test")
    except (SetupError, OSError) as error:
        say(f"{job}: {explain(error, env)}")
        return 1
    except KeyboardInterrupt:
        say(f"\n{job}: stopped; the next start sets up from the beginning")
        return 128 + signal.SIGINT
    if job == "demo":
        program = str(env.python.parent / "fwd2bot")
        os.execve(program, [program, job, *arguments], job_environ(env))
    try:
        return test(env, arguments)
    except KeyboardInterrupt:
        say(f"\n{job}: stopped")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
