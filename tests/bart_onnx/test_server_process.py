"""The server as a process of its own: its door, its clients, its end."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bart_onnx import OnnxBartSeq2SeqLM

pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
import httpx2
from server_process import running
from serving import NAME, ways_of, wires_of

# Of two models at once; each has texts that mean something to it.
TEXTS = {
    NAME: ["onnx", "summarization", "banana", "a", "relationship", "through", "knight", "zebra"],
    "tiny": ["the fox", "two cat sat on the box", "the quick red dog", "the red box", "a cat ran"],
}


@pytest.fixture(scope="module")
def server(tiny_bundle):
    with running("--preset", str(tiny_bundle)) as started:
        yield started


@pytest.fixture(scope="module")
def lms(tiny_bundle):
    presets = {NAME: NAME, "tiny": str(tiny_bundle)}
    return {
        name: OnnxBartSeq2SeqLM.from_preset(preset, offline=True, threads=1)
        for name, preset in presets.items()
    }


@pytest.fixture(scope="module")
def lm(lms):
    return lms[NAME]


# What a client asks, and what that is to `generate`.
MIXED = [
    ({}, {"do_sample": False}),
    ({"num_beams": 4}, {"num_beams": 4}),
    ({"max_tokens": 7}, {"max_new_tokens": 7}),
    (
        {"temperature": 1.2, "seed": 5},
        {"do_sample": True, "temperature": 1.2, "seed": 5, "top_k": 0, "top_p": 1.0},
    ),
    ({"temperature": 0, "repetition_penalty": 1.5}, {"repetition_penalty": 1.5, "num_beams": 1}),
]


def test_mixed_requests_on_every_wire_are_answered_as_offline(server, lms):
    asked = [
        (wire, stream, text, *each)
        for name, texts in TEXTS.items()
        for wire, stream in ways_of(wires_of(name))
        for text, each in zip(texts, itertools.cycle(MIXED))
    ]
    random.Random(0).shuffle(asked)

    def ask(wire, stream, text, fields, options):
        return wire.text(server.post(wire.path, wire.body(text, stream, **fields)), stream)

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda each: ask(*each), asked))
    for (wire, _, text, _, options), answer in zip(asked, found, strict=True):
        assert answer == lms[wire.model].generate(text, speculate=False, **options), wire.path


def test_log_probabilities_are_those_of_offline_to_the_last_bit(server, lms):
    asked = [(text, *each) for text in TEXTS[NAME] for each in MIXED]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda each: server.ask(each[0], logprobs=0, **each[1]), asked))
    for (text, _, options), answer in zip(asked, answers, strict=True):
        (result,) = lms[NAME].generate([text], speculate=False, return_dict=True, **options)
        (choice,) = answer.json()["choices"]
        assert choice["logprobs"]["token_logprobs"] == result.log_probs.tolist()


def test_clients_that_leave_free_their_rows(server):
    body = {"model": NAME, "prompt": ["summarization"] * 16, "num_beams": 8, "min_tokens": 31}
    for stream in (False, True) * 8:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(
                f"{server.url}/v1/completions",
                json={**body, "stream": stream, "n": 2},
                timeout=httpx2.Timeout(10, read=0.02),
            ).raise_for_status()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        figures = httpx2.get(f"{server.url}/metrics").text
        loads = re.findall(r"bart_onnx_(?:waiting|running|rows)\{.*\} (.*)", figures)
        if set(loads) == {"0.0"}:
            break
        time.sleep(0.05)
    assert loads == ["0.0"] * 6
    assert server.ask("onnx").status_code == 200


def test_logs_are_json_without_texts(server):
    server.ask("a text that nobody may read", max_tokens=True)
    server.ask("banana", user="a text that nobody may read")
    lines = [json.loads(line) for line in list(server.log)]
    assert any(line.get("route") == "/v1/completions" for line in lines)
    assert "nobody may read" not in "".join(server.log)


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest():
    with running("--drain-delay", "1") as server, ThreadPoolExecutor(8) as pool:
        slow = {"num_beams": 8, "min_tokens": 31}
        accepted = [pool.submit(server.ask, ["summarization"] * 16, **slow) for _ in range(6)]
        while "bart_onnx_running" in (text := httpx2.get(f"{server.url}/metrics").text):
            waiting, under_way = (
                float(re.search(rf"{name}\{{.*\}} (.*)", text)[1])
                for name in ("bart_onnx_waiting", "bart_onnx_running")
            )
            if waiting + under_way > 64:
                break
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        refused = server.ask("onnx")
        ready = httpx2.get(f"{server.url}/health/ready")
        assert (refused.status_code, ready.status_code) == (503, 503)
        assert refused.headers["Connection"] == "close"
        answers = [each.result().status_code for each in accepted]
        # What had not come when the signal did is refused, and nothing is lost.
        assert set(answers) <= {200, 503}
        assert answers.count(200) >= 4
        assert server.process.wait(30) == 0
        assert not [line for line in server.log if '"level": "error"' in line]


def test_what_is_not_done_in_time_is_told_and_the_second_signal_ends_it():
    with running("--drain-timeout", "0.1") as server:
        with ThreadPoolExecutor(4) as pool:
            slow = {"num_beams": 8, "min_tokens": 31}
            asked = [pool.submit(server.ask, ["summarization"] * 32, **slow) for _ in range(4)]
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            assert 503 in {each.result().status_code for each in asked}
        assert server.process.wait(30) == 0
    with running("--drain-delay", "60") as server:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_who_is_still_sending_is_waited_for_no_longer_than_others_and_told():
    with running("--drain-timeout", "20") as server:
        address = server.url.removeprefix("http://").split(":")
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
        senders = [socket.create_connection((address[0], int(address[1])), 20) for _ in range(3)]
        for each in senders:
            each.sendall(head)
        assert server.ask("onnx").status_code == 200
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for each in senders:
            answer = b"".join(iter(lambda own=each: own.recv(4096), b""))
            each.close()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5\r\n" in answer.lower()
            assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "closing"
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 10
        lines = [json.loads(line) for line in server.log]
        assert not [line for line in lines if line["level"] == "error"]


def test_the_client_of_openai(server, lm):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == [NAME, "tiny"]
        expected = lm.generate(["onnx", "banana"], do_sample=False)
        found = client.completions.create(model=NAME, prompt=["onnx", "banana"], logprobs=1)
        assert [each.text for each in found.choices] == expected
        assert found.usage.completion_tokens == sum(
            len(each.logprobs.tokens) for each in found.choices
        )
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = client.completions.create(model=NAME, prompt="onnx", **options)
        assert "".join(each.choices[0].text for each in chunks) == expected[0]
        assert (last.choices, last.usage.prompt_tokens) == ([], 6)
        beams = client.completions.create(
            model=NAME, prompt="onnx", n=2, extra_body={"num_beams": 3}
        )
        assert [each.index for each in beams.choices] == [0, 1]
        with pytest.raises(openai.NotFoundError) as refused:
            client.completions.create(model="other", prompt="x")
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="less than or equal to 5"):
            client.completions.create(model=NAME, prompt="x", logprobs=9)
        with pytest.raises(openai.APIStatusError) as large:
            client.completions.create(model=NAME, prompt="x" * 500_000)
        assert large.value.status_code == 413


def test_a_key_of_the_environment_and_a_file(tmp_path, monkeypatch):
    (tmp_path / "serve.yaml").write_text("drain_delay: 0\nport: 1\n")
    monkeypatch.setenv("BART_ONNX_API_KEY", "one, two")
    with running("--config", str(tmp_path / "serve.yaml")) as server:
        assert server.ask("onnx").status_code == 401
        headers = {"Authorization": "Bearer two"}
        assert httpx2.get(f"{server.url}/v1/models", headers=headers).status_code == 200
        assert server.end() == 0
        assert "two" not in "".join(server.log)


def test_an_open_server_without_a_key_warns():
    done = subprocess.run(
        [sys.executable, "-m", "bart_onnx.serve", "--host", "0.0.0.0", "--preset", "absent"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    warning, error = done.stderr.splitlines()
    assert warning.startswith("WARNING: whoever reaches 0.0.0.0")
    assert error.startswith("error: Preset 'absent' is unknown")
