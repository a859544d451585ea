"""Long texts at the server: how much of them is read, where, and who waits for that how long."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bart_onnx.errors import DeadlineError, InputTooLongError, QueueFullError, SchedulerClosedError
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.tokenizer import BartTokenizer

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
import httpx2
from serving import NAME, OPTIONS, WIRES, leave_when

from bart_onnx.server import replies
from bart_onnx.server.app import create_app
from bart_onnx.server.completion_forms import Completion
from bart_onnx.server.readable import readable, readable_texts
from bart_onnx.server.served import ServedModel, close, opened
from bart_onnx.server.stage import Stage

DATA = Path(__file__).resolve().parents[1] / "data"
LIMIT = 6
ROOM = LIMIT - 2
# A second of a tokenizer, or less.
LONG = "word " * 500

TOKENIZER = BartTokenizer.from_files(DATA / "keras_golden" / "hf_checkpoint")


def preprocessor(**options):
    tokenizer = BartTokenizer(TOKENIZER.vocabulary, TOKENIZER.merges, **options)
    return BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=LIMIT, decoder_sequence_length=LIMIT
    )


# As of real checkpoints: one takes the blanks before it, one those after it.
TAKING = [
    {"content": "<s>"},
    {"content": "</s>", "rstrip": True},
    {"content": "<pad>", "lstrip": True},
    {"content": "the", "special": False, "single_word": True},
]
PREPROCESSORS = [
    preprocessor(),
    preprocessor(add_prefix_space=True),
    preprocessor(added_tokens=[each for each in TAKING if each["content"] in TOKENIZER.vocabulary]),
]
WORDS = ["the", "a", "é", "日本", "😀", "don't", "3½", "...", "_", "\u00a0", "\n", "\t ", "x" * 70]
WORDS += ["  ", " " * 30, "<s>", "</s>", "<pad>", "e\u0301", "\u200b", "\ufffd", "\u180e"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=60), st.sampled_from([" ", "", "  "]))
@pytest.mark.parametrize("own", PREPROCESSORS, ids=["plain", "prefixed", "taking"])
def test_what_is_read_of_a_text_is_the_same_whatever_follows(own, words, between):
    text = between.join(words)
    part = readable(own, text)
    assert text.startswith(part)
    ids, of_part = own.tokenizer.encode_batch([text, part])
    assert of_part == ids[: len(of_part)]
    assert len(of_part) > LIMIT or part == text
    offsets, of_part = own.tokenizer.offset_batch([text, part])
    assert of_part[:ROOM] == offsets[:ROOM]


def test_of_long_texts_with_words_little_is_read():
    for text in ("word " * 10_000, "日本語 é 😀x " * 10_000):
        assert len(readable(PREPROCESSORS[0], text)) < 30 * LIMIT


def test_more_is_read_where_few_tokens_take_many_characters():
    own = PREPROCESSORS[2]
    text = (" " * 100 + "<pad>") * 3 + "a " + "word " * 100
    assert len(own.tokenizer.encode_batch([text[:317]])[0]) <= LIMIT
    part = readable(own, text)
    assert 317 < len(part) < len(text)
    ids, of_part = own.tokenizer.encode_batch([text, part])
    assert (ids[: len(of_part)], len(of_part) > LIMIT) == (of_part, True)


@pytest.mark.parametrize("text", ["x" * 5_000, " " * 5_000, "日" * 5_000, "!! " * 2_000])
def test_texts_without_the_end_of_a_word_are_read_whole(text):
    assert readable(PREPROCESSORS[0], text) == text


def test_a_text_may_be_cut_nowhere_where_a_token_has_a_blank():
    vocabulary = {**TOKENIZER.vocabulary, "word word": 40_000}
    tokenizer = BartTokenizer(
        vocabulary, TOKENIZER.merges, added_tokens=[*TAKING[:3], {"content": "word word"}]
    )
    own = BartSeq2SeqLMPreprocessor(tokenizer, encoder_sequence_length=LIMIT)
    assert tokenizer.encode_batch(["word word"]) == [[40_000]]
    assert readable(own, LONG) == LONG


def test_a_text_that_is_too_long_is_refused_by_its_beginning():
    with pytest.raises(InputTooLongError, match=r"Text 1 has 2500 characters, .* first \d\d alone"):
        readable_texts(PREPROCESSORS[0], ["x", LONG], "error")
    assert readable_texts(PREPROCESSORS[0], ["x", "x" * 99], "error") == ["x", "x" * 99]


@pytest.mark.parametrize("text", ["ban " * 900, "é日 x" * 900, "x" * 3000])
@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_long_texts_are_answered_as_by_generate(client, served_lm, text):
    body = {"model": NAME, "prompt": text, "logprobs": 0, "alignments": True}
    found = client.post("/v1/completions", json={**body, "long_input": "truncate"}).json()
    (choice,) = found["choices"]
    (expected,) = served_lm.generate(
        [text], long_input="truncate", do_sample=False, speculate=False, return_dict=True
    )
    assert (choice["text"], choice["truncated"]) == (expected.text, True)
    assert choice["logprobs"]["token_logprobs"] == expected.log_probs.tolist()
    assert found["usage"]["prompt_tokens"] == len(expected.source_ids)
    assert all(each["source"] is None or each["source"][1] < 300 for each in choice["alignments"])
    refused = client.post("/v1/completions", json=body)
    assert refused.json()["error"]["code"] == "context_length_exceeded"


class Work:
    """Work that goes on until it is let go."""

    def __init__(self):
        self.go, self.begun = threading.Event(), 0

    def __call__(self):
        self.begun += 1
        assert self.go.wait(30)
        return "done"


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def held(stage, work, seconds=30.0, most=3, size=1, largest=10):
    async with stage.place(seconds, most, size, largest):
        return await stage.turn(work)


def test_a_stage_is_bounded_in_number_and_size():
    async def run():
        first = asyncio.ensure_future(held(stage, work, size=20))
        await until(lambda: work.begun)
        with pytest.raises(QueueFullError, match="1 wait for ids already; ask less") as refused:
            await held(stage, work)
        assert 1 <= refused.value.retry_after <= 30
        others = [asyncio.ensure_future(held(stage, work, largest=22)) for _ in range(2)]
        await until(lambda: stage.waiting == 3)
        with pytest.raises(QueueFullError, match="3 wait"):
            await held(stage, work, largest=99)
        assert work.begun == 1
        work.go.set()
        assert await asyncio.gather(first, *others) == ["done"] * 3
        assert (stage.waiting, stage.size) == (0, 0)

    stage, work = Stage("ids", "ask less"), Work()
    asyncio.run(run())
    stage.close()


def test_who_leaves_a_stage_is_let_go_at_once_and_their_work_is_dropped():
    async def run():
        others = [asyncio.ensure_future(held(stage, each)) for each in (works[0], works[1])]
        await until(lambda: works[0].begun)
        for each in others:
            each.cancel()
        assert await asyncio.gather(*others, return_exceptions=True) != ["done"] * 2
        assert stage.waiting == 0
        works[0].go.set()
        works[2].go.set()
        assert await held(stage, works[2]) == "done"

    stage, works = Stage("ids", "ask less"), [Work() for _ in range(3)]
    asyncio.run(run())
    stage.close()
    assert [each.begun for each in works] == [1, 0, 1]


def test_time_passes_in_a_stage():
    async def run():
        with pytest.raises(DeadlineError, match=r"Ids took more than 0\.05 seconds; ask less"):
            await held(stage, work, seconds=0.05)
        work.go.set()

    stage, work = Stage("ids", "ask less"), Work()
    asyncio.run(run())
    stage.close()


def test_what_waits_in_a_stage_when_it_closes_is_told_so():
    async def run():
        asked = [asyncio.ensure_future(held(stage, work)) for _ in range(3)]
        await until(lambda: stage.waiting == 3 and work.begun)
        closing = asyncio.ensure_future(asyncio.to_thread(stage.close))
        await until(lambda: stage.closed)
        work.go.set()
        await closing
        late = asyncio.ensure_future(held(stage, work))
        return await asyncio.gather(*asked, late, return_exceptions=True)

    stage, work = Stage("ids", "ask less"), Work()
    first, *others = asyncio.run(run())
    assert first == "done"
    assert [type(each) for each in others] == [SchedulerClosedError] * 3


def test_models_that_are_served_together_share_a_stage_which_ends_with_them(tiny_bundle):
    options = replace(OPTIONS, preset=(NAME, str(tiny_bundle)))
    models = opened(options)
    (stage,) = {model.preparing for model in models.values()}
    assert len(models) == 2
    assert not stage.closed
    close(models)
    with pytest.raises(SchedulerClosedError):
        asyncio.run(stage.turn(Work()))


@pytest.fixture
def slow(monkeypatch):
    """Completions of long texts that wait until they are let go."""

    class Slow(Completion):
        def __init__(self, model, asked, served):
            if sum(map(len, asked.texts or ())) > 2_000:
                work()
            super().__init__(model, asked, served)

    work = Work()
    monkeypatch.setattr(replies, "Completion", Slow)
    yield work
    work.go.set()


@pytest.fixture
def model(by_hand, served_lm):
    """A model with a stage of its own, whose scheduler nobody turns."""
    found = ServedModel(NAME, served_lm, by_hand.scheduler)
    yield found
    found.preparing.close()
    found.aligner.close()


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.path)
def test_more_long_texts_than_wait_are_429_and_late_ones_504(model, slow, wire):
    app = create_app({NAME: model}, replace(OPTIONS, waiting=3, deadline=1.0))

    async def run():
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            body = wire.body(LONG, wire.streams is True)
            began = time.monotonic()
            asked = [asyncio.ensure_future(client.post(wire.path, json=body)) for _ in range(3)]
            await until(lambda: slow.begun == 2)
            refused = await client.post(wire.path, json=body)
            late = await asyncio.gather(*asked)
            return refused, late, time.monotonic() - began

    refused, late, seconds = asyncio.run(run())
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert wire.is_error(refused.json(), "3 wait for token ids already")
    assert [each.status_code for each in late] == [504] * 3
    assert wire.is_error(late[0].json(), "Token ids took more than 1 seconds")
    assert 1.0 <= seconds < 10.0
    assert model.scheduler.load.waiting == model.preparing.waiting == 0


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.path)
def test_who_leaves_while_a_text_is_prepared_is_let_go(model, slow, wire):
    app = create_app({NAME: model}, OPTIONS)
    body = wire.body(LONG, wire.streams is True)
    sent = leave_when(app, wire.path, body, lambda: slow.begun)
    assert model.preparing.waiting == model.scheduler.load.waiting == 0
    assert not any(message.get("body") for message in sent)


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_what_a_text_waited_is_taken_off_its_time(model, slow):
    app = create_app({NAME: model}, OPTIONS)

    def leaving():
        if slow.begun and not slow.go.is_set():
            time.sleep(0.2)
            slow.go.set()
        return model.scheduler.load.waiting

    body = {"model": NAME, "prompt": LONG, "long_input": "truncate"}
    submitted = []
    submit = model.scheduler.submit
    model.scheduler.submit = lambda request: submitted.append(request) or submit(request)
    leave_when(app, "/v1/completions", body, leaving)
    (request,) = submitted
    assert OPTIONS.deadline - 20 < request.deadline <= OPTIONS.deadline - 0.2


def test_short_texts_pass_long_ones(models, slow):
    app = create_app(models, OPTIONS)

    async def run():
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            long, short = ({"model": NAME, "prompt": text} for text in (LONG, "onnx"))
            asked = [
                asyncio.ensure_future(client.post("/v1/completions", json=long)) for _ in range(4)
            ]
            await until(lambda: slow.begun == 2)
            found = await client.post("/v1/completions", json=short)
            slow.go.set()
            return found, await asyncio.gather(*asked)

    found, long = asyncio.run(run())
    assert found.status_code == 200
    assert [json.loads(each.text)["error"]["code"] for each in long] == [
        "context_length_exceeded"
    ] * 4
