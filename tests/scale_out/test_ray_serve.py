"""The server's application under a real Ray Serve, whose replicas are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import free_port
from scale_out.ray_cluster import processes_of, ray_on_loopback

from bart_onnx import OnnxBartSeq2SeqLM
from bart_onnx.ray_serve import app

# What warns is Ray's own code.
pytestmark = [pytest.mark.scale_out, pytest.mark.filterwarnings("ignore")]

NAME = "bart_tiny_en_g2p"
WORDS = ["onnx", "summarization", "banana", "a", "relationship", "through", "knight", "zebra"]


@dataclass
class Running:
    """An application that Ray serves."""

    url: str
    seconds_to_start: float

    def ask(self, prompt, **fields):
        """Status and body."""
        body = json.dumps({"model": NAME, "prompt": prompt, **fields}).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", body)
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def running():
    from ray import serve

    with ray_on_loopback():
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        began = time.monotonic()
        arguments = {"preset": NAME, "offline": "true", "replicas": "2", "cpus": "0.5"}
        serve.run(app(arguments))
        yield Running(f"http://127.0.0.1:{port}", time.monotonic() - began)
        serve.shutdown()


@pytest.fixture(scope="module")
def lm():
    return OnnxBartSeq2SeqLM.from_preset(NAME, offline=True, threads=1)


def texts_of(answer):
    status, body = answer
    assert status == 200, body
    return [choice["text"] for choice in json.loads(body)["choices"]]


def streamed(answer):
    """The text of a stream that ended well."""
    status, body = answer
    assert status == 200, body
    *events, done = re.findall("^data: (.*)$", body, re.MULTILINE)
    assert done == "[DONE]", body
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def both_there(timeout=180.0):
    """Seconds until Ray says that two replicas run."""
    from ray import serve

    began = time.monotonic()
    while time.monotonic() - began < timeout:
        states = serve.status().applications["default"].deployments["Replica"].replica_states
        if dict(states) == {"RUNNING": 2} and len(processes_of("Replica")) == 2:
            return time.monotonic() - began
        time.sleep(0.05)
    raise AssertionError(states)


def killed_in_the_middle(running, asked):
    """Answers, when one of two replicas is killed after the first few; how many came after that,
    and after how long there were two again.
    """
    both_there()
    victim = processes_of("Replica")[0]
    with ThreadPoolExecutor(24) as pool:
        under_way = [pool.submit(running.ask, prompt, **fields) for prompt, fields in asked]
        while sum(each.done() for each in under_way) < len(asked) // 8:
            time.sleep(0.001)
        os.kill(victim, signal.SIGKILL)
        left = sum(not each.done() for each in under_way)
        again = pool.submit(both_there)
        answers = [each.result() for each in under_way]
    assert left > len(asked) // 2
    return answers, left, again.result()


def test_answers_are_those_of_generate(running, lm):
    assert texts_of(running.ask(WORDS)) == lm.generate(WORDS, do_sample=False)
    assert texts_of(running.ask(WORDS, num_beams=4)) == lm.generate(WORDS, num_beams=4)
    assert streamed(running.ask("banana", stream=True)) == lm.generate("banana", do_sample=False)
    with urllib.request.urlopen(f"{running.url}/health/ready", timeout=10) as ready:
        assert ready.status == 200


def test_what_cannot_be_answered_keeps_its_form(running):
    status, body = running.ask("x", model="other")
    assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    assert running.ask("x", nonsense=1)[0] == 400
    status, body = running.ask("x" * (5 * 2**20))
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


def test_a_killed_replica_loses_nothing_that_was_accepted(running, lm, capsys):
    batches = [[f"{word}{number}" for word in WORDS] for number in range(80)]
    answers, left, seconds = killed_in_the_middle(
        running, [(batch, {"num_beams": 3}) for batch in batches]
    )
    expected = [lm.generate(batch, num_beams=3) for batch in batches]
    assert [texts_of(answer) for answer in answers] == expected
    with capsys.disabled():
        print(
            f"\nRay: 2 replicas up in {running.seconds_to_start:.1f} s; killed one with {left} of "
            f"{len(answers)} requests unanswered: all answered, 2 replicas again in {seconds:.1f} s"
        )


def test_a_killed_replica_breaks_no_stream(running, lm):
    words = [f"{word}{number}" for word in WORDS for number in range(16)]
    fields = {"stream": True, "max_tokens": 40, "min_tokens": 30}
    answers, *_ = killed_in_the_middle(running, [(word, fields) for word in words])
    expected = lm.generate(
        words, max_new_tokens=40, min_new_tokens=30, do_sample=False, speculate=False
    )
    assert [streamed(answer) for answer in answers] == expected


def test_a_client_that_leaves_frees_its_rows(running):
    import socket

    host, port = running.url.removeprefix("http://").split(":")
    body = json.dumps({"model": NAME, "prompt": WORDS * 4, "num_beams": 16, "min_tokens": 60})
    for _ in range(8):
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}"
            client.sendall(f"{head}\r\n\r\n{body}".encode())
            time.sleep(0.05)
    # What 8 such requests would take is far longer than this waits.
    began = time.monotonic()
    assert running.ask("onnx")[0] == 200
    gauges = []
    for _ in range(6):
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as metrics:
            found = metrics.read().decode()
        gauges += re.findall(r"^bart_onnx_(?:running|waiting)\{.*\} (.*)$", found, re.MULTILINE)
    assert set(gauges) == {"0.0"}
    assert time.monotonic() - began < 10


def test_the_configuration_that_ships_is_one_of_rays():
    import yaml
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    path = Path(__file__).resolve().parents[2] / "deploy" / "ray_serve.yaml"
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (found,) = schema.applications
    assert found.import_path == "bart_onnx.ray_serve:app"
    assert isinstance(app(found.args), Application)
