"""Setting up, without installing anything: when it starts anew, which torch it takes, what it says when it fails."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace

import bootstrap
import pip_wheel
import pytest
from bootstrap import Environment, Installer, NetworkError, SetupError

ROOT = Path(__file__).parent.parent
PLACEHOLDER = b"not really pip"


@pytest.fixture
def env(tmp_path):
    """A checkout with lock files, and nothing set up."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for name, line in (("run", "numpy==2.4.6"), ("dev", "pytest==9.2.0"), ("torch", "torch===2.13.0 \\\n")):
        (tmp_path / "requirements" / f"{name}.txt").write_text(line)
    return Environment(root=tmp_path)


@pytest.fixture
def steps(monkeypatch):
    """Every step that would have been installed, in order; nothing is."""
    taken = []

    def make_environment(env, installer):
        taken.append("new")
        shutil.rmtree(env.folder, ignore_errors=True)
        env.python.parent.mkdir(parents=True)
        env.python.touch()
        env.unfinished.touch()

    def step(self, words, *arguments, may_lack=None):
        taken.append(words)
        return True

    monkeypatch.setattr(bootstrap, "make_environment", make_environment)
    monkeypatch.setattr(Installer, "step", step)
    monkeypatch.setenv("FWD2BOT_TORCH", "cpu")
    return taken


def test_prepare_installs_once(env, steps):
    bootstrap.prepare(env, dev=False)
    assert steps[0] == "new"
    assert steps[-1] == "fwd2bot itself"
    assert not env.unfinished.exists()
    steps.clear()
    bootstrap.prepare(env, dev=False)
    assert steps == []


def test_prepare_adds_the_tools_to_the_same_environment(env, steps):
    bootstrap.prepare(env, dev=False)
    steps.clear()
    bootstrap.prepare(env, dev=True)
    assert steps == ["the tools that check and test"]
    bootstrap.prepare(env, dev=False)
    bootstrap.prepare(env, dev=True)
    assert len(steps) == 1


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements/run.txt", "requirements/torch.txt"])
def test_prepare_mends_in_place_when_a_lock_changed(env, steps, file):
    bootstrap.prepare(env, dev=True)
    steps.clear()
    (env.root / file).write_text((env.root / file).read_text() + "# more\n")
    bootstrap.prepare(env, dev=True)
    assert "new" not in steps
    assert "fwd2bot itself" in steps
    assert "the tools that check and test" not in steps


def test_prepare_starts_anew_with_another_python(env, steps, monkeypatch):
    bootstrap.prepare(env, dev=False)
    steps.clear()
    monkeypatch.setattr(sys, "base_prefix", "elsewhere")
    bootstrap.prepare(env, dev=False)
    assert steps[0] == "new"


def test_prepare_starts_anew_after_an_interruption(env, steps, monkeypatch):
    fail_once(env, monkeypatch, KeyboardInterrupt(), dev=False)
    assert env.unfinished.exists()
    bootstrap.prepare(env, dev=False)
    assert steps[:2] == ["new", "new"]
    assert env.state()


def fail_once(env, monkeypatch, error, *, dev):
    """One start whose installation raises."""

    def fail(self, words, *arguments, may_lack=None):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Installer, "step", fail)
        with pytest.raises(type(error)):
            bootstrap.prepare(env, dev=dev)


@pytest.mark.parametrize("error", [NetworkError("gone"), KeyboardInterrupt()])
def test_prepare_keeps_what_ran_when_the_tools_fail(env, steps, monkeypatch, error):
    bootstrap.prepare(env, dev=False)
    fail_once(env, monkeypatch, error, dev=True)
    steps.clear()
    bootstrap.prepare(env, dev=False)
    assert steps == []


