"""What all tests share: one thread, no network, and norms that keep float64 where a test asks for it."""

import os

import pytest

from fwd2bot.store.quantise import QUANTISERS

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def exact_norms(monkeypatch):
    """LLaMA's RMSNorm computes in float32 whatever it is given; here it keeps the dtype."""
    from tiny import keep_dtype_in_norms

    keep_dtype_in_norms(monkeypatch)


@pytest.fixture
def bfloat16(monkeypatch):
    """Products in bfloat16 also where the processor has no instructions for them."""
    from fwd2bot.training import distributed

    monkeypatch.setattr(distributed, "multiplies_bfloat16", lambda device: True)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command with the model that sees colours, in an empty folder: run("info", "x") -> (code, out, err)."""
    from cli_run import make_run
    from fake_model import fake_load

    import fwd2bot

    monkeypatch.setitem(vars(fwd2bot), "load", fake_load)
    monkeypatch.chdir(tmp_path)
    return make_run(monkeypatch, capsys)


@pytest.fixture
def album(run, tmp_path):
    """A store of three pictures, and no pictures any more."""
    import shutil

    from fake_model import picture

    picture(tmp_path / "photos/fox.png", "red")
    picture(tmp_path / "photos/sea.png", "blue")
    picture(tmp_path / "photos/more/flag.png", "green", "yellow")
    assert run("compress", "photos", "--store", "album.store").code == 0
    shutil.rmtree(tmp_path / "photos")
    return tmp_path


@pytest.fixture(params=sorted(QUANTISERS))
def store(request, tmp_path):
    """An empty store of every quantisation."""
    from store_rows import MODEL, TOKENS, WIDTH

    from fwd2bot.store import Store

    path = tmp_path / "album.store"
    codecs = {"quantisation": request.param, "vector_quantisation": request.param}
    return Store.create(path, num_tokens=TOKENS, width=WIDTH, **codecs, **MODEL)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """The folder of a tiny untrained LLaVA of the world, with the tower and the language model beside it."""
    from tiny_runs import untrained_base

    return untrained_base(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_base):
    """The folder of a Fwd2Bot of random weights."""
    import torch
    from tiny_runs import saved_fwd2bot

    torch.set_num_threads(1)
    return saved_fwd2bot(tmp_path_factory.mktemp("models") / "tiny-fwd2bot", tiny_base)


@pytest.fixture(scope="module")
def model():
    """A tiny fwd2bot for 2 or 8 tokens."""
    from tiny import tiny_compressor

    from fwd2bot.model import Fwd2Bot

    return Fwd2Bot(tiny_compressor(num_tokens=8, token_counts=(2, 8)))


@pytest.fixture(scope="module")
def plain():
    """A tiny LLaVA without adapters."""
    from tiny import tiny_llava

    from fwd2bot.compressors.catalogue import make_compressor
    from fwd2bot.compressors.config import CompressorConfig
    from fwd2bot.model import Fwd2Bot

    return Fwd2Bot(make_compressor(tiny_llava(), CompressorConfig(compressor="identity", adapters="none")))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; skips where there is none. As long as it is there, nobody else can run an event loop."""
    from contextlib import ExitStack

    from chromium import NoChromiumError, chromium

    with ExitStack() as stack:
        try:
            found = stack.enter_context(chromium())
        except NoChromiumError as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture
def visit(browser):
    """visit(Canned(...), color_scheme="dark") -> the page of a fake server, loaded."""
    from contextlib import ExitStack

    from browser import opened
    from fake_server import Canned, serving

    with ExitStack() as stack:

        def visit(canned=None, **options):
            address = stack.enter_context(serving(canned or Canned()))
            return stack.enter_context(opened(browser, address, **options))

        yield visit


@pytest.fixture
def served(tmp_path):
    """A server over an album of three pictures, with a model that sees colours."""
    from serving import opened

    with opened(tmp_path) as served:
        yield served


@pytest.fixture
def client(served):
    """Asks that server in this process."""
    from serving import client_of

    with client_of(served) as client:
        yield client
