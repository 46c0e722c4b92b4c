"""The engine: loads beside the page, does one thing at a time, stops when told, goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from monoscope.errors import ModelError
from monoscope.viewer.engine import Engine, Loaded, answer, ask
from monoscope.viewer.engine_jobs import Busy, Crashed, Gone, Unavailable
from monoscope.viewer.state import ViewerState

SECONDS = 20
LOADED = Loaded(lm=None, sae=None, atlas=None, name="toy")  # type: ignore[arg-type]


class Client:
    """A request whose client may leave."""

    url = SimpleNamespace(path="/test")

    def __init__(self) -> None:
        self.gone = False

    async def is_disconnected(self) -> bool:
        return self.gone


@pytest.fixture
def engine():
    made = []

    def make(load=lambda: LOADED, **given):
        one = Engine(None, None, load=load, **given)
        made.append(one)
        one.start()
        return one

    yield make
    for one in made:
        one.close()


def state_of(engine):
    return ViewerState(None, None, engine)


async def until(ready):
    async with asyncio.timeout(SECONDS):
        while not ready():
            await asyncio.sleep(0.005)


def counting(n=3, seen=None, gate=None):
    def work(loaded):
        for i in range(n):
            if gate is not None and i:
                assert gate.wait(SECONDS)
            if seen is not None:
                seen.append(i)
            yield i

    return work


def test_what_is_asked_while_loading_is_answered_when_loaded(engine):
    gate = threading.Event()

    def load():
        assert gate.wait(SECONDS)
        return LOADED

    one = engine(load)

    async def go():
        assert one.status().state == "loading"
        pending = asyncio.create_task(ask(state_of(one), Client(), counting()))
        await until(lambda: one.status().waiting == 1)
        gate.set()
        first, rest = await pending
        assert one.status().state == "ready"
        assert one.status().model == "toy"
        return [first, *[event async for event in rest]]

    assert asyncio.run(go()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelError("no such model", got="x"), "no such model: got x"),
        (OSError("disk\ngone"), "OSError: disk gone"),
    ],
)
def test_a_model_that_does_not_load_says_why_in_one_line(engine, error, said):
    gate = threading.Event()

    def load():
        assert gate.wait(SECONDS)
        raise error

    one = engine(load)

    async def go():
        pending = asyncio.create_task(answer(state_of(one), Client(), counting()))
        await until(lambda: one.status().waiting == 1)
        gate.set()
        with pytest.raises(Unavailable, match="could not be loaded"):
            await pending
        with pytest.raises(Unavailable, match="could not be loaded"):
            await answer(state_of(one), Client(), counting())

    asyncio.run(go())
    assert one.status().state == "failed"
    assert one.status().detail == said


def test_without_a_model_it_says_so():
    with pytest.raises(Unavailable, match="no model"):
        asyncio.run(answer(ViewerState(None, None, None), Client(), counting()))


@pytest.mark.parametrize("crash", [RuntimeError("out of\nmemory"), SystemExit(3), MemoryError()])
def test_a_crash_is_that_requests_error_and_the_next_is_answered(engine, crash, caplog):
    one = engine()

    def fails_at_once(loaded):
        raise crash

    def fails_later(loaded):
        yield "begun"
        raise crash

    async def go():
        with pytest.raises(Crashed) as caught:
            await answer(state_of(one), Client(), fails_at_once)
        assert type(crash).__name__ in str(caught.value)
        assert "\n" not in str(caught.value)
        first, rest = await ask(state_of(one), Client(), fails_later)
        assert first == "begun"
        with pytest.raises(Crashed):
            await anext(rest)
        return await answer(state_of(one), Client(), counting())

    assert asyncio.run(go()) == 0
    assert "failed in the model" in caplog.text


def test_our_own_errors_are_passed_on_as_they_are(engine):
    def work(loaded):
        raise ModelError("no chat template")

    with pytest.raises(ModelError, match="no chat template"):
        asyncio.run(answer(state_of(engine()), Client(), work))


def test_a_client_that_leaves_stops_the_work_between_two_tokens(engine):
    one, seen, gate, client = engine(), [], threading.Event(), Client()

    async def go():
        first, rest = await ask(state_of(one), client, counting(1000, seen, gate))
        assert first == 0
        client.gone = True
        with pytest.raises(Gone):
            await anext(rest)
        gate.set()
        await until(lambda: not one.status().busy)

    asyncio.run(go())
    assert len(seen) <= 2


def test_closing_the_answer_stops_the_work(engine):
    one, seen, closed = engine(), [], []

    def work(loaded):
        try:
            yield from counting(10**6, seen)(loaded)
        finally:
            closed.append(True)

    async def go():
        _, rest = await ask(state_of(one), Client(), work)
        await anext(rest)
        await rest.aclose()
        await until(lambda: not one.status().busy)
        return await answer(state_of(one), Client(), counting())

    assert asyncio.run(go()) == 0
    assert closed == [True]
    assert len(seen) < 10**6


def test_the_queue_is_bounded_and_a_cancelled_request_frees_its_place(engine):
    one, gate = engine(max_waiting=2), threading.Event()

    async def go():
        _, rest = await ask(state_of(one), Client(), counting(2, gate=gate))
        leaving = Client()
        waiting = [
            asyncio.create_task(answer(state_of(one), client, counting()))
            for client in (Client(), leaving)
        ]
        await until(lambda: one.status().waiting == 2)
        with pytest.raises(Busy) as caught:
            await answer(state_of(one), Client(), counting())
        assert int(caught.value.headers["Retry-After"]) >= 1
        leaving.gone = True
        with pytest.raises(Gone):
            await waiting[1]
        assert one.status().waiting == 1
        late = asyncio.create_task(answer(state_of(one), Client(), counting()))
        await until(lambda: one.status().waiting == 2)
        gate.set()
        assert [event async for event in rest] == [1]
        return await waiting[0], await late

    assert asyncio.run(go()) == (0, 0)


def test_one_request_runs_at_a_time(engine):
    one, running, most = engine(), [], []

    def work(loaded):
        for _ in range(3):
            running.append(1)
            most.append(len(running))
            yield
            running.pop()

    async def go():
        async def all_of(client):
            first, rest = await ask(state_of(one), client, work)
            return [first, *[e async for e in rest]]

        return await asyncio.gather(*(all_of(Client()) for _ in range(4)))

    assert len(asyncio.run(go())) == 4
    assert set(most) == {1}


def test_closing_answers_what_waits_and_stops_what_runs(engine):
    one, seen, gate = engine(), [], threading.Event()

    async def go():
        _, rest = await ask(state_of(one), Client(), counting(10**6, seen, gate))
        waiting = asyncio.create_task(answer(state_of(one), Client(), counting()))
        await until(lambda: one.status().waiting == 1)
        closing = asyncio.create_task(asyncio.to_thread(one.close))
        with pytest.raises(Unavailable, match="closing"):
            await waiting
        gate.set()
        await closing
        with pytest.raises(Unavailable, match="closing"):
            await answer(state_of(one), Client(), counting())
        await rest.aclose()

    asyncio.run(go())
    assert len(seen) <= 2


def test_closing_does_not_wait_for_a_model_that_loads(engine, monkeypatch):
    monkeypatch.setattr("monoscope.viewer.engine._CLOSE_SECONDS", None)  # for ever
    gate = threading.Event()
    one = engine(lambda: (gate.wait(SECONDS), LOADED)[1])
    closing = threading.Thread(target=one.close, daemon=True)
    closing.start()
    closing.join(SECONDS / 2)
    assert not closing.is_alive()
    assert one.alive
    gate.set()


def test_the_viewer_waits_for_no_torch():
    code = (
        "import sys, monoscope.viewer.app, monoscope.viewer.engine, monoscope.viewer.api.openai, "
        "monoscope.viewer.api.lens, monoscope.viewer.api.steer\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
