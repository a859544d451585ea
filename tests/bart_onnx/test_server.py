"""The server's application: what it answers, and what it says to what it cannot answer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from bart_onnx.errors import EngineError

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from fastapi.testclient import TestClient
from serving import NAME, OPTIONS, TurnsInThread, events_of

from bart_onnx.server import answering
from bart_onnx.server.app import create_app
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.logs import JsonLines
from bart_onnx.server.scheduler import Scheduler


def ask(client, prompt, **fields):
    return client.post("/v1/completions", json={"model": NAME, "prompt": prompt, **fields})


def texts_of(answer):
    assert answer.status_code == 200, answer.text
    return [choice["text"] for choice in answer.json()["choices"]]


def joined(events):
    """The text of each choice."""
    found = {}
    for event in events:
        for choice in json.loads(event)["choices"]:
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return [found[index] for index in sorted(found)]


ASKED = [
    ({}, {"do_sample": False}),
    ({"temperature": 0, "seed": 3, "top_p": 0.5}, {"num_beams": 1}),
    ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
    (
        {"num_beams": 3, "n": 2, "early_stopping": "never"},
        {"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never"},
    ),
    (
        {"temperature": 1.5, "seed": 4, "top_p": 0.9, "n": 3},
        {
            "do_sample": True,
            "temperature": 1.5,
            "seed": 4,
            "top_p": 0.9,
            "top_k": 0,
            "num_return_sequences": 3,
        },
    ),
    (
        {"max_tokens": 9, "min_tokens": 6, "repetition_penalty": 1.4},
        {"max_new_tokens": 9, "min_new_tokens": 6, "repetition_penalty": 1.4},
    ),
    ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
]


@pytest.mark.parametrize(("fields", "options"), ASKED)
@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_those_of_generate(client, served_lm, fields, options, stream):
    prompts = ["onnx", "summarization", "banana"]
    expected = served_lm.generate(prompts, speculate=False, **options)
    if isinstance(expected[0], list):
        expected = [text for several in expected for text in several]
    answer = ask(client, prompts, stream=stream, **fields)
    found = joined(events_of(answer)[:-1]) if stream else texts_of(answer)
    assert found == expected


def test_the_form_of_an_answer(client, served_lm):
    answer = ask(client, "summarization", logprobs=2)
    (result,) = served_lm.generate(
        ["summarization"], speculate=False, do_sample=False, return_dict=True, top_log_probs=2
    )
    found = answer.json()
    assert found["id"] == f"cmpl-{answer.headers['X-Request-Id']}"
    assert (found["object"], found["model"]) == ("text_completion", NAME)
    (choice,) = found["choices"]
    told = choice.pop("logprobs")
    assert choice == {
        "index": 0,
        "text": result.text,
        "finish_reason": "stop",
        "truncated": False,
    }
    assert told["token_logprobs"] == result.log_probs.tolist()
    assert (told["tokens"][0], told["tokens"][-1]) == ("<s>", "</s>")
    inner = "".join(told["tokens"][1:-1])
    assert inner == result.text
    assert told["text_offset"][1:] == [0, *(len(inner[:n]) for n in range(1, len(inner) + 1))]
    assert [max(place.values()) for place in told["top_logprobs"]] == pytest.approx(
        [max(place.values()) for place in result.top_log_probs]
    )
    completion = len(result.log_probs)
    assert found["usage"] == {
        "prompt_tokens": len(result.source_ids),
        "completion_tokens": completion,
        "total_tokens": len(result.source_ids) + completion,
    }
    ids = ask(client, result.source_ids.tolist())
    assert texts_of(ids) == [result.text]


def test_a_stream_grows_and_tells_its_usage(client, served_lm):
    whole = ask(client, "summarization", logprobs=0).json()
    fields = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": 0}
    answer = ask(client, "summarization", **fields)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    *chunks, usage, done = events_of(answer)
    assert done == "[DONE]"
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"] == whole["usage"]
    assert len(chunks) > 5
    last = json.loads(chunks[-1])["choices"][0]
    assert (last["finish_reason"], last["logprobs"]) == ("stop", whole["choices"][0]["logprobs"])
    assert all(json.loads(each)["choices"][0]["finish_reason"] is None for each in chunks[:-1])
    assert joined(chunks) == [whole["choices"][0]["text"]]


@pytest.mark.parametrize("stop", ["əz", ["zˈA", "əz"], "s", "never there"])
def test_stop_strings_end_a_text_and_are_not_in_it(client, served_lm, stop):
    whole = served_lm.generate("summarization", do_sample=False)
    ends = [whole.find(each) for each in ([stop] if isinstance(stop, str) else stop)]
    expected = whole[: min((end for end in ends if end >= 0), default=len(whole))]
    assert texts_of(ask(client, "summarization", stop=stop)) == [expected]
    streamed = ask(client, "summarization", stop=stop, stream=True)
    assert joined(events_of(streamed)[:-1]) == [expected]


def test_nothing_is_drawn_unasked_whatever_the_preset_says(client_of, served_lm):
    config = {**served_lm.generation_config, "do_sample": True, "temperature": 5.0}
    expected = served_lm.generate("summarization", do_sample=False)
    assert texts_of(ask(client_of(config), "summarization")) == [expected]


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_long_texts(client, served_lm):
    refused = ask(client, "x" * 80)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    answer = ask(client, ["x" * 80, "onnx"], long_input="truncate")
    assert [each["truncated"] for each in answer.json()["choices"]] == [True, False]
    expected = served_lm.generate(["x" * 80, "onnx"], long_input="truncate", do_sample=False)
    assert texts_of(answer) == expected
    assert answer.json()["usage"]["prompt_tokens"] == 64 + 6


def test_models_and_health(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == (NAME, "model")
    assert client.get(f"/openai/v1/models/{NAME}").json() == model
    assert client.get("/health/live").json() == {"live": True, "ready": True}
    assert client.get("/health/ready").json() == {"live": True, "ready": True}


BODY = {"model": NAME, "prompt": "x"}


@pytest.mark.parametrize(
    ("fields", "status", "param", "says"),
    [
        ({"model": "other"}, 404, "model", "There is no model 'other'"),
        ({"model": 3}, 400, "model", "valid string"),
        ({"prompt": []}, 400, "prompt", "holds nothing"),
        ({"prompt": [[1], []]}, 400, "prompt", "holds nothing"),
        ({"prompt": [True]}, 400, "prompt", ""),
        ({"prompt": ["x", 3]}, 400, "prompt", ""),
        ({"prompt": [-1]}, 400, "prompt", "greater than or equal to 0"),
        ({"prompt": [[1 << 70], [6]]}, 400, "prompt", "less than"),
        ({"prompt": [99_999]}, 400, None, "vocabulary"),
        ({"prompt": [5] * 65}, 400, None, "65 tokens"),
        ({"prompt": ["x"] * 33}, 400, "prompt", "33 prompts"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": True}, 400, "max_tokens", "valid integer"),
        ({"max_tokens": 2.0}, 400, "max_tokens", "valid integer"),
        ({"max_tokens": 64}, 400, "max_tokens", "max_tokens is 64"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"temperature": "1"}, 400, "temperature", "valid number"),
        ({"top_p": 0.5}, 400, "top_p", "add a temperature"),
        ({"n": 2}, 400, "n", "n=2, but greedy decoding has one answer"),
        ({"n": 2, "temperature": 0}, 400, "n", "set a temperature"),
        ({"n": 9, "temperature": 1}, 400, "n", "8 at most"),
        ({"num_beams": 9}, 400, "num_beams", "8 at most"),
        ({"n": 3, "num_beams": 2}, 400, "n", "raise num_beams"),
        ({"best_of": 2}, 400, "best_of", "must be n"),
        ({"echo": True}, 400, "echo", "not supported"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias", "not supported"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
        ({"logprobs": 6}, 400, "logprobs", "less than or equal to 5"),
        ({"stop": ["a"] * 5}, 400, "stop", ""),
        ({"stop": "a" * 65}, 400, "stop", ""),
        ({"stop": ""}, 400, "stop", ""),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "add stream"),
        ({"messages": []}, 400, "messages", "There is no such field"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_answered_is_named(client, fields, status, param, says):
    answer = client.post("/v1/completions", json={**BODY, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]",
        b"\xff",
        b"[" * 90_000,
        b'{"model": "m", "prompt": "\\ud800"}',
        b'{"model": "m", "prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "m", "prompt": "x", "temperature": NaN}',
        b'{"model": "m", "prompt": "x", "temperature": 1e999}',
        b'{"model": "m"}',
    ],
)
def test_bodies_that_are_no_request(client, body):
    answer = client.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_routes_that_are_not_there(client):
    for method, path, status, says in (
        ("GET", "/nowhere", 404, "There is no /nowhere"),
        ("GET", "/v1/completions", 405, "does not take GET"),
        ("POST", "/v1/chat/completions", 404, "does not chat"),
        ("GET", "/v1/models/other", 404, "There is no model"),
        ("GET", "/docs", 404, ""),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert says in answer.json()["error"]["message"]


def test_the_largest_body_and_no_larger(client):
    body = json.dumps(BODY).encode()
    fits = body + b" " * (OPTIONS.body_bytes - len(body))
    assert client.post("/v1/completions", content=fits).status_code == 200
    too_large = client.post("/v1/completions", content=fits + b" ")
    assert too_large.status_code == 413
    assert too_large.json()["error"]["code"] == "body_too_large"


def test_the_longest_text_and_no_longer(models):
    client = TestClient(create_app(models, replace(OPTIONS, characters=10)))
    assert ask(client, ["x" * 5, "y" * 5]).status_code == 200
    assert ask(client, ["x" * 5, "y" * 6]).status_code == 413


def test_every_route_but_health_asks_for_a_key(models):
    options = replace(OPTIONS, api_key=("first", "sécond"))
    client = TestClient(create_app(models, options))
    assert "first" not in repr(options)
    paths = ["/v1/models", "/metrics", "/nowhere", "/openai/v1/models", "/health/other"]
    for path in (*paths, "/v2", f"/v2/models/{NAME}/ready", "/v2/health/", f"/models/{NAME}"):
        for headers in ({}, {"Authorization": "Bearer FIRST"}, {"Authorization": "first"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "Send a key of this server" in answer.text
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
    assert ask(client, "x").status_code == 401
    for prefix in ("/health", "/v2/health"):
        assert client.get(f"{prefix}/live").status_code == 200
        assert client.get(f"{prefix}/ready").status_code == 200
    for key in ("first", "sécond"):
        headers = {"Authorization": f"Bearer {key}".encode()}
        assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id_1.x", True), ("a b", False), ("x" * 65, False)]
)
def test_request_ids(client, given, kept):
    answer = client.get("/nowhere", headers={"X-Request-Id": given})
    assert (answer.headers["X-Request-Id"] == given) == kept
    assert len(answer.headers["X-Request-Id"]) > 5


def test_a_full_queue_is_429_and_takes_none_of_a_request(by_hand):
    client = TestClient(create_app({NAME: by_hand}, OPTIONS))
    answer = ask(client, ["a", "b", "c"])
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    by_hand.scheduler.turn()
    assert by_hand.scheduler.load.waiting == by_hand.scheduler.load.running == 0


def test_a_closed_scheduler_is_503(by_hand):
    by_hand.scheduler.close()
    answer = ask(TestClient(create_app({NAME: by_hand}, OPTIONS)), "x")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


def test_a_server_that_closes_refuses_and_says_that_it_is_not_ready(models):
    lifetime = Lifetime()
    client = TestClient(create_app(models, OPTIONS, lifetime))
    lifetime.closing = True
    for answer in (ask(client, "x"), client.get("/v1/models"), client.get("/health/ready")):
        assert answer.status_code == 503
        assert answer.headers["Connection"] == "close"
        assert answer.headers["Retry-After"] == "5"
    assert client.get("/health/live").status_code == 200
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_late_request_is_504(served_lm, stream):
    with TurnsInThread(served_lm, seconds=100.0) as model:
        client = TestClient(create_app({NAME: model}, OPTIONS))
        answer = ask(client, "x", stream=stream)
    assert answer.status_code == 504
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("timeout_error", "deadline_exceeded")


@pytest.mark.parametrize("fields", [{}, {"num_beams": 2, "n": 2}])
def test_an_engine_that_hangs_is_504_too(by_hand, monkeypatch, fields):
    monkeypatch.setattr(answering, "_GRACE", 0.0)
    options = replace(OPTIONS, deadline=0.05)
    answer = ask(TestClient(create_app({NAME: by_hand}, options)), "x", **fields)
    assert answer.status_code == 504
    assert "The engine has not answered" in answer.json()["error"]["message"]


def test_what_cannot_be_decoded_is_422(client_of, served_lm):
    config = {
        **served_lm.generation_config,
        "suppress_tokens": list(range(served_lm.config.vocabulary_size)),
    }
    config.pop("forced_bos_token_id")
    answer = ask(client_of(config), "x")
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "not_decodable"


@pytest.mark.parametrize("error", [EngineError("secret text"), RuntimeError("secret text")])
def test_a_fault_of_the_server_tells_nothing_of_its_inside(models, monkeypatch, caplog, error):
    def failing(*given, **named):
        raise error

    monkeypatch.setattr(Scheduler, "submit", failing)
    with caplog.at_level(logging.INFO, "bart_onnx"):
        answer = ask(TestClient(create_app(models, OPTIONS)), "a text of a client")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    logged = [JsonLines().format(record) for record in caplog.records]
    assert any(json.loads(line).get("error") == type(error).__name__ for line in logged)
    assert not any("secret" in line or "a text of a client" in line for line in logged)


def test_figures(models):
    client = TestClient(create_app(models, OPTIONS))
    ask(client, ["onnx", "onnx"])
    ask(client, "x", n=0)
    client.get("/of/a/client")
    found = client.get("/metrics").text
    for line in (
        'bart_onnx_requests_total{route="/v1/completions",status="200"} 1.0',
        'bart_onnx_requests_total{route="/v1/completions",status="400"} 1.0',
        'bart_onnx_requests_total{route="unmatched",status="404"} 1.0',
        f'bart_onnx_prompt_tokens_total{{model="{NAME}"}} 12.0',
        f'bart_onnx_completion_tokens_total{{model="{NAME}"}} 14.0',
        f'bart_onnx_first_token_seconds_count{{model="{NAME}"}} 2.0',
        f'bart_onnx_waiting{{model="{NAME}"}} 0.0',
    ):
        assert f"\n{line}\n" in found
    without = TestClient(create_app(models, replace(OPTIONS, metrics=False)))
    assert without.get("/metrics").status_code == 404
