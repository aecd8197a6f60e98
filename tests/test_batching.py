"""The worker: many askers, one model; what each gets is what it would get alone."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fake_model import LONGEST, FakeModel, FakeRunning
from PIL import Image
from tiny import tiny_compressor

from fwd2bot.errors import InputError
from fwd2bot.model import Fwd2Bot
from fwd2bot.server import batching
from fwd2bot.server.batching import DeadError, FullError, Worker, ready

RED, BLUE = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def worker(model):
    worker = Worker(model, num_tokens=4, batch=2, queue=3)
    yield worker
    model.may_go_on.set()
    worker.close()


def asked(worker, question="each ?", picture=RED, **options):
    prompt = worker.model.prompt([(question, None)], 4)
    return worker.answer(prompt, tokens=worker.model.compress([picture])[0], **options)


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def hold(worker):
    """What comes until the event is set waits together."""
    held = threading.Event()
    worker.call(lambda: held.wait(30))
    until(lambda: worker.waiting == 0)
    return held


def two_running(worker, model):
    """Two answers that have begun, and wait until the model may go on."""
    model.may_go_on.clear()
    held = hold(worker)
    both = [asked(worker), asked(worker)]
    held.set()
    until(lambda: worker.running == 2)
    return both


def test_many_askers_get_what_the_model_gives_to_each_alone():
    model = Fwd2Bot(tiny_compressor())
    pictures = [Image.effect_noise((16, 16), 40 + place).convert("RGB") for place in range(12)]
    rows = model.compress(pictures)
    questions = [f"how many {'stars ' * (place % 5)}?" for place in range(len(rows))]
    alone = [
        model.answer(row[None], [question], max_new_tokens=12)[0] for row, question in zip(rows, questions, strict=True)
    ]
    vectors = model.embed(questions).numpy()
    worker = Worker(model, num_tokens=4, batch=5)

    def ask(place):
        prompt = model.prompt([(questions[place], None)], 4)
        if place % 3 == 0:
            return worker.answer(prompt, picture=pictures[place], max_new_tokens=12).result()
        pieces = []
        row = rows[place].numpy()
        answered = worker.answer(prompt, tokens=row, max_new_tokens=12, on_text=pieces.append).result()
        assert "".join(pieces) == answered.text
        return answered

    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, place) for place in range(len(rows))]
        embedded = [worker.embed(questions[start : start + 3]) for start in range(0, 12, 3)]
        compressed = worker.compress(pictures[:2])
        assert [answer.result().text for answer in answers] == alone
        np.testing.assert_allclose(np.concatenate([one.result() for one in embedded]), vectors, atol=1e-5)
        np.testing.assert_allclose(compressed.result()[0], rows[:2].numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(compressed.result()[1], model.embed(rows[:2]).numpy(), atol=1e-5)
    worker.close()
    assert worker.rows > worker.steps, "no two answers ever shared a step"
    assert worker.tokens >= worker.rows - len(rows)


def test_an_answer_says_how_it_ended(worker):
    assert asked(worker).result().finish == "stop"
    short = asked(worker, max_new_tokens=3).result()
    assert (short.text, short.tokens, short.finish) == ("red red red", 3, "length")


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(worker):
    pieces = []
    stopped = asked(worker, stop=["d red r"], on_text=pieces.append).result()
    assert (stopped.text, stopped.finish) == ("re", "stop")
    assert "".join(pieces) == "re"
    assert asked(worker, stop=["no such"]).result().text == "red red red red"


@pytest.mark.parametrize(
    ("text", "finish", "stop", "expected"),
    [
        ("a fox", None, [], ("a fox", None)),
        ("a f", None, ["fox"], ("a ", None)),  # it may become a fox
        ("a f", "stop", ["fox"], ("a f", "stop")),
        ("a fox on a cow", None, ["cow", "fox"], ("a ", "stop")),  # the first in the text
        ("a fox", "length", ["fox"], ("a ", "stop")),
        ("fofo", None, ["fox", "of"], ("f", "stop")),
        ("caf�", None, [], ("caf", None)),
        ("caf�", "length", [], ("caf�", "length")),
    ],
)
def test_what_may_be_said_so_far(text, finish, stop, expected):
    assert ready(text, finish, stop) == expected


def test_no_more_wait_than_may(worker, model):
    running = two_running(worker, model)
    waiting = [asked(worker) for _ in range(3)]
    with pytest.raises(FullError) as refused:
        asked(worker)
    assert 1 <= refused.value.retry_after <= 60
    assert worker.waiting == 3
    model.may_go_on.set()
    assert {one.result().text for one in running + waiting} == {"red red red red"}
    assert asked(worker).result().text == "red red red red"


def test_no_more_pictures_wait_than_memory_is_for(worker, model, monkeypatch):
    held = hold(worker)
    monkeypatch.setattr(batching, "HELD", 2 * 3 * RED.width * RED.height)
    one = worker.compress([RED] * 5)  # alone, whatever it takes
    with pytest.raises(FullError):
        worker.compress([RED])
    with pytest.raises(FullError):
        worker.answer(model.prompt([("?", None)], 4), picture=RED)
    text = worker.embed(["red"])
    held.set()
    assert len(one.result()[0]) == 5
    assert text.result().shape == (1, 8)


def test_closed_with_patience_it_waits_no_longer(worker, model):
    two_running(worker, model)
    began = time.monotonic()
    worker.close(0.2)
    assert 0.1 < time.monotonic() - began < 5
    model.may_go_on.set()


def test_who_goes_away_leaves_the_batch_and_the_queue(worker, model):
    gone, stays = two_running(worker, model)
    waited, behind = asked(worker), asked(worker, picture=BLUE)
    assert gone.cancel()
    assert waited.cancel()
    model.may_go_on.set()
    assert behind.result().text == "blue blue blue blue"
    assert stays.result().text == "red red red red"
    for one in (gone, waited):
        with pytest.raises(CancelledError):
            one.result()
    until(lambda: worker.running == 0)
    assert worker.tokens < 4 + 4 + 4


def test_one_refused_text_does_not_refuse_its_neighbours(worker, model):
    held = hold(worker)
    refused = []

    def embed(texts, num_tokens=None, real=model.embed):
        if "no" in texts:
            refused.append(list(texts))
            raise InputError("no is no text")
        return real(texts, num_tokens)

    model.embed = embed
    first, second, third = (worker.embed(texts) for texts in (["red"], ["no"], ["blue"]))
    held.set()
    assert first.result().shape == third.result().shape == (1, 8)
    assert not np.allclose(first.result(), third.result())
    with pytest.raises(InputError):
        second.result()
    assert ["red", "no", "blue"] in refused


def test_pictures_are_compressed_together_but_not_all_at_once(worker, model):
    held = hold(worker)
    futures = [worker.compress([RED] * count) for count in (3, 4, 9)]
    held.set()
    assert [len(future.result()[0]) for future in futures] == [3, 4, 9]
    assert model.batches == [7, 9]


def test_a_batch_that_breaks_takes_only_its_own_answers_along(worker, model, monkeypatch):
    def broken(self):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(FakeRunning, "step", broken)
        both = [asked(worker), asked(worker)]
        for one in both:
            with pytest.raises(RuntimeError, match="out of memory"):
                one.result()
    assert asked(worker).result().text == "red red red red"
    with monkeypatch.context() as patched:
        patched.setattr(FakeModel, "compress", broken)
        with pytest.raises(TypeError):
            worker.answer(model.prompt([("?", None)], 4), picture=RED).result()
    with pytest.raises(KeyError):  # who listens may break as well
        asked(worker, on_text=lambda text: {}[text]).result()
    assert asked(worker).result().text == "red red red red"


def test_a_batch_that_cannot_be_left_breaks_and_the_next_is_answered(worker, model):
    gone, stays = two_running(worker, model)

    def leave(answers, real=worker._answers.leave):
        if answers:
            raise RuntimeError("out of memory")
        real(answers)

    worker._answers.leave = leave
    assert gone.cancel()
    model.may_go_on.set()
    with pytest.raises(RuntimeError, match="out of memory"):
        stays.result(30)
    assert asked(worker).result(30).text == "red red red red"
    assert worker.alive


def test_where_no_new_batch_can_begin_everyone_is_told_and_nobody_waits(worker, model, caplog):
    model.may_go_on.clear()
    held = hold(worker)
    both, waits = [asked(worker), asked(worker)], asked(worker)
    held.set()
    until(lambda: worker.running == 2)
    worker._answers.text = model.running = lambda *_: 1 // 0
    model.may_go_on.set()
    for one in both:
        with pytest.raises(ZeroDivisionError):
            one.result(30)
    with pytest.raises(DeadError):
        waits.result(30)
    until(lambda: not worker._thread.is_alive())
    assert (worker.alive, worker.running, worker.waiting) == (False, 0, 0)
    with pytest.raises(DeadError):
        asked(worker)
    assert "The model's thread has ended" in caplog.text


def test_anything_can_be_done_between_two_tokens(worker):
    assert worker.call(lambda: threading.current_thread().name).result() == "fwd2bot model"
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0).result()


def test_closed_it_has_done_all_that_was_asked(model):
    worker = Worker(model, num_tokens=4, batch=1)
    futures = [asked(worker) for _ in range(4)]
    worker.close()
    assert all(future.done() for future in futures)
    assert {future.result().text for future in futures} == {"red red red red"}


def test_a_question_longer_than_the_model_takes_is_told_to_its_asker(worker):
    with pytest.raises(InputError, match="letters"):
        asked(worker, question="x" * (LONGEST + 1)).result()
    assert isinstance(worker.model.compress([RED]), torch.Tensor)