def test_prepare_mends_in_place_once_the_network_is_back(env, steps, monkeypatch):
    bootstrap.prepare(env, dev=False)
    (env.root / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    fail_once(env, monkeypatch, NetworkError("gone"), dev=False)
    steps.clear()
    bootstrap.prepare(env, dev=False)
    assert steps[0] == "PyTorch 2.13.0, CPU build"


def test_prepare_does_not_trust_packages_half_installed_when_the_lock_is_put_back(env, steps, monkeypatch):
    bootstrap.prepare(env, dev=False)
    before = env.lock_file("run").read_text()
    env.lock_file("run").write_text("numpy==2.4.7")
    fail_once(env, monkeypatch, KeyboardInterrupt(), dev=False)
    env.lock_file("run").write_text(before)
    steps.clear()
    bootstrap.prepare(env, dev=False)
    assert steps[0] == "new"


def test_prepare_leaves_an_environment_alone_that_it_did_not_make(env, steps):
    env.folder.mkdir()
    (env.folder / "theirs").touch()
    with pytest.raises(SetupError, match="not ours: move it away"):
        bootstrap.prepare(env, dev=False)
    assert (env.folder / "theirs").exists()


@pytest.mark.parametrize(("dev", "needed"), [(False, 2), (True, 3)])
def test_prepare_asks_for_room_first(env, steps, monkeypatch, dev, needed):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**29))
    with pytest.raises(SetupError, match=rf"0\.5 GB free and .venv needs {needed} GB: make room"):
        bootstrap.prepare(env, dev=dev)
    assert not env.folder.exists()


def test_lock_makes_a_second_start_wait(env, capsys):
    entered = threading.Event()

    def second():
        with bootstrap.locked(env):
            entered.set()

    with bootstrap.locked(env):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(timeout=10)
    assert entered.is_set()
    assert "waiting" in capsys.readouterr().err


def damaged_state(env, content):
    env.python.parent.mkdir(parents=True)
    env.python.touch()
    env.ready.write_text(content)
    return env.state()


def test_state_is_empty_when_its_file_is_damaged(env):
    assert damaged_state(env, '{"run": ') == {}


def test_state_is_empty_when_the_python_is_gone(env):
    assert damaged_state(env, json.dumps({"run": "x"})) == {"run": "x"}
    env.python.unlink()
    assert env.state() == {}


@pytest.mark.parametrize(
    ("kind", "lacking", "expected"),
    [
        ("cpu", 0, ["CPU build"]),
        ("cpu", 1, ["CPU build", "CPU build, from PyTorch's index"]),
        (
            "cpu",
            2,
            ["CPU build", "CPU build, from PyTorch's index", "no CPU build within reach: CUDA build, several GB"],
        ),
        ("gpu", 0, ["CUDA build, several GB"]),
        ("gpu", 1, ["CUDA build, several GB", "CPU build"]),
    ],
)
def test_torch_is_the_smallest_build_that_there_is(env, monkeypatch, kind, lacking, expected):
    asked = []

    def step(self, words, *arguments, may_lack=None):
        asked.append((words, arguments))
        return len(asked) > lacking

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Installer, "step", step)
    monkeypatch.setattr(Installer, "may_name_an_index", lambda self: True)
    bootstrap.install_torch(Installer(env=env, lock=0), env.lock_file("torch"), kind)
    assert [words for words, _ in asked] == [f"PyTorch 2.13.0, {words}" for words in expected]
    assert all("torch==2.13.0+cpu" in arguments for words, arguments in asked if ", CPU" in words)


