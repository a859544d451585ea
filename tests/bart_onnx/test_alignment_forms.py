"""Alignments of completions: their characters, their weights, and what many of them do."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bart_onnx.decoding import replay
from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.errors import DeadlineError, SchedulerClosedError
from bart_onnx.tokenizer import BartTokenizer

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
import httpx2
from fastapi.testclient import TestClient

from bart_onnx.server.aligner import Aligner
from bart_onnx.server.alignment_forms import clipped, offsets, pieces, source_spans
from bart_onnx.server.app import create_app
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.served import close, opened

NAME = "bart_tiny_en_g2p"
OPTIONS = ServerOptions(preset=(NAME,), threads=1, offline=True)
DATA = Path(__file__).resolve().parents[1] / "data"
BYTES = BartTokenizer.from_files(DATA / "keras_golden" / "hf_checkpoint")


@pytest.fixture(scope="module")
def models():
    found = opened(OPTIONS)
    yield found
    close(found)


@pytest.fixture(scope="module")
def lm(models):
    return models[NAME].lm


@pytest.fixture(scope="module")
def client(models):
    return TestClient(create_app(models, OPTIONS))


def ask(client, prompt, **fields):
    return client.post("/v1/completions", json=body(prompt, **fields))


def body(prompt, **fields):
    return {"model": NAME, "prompt": prompt, "alignments": True, **fields}


def read(text, length=None):
    """What the encoder reads of a text."""
    ids = BYTES.encode_batch([text])[0]
    return np.array([0, *ids[: None if length is None else length - 2], 2])


def test_spans_are_of_characters_whatever_their_bytes():
    text = "héllo  wörld 😀\n日"
    source = read(text)
    spans = source_spans(BYTES, text, source)
    assert len(spans) == len(source)
    assert (spans[0], spans[-1]) == (None, None)
    found = [text[slice(*span)] for span in spans if span is not None]
    expected = ["h", "é", "é", "ll", "o", "w", "ö", "ö", "r", "l", "d", *"😀😀😀😀日日日"]
    assert found == expected
    assert spans.count(None) == len(source) - len(expected)


def test_spans_of_a_text_that_was_cut():
    text = "wörld " * 40
    source = read(text, length=20)
    spans = source_spans(BYTES, text, source)
    assert len(spans) == 20
    assert spans == [None, *source_spans(BYTES, text, read(text))[1:19], None]


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(BYTES.vocabulary.values())), max_size=20))
def test_pieces_are_the_text(ids):
    special = set(BYTES.special_token_ids)
    lines = np.zeros((len(ids), 3), np.float32)
    told = pieces(BYTES, ids, lines, [None, (0, 1), None])
    text = BYTES.decode_batch([[each for each in ids if each not in special]])[0]
    assert "".join(each["text"] for each in told) == text
    assert [each["offset"] for each in told] == [
        sum(len(other["text"]) for other in told[:number]) for number in range(len(told))
    ]


def test_tokens_of_one_character_look_and_are_looked_at_together():
    ids = BYTES.encode_batch(["aé"])[0]
    spans = source_spans(BYTES, "xé", read("xé"))  # <s> x é é </s>
    lines = np.array(
        [[0.2, 0.3, 0.25, 0.25, 0.0], [0.5, 0.3, 0.1, 0.1, 0.0], [0.0, 0.4, 0.3, 0.3, 0.0]]
    )
    assert pieces(BYTES, ids, lines.astype(np.float32), spans) == [
        {"text": "a", "offset": 0, "source": [1, 2], "weight": 0.5},
        {"text": "é", "offset": 1, "source": [1, 2], "weight": 0.4},
    ]
    nothing = pieces(BYTES, ids, lines[:, [0, 4]].astype(np.float32), [None, None])
    assert {(each["source"], each["weight"]) for each in nothing} == {(None, 0.0)}


STRAY = BYTES.encode_batch(["é"])[0][0]


def test_a_stray_byte_is_a_character_of_its_own():
    ids = [0, STRAY, *BYTES.encode_batch(["lʊʃ"])[0], STRAY, STRAY, 2]
    special = set(BYTES.special_token_ids)
    (text,) = BYTES.decode_batch([[each for each in ids if each not in special]])
    assert text == "\ufffdlʊʃ\ufffd\ufffd"
    assert offsets(BYTES, ids) == [0, 0, 1, 2, 2, 3, 3, 4, 5, 6]
    told = pieces(BYTES, ids, np.ones((len(ids), 1), np.float32), [(0, 1)])
    assert [each["text"] for each in told] == list(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(BYTES.vocabulary.values())), max_size=20))
def test_offsets_are_the_lengths_of_what_is_certain_before(ids):
    special = set(BYTES.special_token_ids)
    found = offsets(BYTES, ids)
    rows = [[each for each in ids[:n] if each not in special] for n in range(len(ids) + 1)]
    before = BYTES.decode_batch(rows)
    for place, offset in enumerate(found):
        whole, part = before[-1], before[place]
        # Bytes that were no character yet may be parts of one that begins before the token.
        assert whole[:offset] == part[:offset]
        assert len(part.rstrip("\ufffd")) <= offset <= len(part)


@pytest.mark.parametrize("ids", [BYTES.encode_batch(["aé日😀" * 100])[0], [STRAY] * 1000])
def test_offsets_decode_no_token_over_and_over(ids, monkeypatch):
    def counted(self, rows):
        decoded.append(sum(map(len, rows)))
        return decode_batch(self, rows)

    decoded, decode_batch = [], BartTokenizer.decode_batch
    monkeypatch.setattr(BartTokenizer, "decode_batch", counted)
    assert len(offsets(BYTES, ids)) == len(ids)
    assert len(ids) <= sum(decoded) <= 5 * len(ids)


def test_pieces_of_a_text_that_is_cut():
    told = [{"text": "ab", "offset": 0}, {"text": "cd", "offset": 2}, {"text": "e", "offset": 4}]
    assert clipped(told, 3) == [{"text": "ab", "offset": 0}, {"text": "c", "offset": 2}]
    assert clipped(told, 9) == told
    assert clipped(told, 0) == []


def expected_of(lm, result):
    """What the library says, of letters: here each is a token."""
    side = lm.config.decoder
    heads = [(side.num_layers - 1, head) for head in range(side.num_heads)]
    (lines,) = replay.alignments(lm.runner, [result.source_ids], [result.ids], heads)
    inner = lines[result.prompt_length :, 1:-1]  # the first token that comes is <s>
    return [(int(line.argmax()), float(line.max())) for line in inner[: len(result.text)]]


@pytest.mark.parametrize("fields", [{}, {"num_beams": 3, "n": 2}])
@pytest.mark.parametrize("stream", [False, True])
def test_answers_tell_what_was_looked_at(client, lm, fields, stream):
    prompts = ["summarization", "onnx"]
    options = {"num_beams": 3, "num_return_sequences": 2} if fields else {"do_sample": False}
    results = lm.generate(prompts, speculate=False, return_dict=True, **options)
    expected = [each for result in results for each in result.n_best]
    answer = ask(client, prompts, stream=stream, **fields)
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"] if not stream else last_pieces(answer)
    asked = np.repeat(prompts, len(expected) // 2)
    for prompt, choice, result in zip(asked, choices, expected, strict=True):
        told = choice["alignments"]
        assert "".join(each["text"] for each in told) == result.text
        assert all(0 <= start < end <= len(prompt) for start, end in (e["source"] for e in told))
        own = expected_of(lm, replace(result, source_ids=source_of(lm, prompt)))
        assert [each["source"][0] for each in told] == [place for place, _ in own]
        assert [each["weight"] for each in told] == pytest.approx([w for _, w in own], abs=1e-4)


def source_of(lm, prompt):
    arrays = lm.preprocessor.generate_preprocess([str(prompt)])
    return arrays["encoder_token_ids"][0][arrays["encoder_padding_mask"][0]].astype(np.int64)


def last_pieces(answer):
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    finished = [each for event in events for each in event["choices"] if each["finish_reason"]]
    unfinished = [
        each for event in events for each in event["choices"] if not each["finish_reason"]
    ]
    assert not any("alignments" in each for each in unfinished)
    return sorted(finished, key=lambda each: each["index"])


# Letters that can spell a consonant of the shipped preset's alphabet.
SPELLINGS = {
    **{"b": "b", "d": "d", "f": "fpg", "h": "hw", "k": "kcqx", "l": "l", "m": "m", "n": "nkg"},
    **{"p": "p", "ɹ": "r", "s": "scxz", "t": "td", "v": "vf", "w": "wuqo", "z": "zsx"},
    **{"ʃ": "stchi", "ʒ": "sgz", "ʤ": "jgd", "ʧ": "cht", "θ": "th", "ð": "th", "ŋ": "n"},
    **{"ɡ": "gx", "j": "yuie"},
}


def test_the_heads_that_are_told_find_the_letters_of_consonants(models, lm):
    lines = (DATA / "words.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split("\t")[0] for line in lines][::10]
    found = lm.generate(words, do_sample=False, speculate=False, return_dict=True)

    def right(heads):
        sources, sequences = [each.source_ids for each in found], [each.ids for each in found]
        aligned = replay.alignments(lm.runner, sources, sequences, heads)
        hits = [
            word[int(line[1:-1].argmax())].lower() in SPELLINGS[phoneme]
            for word, result, own in zip(words, found, aligned, strict=True)
            for phoneme, line in zip(result.text, own[result.prompt_length :], strict=False)
            if phoneme in SPELLINGS
        ]
        assert len(hits) > 200
        return sum(hits) / len(hits)

    assert right(models[NAME].aligner.heads) >= max(0.98, right(None))


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_prompts_that_are_cut_empty_or_ids(client):
    (choice,) = ask(client, "ban" * 30, long_input="truncate").json()["choices"]
    assert choice["truncated"]
    assert max(end for _, end in (each["source"] for each in choice["alignments"])) <= 62
    (choice,) = ask(client, "").json()["choices"]
    assert all(each["source"] is None for each in choice["alignments"])
    refused = ask(client, [0, 20, 2])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "alignments")
    assert "give a text" in refused.json()["error"]["message"]
    (choice,) = ask(client, "onnx", alignments=False).json()["choices"]
    assert "alignments" not in choice


def test_stop_strings_cut_alignments_too(client, lm):
    whole = lm.generate("summarization", do_sample=False)
    (choice,) = ask(client, "summarization", stop=whole[4:6]).json()["choices"]
    assert choice["text"] == whole[:4]
    assert "".join(each["text"] for each in choice["alignments"]) == whole[:4]


def test_beside_the_engine_nothing_changes(client):
    words = ["onnx", "summarization", "banana", "relationship", "through", "knight"] * 8
    alone = {word: ask(client, word).json()["choices"] for word in set(words)}
    plain = {word: ask(client, word, alignments=False, logprobs=0).json() for word in set(words)}
    with ThreadPoolExecutor(16) as pool:
        aligned = pool.map(lambda word: ask(client, word).json()["choices"], words)
        others = pool.map(lambda word: ask(client, word, alignments=False, logprobs=0), words)
        assert list(aligned) == [alone[word] for word in words]
        assert [each.json()["choices"] for each in others] == [
            plain[word]["choices"] for word in words
        ]


class Held:
    """A replay that waits until it is let go, and counts how many run at once."""

    def __init__(self, monkeypatch):
        self.go, self.running, self.most = threading.Event(), 0, 0
        self._lock, self._replay = threading.Lock(), replay.alignments
        monkeypatch.setattr(replay, "alignments", self)

    def __call__(self, *given):
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.go.wait(30)
        found = self._replay(*given)
        with self._lock:
            self.running -= 1
        return found


def test_one_runs_at_a_time_others_wait_and_the_server_goes_on(models, monkeypatch):
    held = Held(monkeypatch)
    app = create_app(models, replace(OPTIONS, waiting=3))

    async def run():
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
            first = [asyncio.ensure_future(post(client, "onnx")) for _ in range(3)]
            while models[NAME].aligner.stage.waiting < 3:
                await asyncio.sleep(0.005)
            # All of this is answered while the replay stands still.
            refused = await post(client, "onnx")
            alive = await client.get("/health/live")
            plain = await post(client, "banana", alignments=False)
            held.go.set()
            return refused, alive, plain, await asyncio.gather(*first)

    async def post(client, prompt, **fields):
        return await client.post("/v1/completions", json=body(prompt, **fields))

    refused, alive, plain, first = asyncio.run(asyncio.wait_for(run(), 30))
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert "3 wait for alignments" in refused.json()["error"]["message"]
    assert (alive.status_code, plain.status_code) == (200, 200)
    assert [each.status_code for each in first] == [200] * 3
    assert held.most == 1
    assert models[NAME].aligner.stage.waiting == 0


def found_of(lm, prompt):
    """What `Aligner.aligned` is given of a prompt."""
    (result,) = lm.generate([prompt], do_sample=False, return_dict=True)
    found = Hypothesis(result.ids, result.prompt_length, 0.0, "stop")
    return prompt, result.source_ids, (found,)


def test_who_waits_too_long_is_told(client, lm, models, monkeypatch):
    held = Held(monkeypatch)
    aligner = models[NAME].aligner
    try:
        with pytest.raises(DeadlineError, match=r"more than 0\.1 seconds; ask without them"):
            asyncio.run(aligner.aligned(*found_of(lm, "onnx"), 1, deadline=0.1))
    finally:
        held.go.set()
    assert aligner.stage.waiting == 0
    assert ask(client, "onnx").status_code == 200


def test_what_waits_when_it_is_closed_is_told_so(lm, monkeypatch):
    held, aligner, given = Held(monkeypatch), Aligner(lm), found_of(lm, "onnx")

    async def run():
        asked = [asyncio.ensure_future(aligner.aligned(*given, 9, 30)) for _ in range(3)]
        while not held.running:
            await asyncio.sleep(0.005)
        closing = asyncio.ensure_future(asyncio.to_thread(aligner.close))
        while not aligner.stage.closed:
            await asyncio.sleep(0.005)
        held.go.set()
        await closing
        late = asyncio.ensure_future(aligner.aligned(*given, 9, 30))
        return await asyncio.gather(*asked, late, return_exceptions=True)

    first, *others = asyncio.run(asyncio.wait_for(run(), 60))
    assert "".join(piece["text"] for piece in first[0]) == lm.generate("onnx", do_sample=False)
    assert [type(each) for each in others] == [SchedulerClosedError] * 3