def test_torch_asks_no_index_when_pip_may_not(env, monkeypatch):
    asked = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Installer, "step", lambda self, words, *_, may_lack=None: asked.append((words, may_lack)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    bootstrap.install_torch(Installer(env=env, lock=0), env.lock_file("torch"), "cpu")
    assert asked == [("PyTorch 2.13.0, CPU build", None)]


def test_accelerator_is_what_the_user_says(monkeypatch):
    assert bootstrap.accelerator({"FWD2BOT_TORCH": "gpu"}) == "gpu"
    assert bootstrap.accelerator({"FWD2BOT_TORCH": "cpu"}) == "cpu"
    with pytest.raises(SetupError, match="'tpu': set it to cpu or gpu"):
        bootstrap.accelerator({"FWD2BOT_TORCH": "tpu"})


NO_NAME = "NewConnectionError('Temporary failure in name resolution')\nERROR: No matching distribution found for numpy"


@pytest.mark.parametrize(
    ("said", "error", "sentence"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            SetupError,
            "disk is",
        ),
        (NO_NAME, NetworkError, "index cannot be reached: connect to the network"),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))",
            NetworkError,
            "name your network's",
        ),
        ("ERROR: No matching distribution found for torch===2.13.0", SetupError, "PyTorch has no build for"),
        ("ERROR: first\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES", SetupError, "pip failed: THESE PACKAGES"),
        ("Killed", SetupError, "pip failed: Killed"),
        ("", SetupError, "pip failed: nothing said"),
    ],
)
def test_failure_of_pip_becomes_a_sentence(env, said, error, sentence):
    env.folder.mkdir()
    env.log.write_text(f"$ python -m ensurepip\nNo space left on device\n$ python -m pip install\n{said}\n")
    with pytest.raises(error, match=re.escape(sentence)) as caught:
        Installer(env=env, lock=0).check(1)
    assert "\n" not in str(caught.value)


def test_run_passes_on_the_places_but_no_foreign_wishes(env, monkeypatch):
    env.python.parent.mkdir(parents=True)
    env.python.symlink_to(sys.executable)
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    monkeypatch.setenv("PIP_TARGET", "elsewhere")
    installer = Installer(env=env, lock=os.open(env.root, os.O_RDONLY))
    try:
        code = installer.run("-c", "import os, sys; print(sorted(k for k in os.environ if 'PIP_' in k)); sys.exit(3)")
    finally:
        os.close(installer.lock)
    assert code == 3
    assert "'PIP_FIND_LINKS'" in installer.last_words()
    assert "'PIP_TARGET'" not in installer.last_words()


def test_demo_hands_over_to_the_command(monkeypatch):
    handed = []
    monkeypatch.setattr(bootstrap, "prepare", lambda env, dev: handed.append(dev))
    monkeypatch.setattr(bootstrap, "test", lambda env, arguments: 7)
    monkeypatch.setattr(os, "execve", lambda program, arguments, environ: handed.append((arguments[1:], environ)))
    bootstrap.main("demo", ["--tokens", "4"])
    assert handed[0] is False
    assert handed[1][0] == ["demo", "--tokens", "4"]
    assert handed[1][1]["VIRTUAL_ENV"] == str(ROOT / ".venv")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (SetupError("a sentence"), "test: a sentence"),
        (PermissionError(13, "Permission denied", "x"), "clone into a folder of your own"),
        (OSError(28, "No space left on device"), "test: the disk is full"),
    ],
)
def test_main_prints_one_sentence_when_set_up_fails(monkeypatch, capsys, error, sentence):
    def fail(env, dev):
        raise error

    monkeypatch.setattr(bootstrap, "prepare", fail)
    assert bootstrap.main("test", []) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["demo", "test"])
def test_script_names_the_remedy_when_python_is_too_old(tmp_path, name):
    for command in ("dirname", "sh"):
        (tmp_path / command).symlink_to(shutil.which(command))
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\n[ "$1" = --version ] || exit 1\necho Python 3.9.2\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    result = subprocess.run([ROOT / name], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert "needs Python 3.11, 3.12, 3.13 or 3.14 and there is Python 3.9.2: install one" in result.stderr
    assert result.stderr.count("\n") == 1


def test_lock_files_hold_every_package_by_its_hash():
    names = {}
    for file in ("run", "dev", "torch"):
        text = (ROOT / f"requirements/{file}.txt").read_text()
        entries = re.findall(r"^([\w.-]+)={2,3}[\w.+]+[^\n]* \\\n    --hash=sha256:", text, re.MULTILINE)
        assert len(entries) == len(re.findall(r"^[\w-]", text, re.MULTILINE))
        names[file] = set(entries)
    assert not names["run"] & names["dev"]
    assert not {"torchvision", "torchaudio"} & set().union(*names.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    assert needed <= names["run"] | names["torch"]
    wanted = {re.match(r"[\w-]+", line)[0].lower() for line in project["optional-dependencies"]["dev"]}
    assert wanted <= names["dev"] | names["run"]


class TestPipWheel:
    """pip's wheel is found where pip's own configuration says."""

    @pytest.fixture(autouse=True)
    def _placeholder(self, monkeypatch):
        monkeypatch.setattr(pip_wheel, "SHA256", hashlib.sha256(PLACEHOLDER).hexdigest())

    @staticmethod
    def offline(**environ):
        return {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", **environ}

    def test_download_takes_it_from_a_folder(self, tmp_path):
        (tmp_path / "wheels").mkdir()
        (tmp_path / "wheels" / pip_wheel.WHEEL).write_bytes(PLACEHOLDER)
        found = pip_wheel.download(tmp_path, self.offline(PIP_FIND_LINKS=f"{tmp_path}/none {tmp_path}/wheels"))
        assert found.read_bytes() == PLACEHOLDER

    def test_download_takes_it_from_an_index_of_files(self, tmp_path):
        (tmp_path / "index/pip").mkdir(parents=True)
        (tmp_path / "index/pip/index.html").write_text(
            f'<a href="pip-1.0.whl">a</a><a href="{pip_wheel.WHEEL}#x">b</a>'
        )
        (tmp_path / "index/pip" / pip_wheel.WHEEL).write_bytes(PLACEHOLDER)
        environ = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{(tmp_path / 'index').as_uri()}/"}
        assert pip_wheel.download(tmp_path, environ).read_bytes() == PLACEHOLDER

    def test_download_refuses_another_file_of_that_name(self, tmp_path):
        (tmp_path / pip_wheel.WHEEL).write_bytes(b"something else")
        with pytest.raises(pip_wheel.NoPipError, match="not the file whose hash we hold"):
            pip_wheel.download(tmp_path, self.offline(PIP_FIND_LINKS=str(tmp_path)))

    def test_download_says_where_it_looked_but_no_password(self, tmp_path):
        environ = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "https://ann:secret@127.0.0.1:1/simple"}
        with pytest.raises(pip_wheel.NoPipError, match=r"^https://127\.0\.0\.1:1/simple/pip/: ") as caught:
            pip_wheel.download(tmp_path, environ)
        assert "secret" not in str(caught.value)

    def test_environment_overrules_the_files(self, tmp_path):
        (tmp_path / ".config/pip").mkdir(parents=True)
        text = "[global]\nindex_url = https://a.invalid/\nfind-links = x\n  y\n[install]\ncert = c.pem\n"
        (tmp_path / ".config/pip/pip.conf").write_text(text)
        environ = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path), "PIP_EXTRA_INDEX_URL": "https://b.invalid"}
        settings = pip_wheel.read_settings(environ)
        assert settings.indexes == ("https://a.invalid", "https://b.invalid")
        assert settings.find_links == ("x", "y")
        assert settings.certificates == "c.pem"
        settings = pip_wheel.read_settings({**environ, "PIP_INDEX_URL": "https://d.invalid", "PIP_FIND_LINKS": "z"})
        assert settings.indexes == ("https://d.invalid", "https://b.invalid")
        assert settings.find_links == ("z",)

    def test_default_index_is_the_public_one(self, tmp_path):
        settings = pip_wheel.read_settings({"PIP_CONFIG_FILE": os.devnull})
        assert settings.indexes == (pip_wheel.PUBLIC_INDEX,)

    def test_a_page_gives_whole_addresses(self):
        page = f'<a href="../../files/{pip_wheel.WHEEL}#sha256=1">pip</a>'
        links = pip_wheel.links_to_wheel(page, "https://a.invalid/simple/pip/")
        assert links == [f"https://a.invalid/files/{pip_wheel.WHEEL}"]
