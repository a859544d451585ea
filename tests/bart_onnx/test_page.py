"""The page at `/`: its files, and what it does in Debian's Chromium."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
import uvicorn
from fastapi.testclient import TestClient

import bart_onnx.server
from bart_onnx.configured import ConfiguredCall
from bart_onnx.server.app import create_app
from bart_onnx.server.lifetime import Lifetime
from bart_onnx.server.limits import Limits
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.page import PAGE_PATHS
from bart_onnx.server.requests import Request
from bart_onnx.server.scheduler import Scheduler
from bart_onnx.server.served import ServedModel, close, opened

NAME, SLOW, FULL = "bart_tiny_en_g2p", "slow", "full"
OPTIONS = ServerOptions(preset=(NAME,), threads=1, offline=True, characters=2000)
FILES = Path(bart_onnx.server.__file__).parent / "page"
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WORD = "summarization"
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Gated:
    """A runner that takes as many steps as it is let: so long a text stands half written."""

    def __init__(self, runner):
        self._runner, self.steps = runner, 0
        self.shut()

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def shut(self):
        self._gate = threading.Semaphore(0)

    def let(self, steps):
        self._gate.release(steps)

    def step(self, *given):
        assert self._gate.acquire(timeout=60)
        self.steps += 1
        return self._runner.step(*given)


@pytest.fixture(scope="module")
def shipped():
    return opened(OPTIONS)


@pytest.fixture(scope="module")
def gate(shipped):
    return Gated(shipped[NAME].lm.runner)


@pytest.fixture
def gated(gate):
    gate.shut()
    return gate


@pytest.fixture(scope="module")
def models(shipped, gate):
    lm, found = shipped[NAME].lm, dict(shipped)
    found[SLOW] = ServedModel(SLOW, lm, Scheduler(gate))
    found[FULL] = ServedModel(FULL, lm, Scheduler(lm.runner, Limits(waiting=1), threaded=False))
    yield found
    close(found)


@pytest.fixture(scope="module")
def client(models):
    return TestClient(create_app(models, OPTIONS))


@contextmanager
def serving(app):
    """The address of an application that listens."""
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def lifetime():
    return Lifetime()


@pytest.fixture(scope="module")
def address(models, lifetime):
    with serving(create_app(models, OPTIONS, lifetime)) as found:
        yield found


# Its files.


def test_the_page_is_small_and_asks_nobody_else():
    contents = {path.name: path.read_text(encoding="utf-8") for path in FILES.iterdir()}
    assert sum(len(text.encode()) for text in contents.values()) < 30_000
    for name, text in contents.items():
        addresses = re.findall(r"(?:https?:)?//[a-z][^\s\"')]*", text)
        assert [each for each in addresses if "www.w3.org" not in each] == [], name
    parsers = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\("
    assert not re.search(parsers, str(contents))
    assert not re.search(r"\son\w+=|style=|<style|<script>|javascript:", contents["index.html"])
    assert re.search(r'<script src="page.js"', contents["index.html"])


@pytest.mark.parametrize("path", PAGE_PATHS)
def test_its_files_come_with_their_types_and_are_sent_once(client, path):
    answer = client.get(path)
    name = "index.html" if path == "/" else path[1:]
    assert answer.content == (FILES / name).read_bytes()
    assert answer.headers["Content-Type"].split(";")[0] == TYPES[name.rsplit(".", 1)[1]]
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == "'none'"
    assert not any("unsafe" in value or "*" in value or ":" in value for value in policy.values())
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    tag = answer.headers["ETag"]
    for known in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == tag
        assert "Content-Security-Policy" in again.headers
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", tag)
    assert client.post(path).status_code == 405


def test_it_needs_no_key_may_be_left_out_and_closes_with_the_server(models):
    keyed = TestClient(create_app(models, replace(OPTIONS, api_key=("secret",))))
    assert {keyed.get(path).status_code for path in PAGE_PATHS} == {200}
    other = ("/page", "/page/page.js", "/index.html")
    assert {keyed.get(path).status_code for path in other} == {401}
    without = TestClient(create_app(models, replace(OPTIONS, page=False)))
    assert {without.get(path).status_code for path in PAGE_PATHS} == {404}
    lifetime = Lifetime()
    lifetime.closing = True
    assert TestClient(create_app(models, OPTIONS, lifetime)).get("/").status_code == 503


# In a browser.


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not there")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; scripts/test installs Debian's where it may")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield found
        found.close()


# Violations of the page's policy are told as errors of its console.
LISTEN = """document.addEventListener("securitypolicyviolation",
    (event) => console.error(`policy: ${event.effectiveDirective}`));"""


@pytest.fixture
def visit(browser):
    """Opens addresses; whatever a page complains of, and the test does not say, is a failure."""
    contexts, complaints = [], []

    def opened_page(address, expected=None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.add_init_script(LISTEN)

        def complain(text):
            if expected is None or not re.search(expected, text):
                complaints.append(text)

        page.on("pageerror", lambda error: complain(str(error)))
        page.on(
            "console",
            lambda each: complain(each.text) if each.type in ("error", "warning") else None,
        )
        page.goto(address)
        return page

    yield opened_page
    for context in contexts:
        context.close()
    assert complaints == []


def generate(page, text, model=NAME, state="done"):
    page.locator("#model:enabled").select_option(model)
    page.fill("#text", text)
    page.click("#generate")
    page.wait_for_selector(f"#answer[data-state={state}]")


def text_of(page, selector):
    return page.locator(selector).text_content()


def lit(page):
    """What of the source is marked."""
    return page.locator("#source .lit").all_text_contents()


CANNED_SOURCE = "😀 The old bridge, built in 1821, was closed to cars. It will reopen in May."
CANNED = [("The old bridge", "The"), (" was", "was"), (" closed", "closed"), (" <b>😀</b>", "😀")]


def canned(page, written=CANNED, source=CANNED_SOURCE):
    """Let the page be answered with this: pieces, and words of the source that they looked at."""
    spans = [[source.index(word), source.index(word) + len(word)] for _, word in written]
    told = [
        {"text": text, "source": span, "weight": 0.5}
        for (text, _), span in zip(written, spans, strict=True)
    ]
    choice = {"index": 0, "finish_reason": None, "text": ""}
    events = [{"choices": [{**choice, "text": text}]} for text, _ in written]
    events.append({"choices": [{**choice, "finish_reason": "stop", "alignments": told}]})
    events.append({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 9}})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
    )


def test_a_text_is_generated_as_offline(visit, address, models):
    page = visit(address)
    generate(page, WORD)
    (result,) = models[NAME].lm.generate([WORD], do_sample=False, return_dict=True)
    assert text_of(page, "#result") == result.text
    assert text_of(page, "#status").startswith("Done in ")
    assert re.fullmatch(r"\d+ ms|\d\.\d s", text_of(page, "#first"))
    assert float(text_of(page, "#speed")) > 0
    assert text_of(page, "#read") == f"{len(result.source_ids)} tokens"
    assert text_of(page, "#written") == f"{len(result.log_probs)} tokens"
    assert page.locator("#result").get_attribute("aria-busy") == "false"
    # Each phoneme points at the letter that the library says.
    page.locator(".word").first.hover()
    assert lit(page) == ["s"]
    assert "looked most at “s”" in text_of(page, "#told")


@pytest.mark.parametrize(
    ("way", "fields", "options"),
    [
        ("greedy", {"max_tokens": "5"}, {"num_beams": 1, "max_new_tokens": 5}),
        (
            "beams",
            {"num_beams": "3", "length_penalty": "2.5", "min_tokens": "18"},
            {"num_beams": 3, "length_penalty": 2.5, "min_new_tokens": 18},
        ),
        (
            "drawn",
            {"temperature": "1.7", "top_p": "0.95", "seed": "7"},
            {"do_sample": True, "temperature": 1.7, "top_p": 0.95, "top_k": 0, "seed": 7},
        ),
    ],
)
def test_options_are_sent(visit, address, models, way, fields, options):
    page = visit(address)
    page.check(f"[value={way}]", force=True)
    page.click("summary")
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    generate(page, WORD)
    assert text_of(page, "#result") == models[NAME].lm.generate(WORD, **options)
    ends = "The text ends at the most tokens allowed." in text_of(page, "#notes")
    assert ends == ("max_tokens" in fields)


def test_the_text_grows(visit, address, models, gated):
    page = visit(address)
    gated.let(6)
    generate(page, WORD, SLOW, "writing")
    part = text_of(page, "#result")
    gated.let(1)
    wait_until(lambda: len(text_of(page, "#result")) > len(part))
    longer = text_of(page, "#result")
    assert longer.startswith(part)
    assert page.locator("#result").get_attribute("aria-busy") == "true"
    whole = models[NAME].lm.generate(WORD, do_sample=False)
    gated.let(len(whole))
    page.wait_for_selector("#answer[data-state=done]")
    assert text_of(page, "#result") == whole
    assert whole.startswith(longer)
    assert len(longer) < len(whole)


@pytest.mark.parametrize("how", ["button", "key"])
def test_what_is_cancelled_takes_no_further_step(visit, address, models, gated, lifetime, how):
    page, scheduler = visit(address), models[SLOW].scheduler
    gated.let(6)
    generate(page, WORD, SLOW, "writing")
    assert scheduler.load.running == 1
    page.click("#cancel") if how == "button" else page.keyboard.press("Escape")
    page.wait_for_selector("#answer[data-state=cancelled]")
    wait_until(lambda: lifetime.accepted == 0)  # the server knows
    before = gated.steps
    gated.let(1)  # the one that it was in
    wait_until(lambda: scheduler.load.running == scheduler.load.rows == 0)
    assert gated.steps == before + 1
    assert 0 < len(text_of(page, "#result")) < len(WORD)
    assert page.locator("#generate").is_visible()


def wait_until(holds):
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_errors_are_said_in_words(visit, address, models):
    page = visit(address, expected="Failed to load resource")
    error = page.locator("#error")
    generate(page, "x" * 80, state="failed")
    assert "longer than the model reads" in error.text_content()
    assert page.locator("#text").get_attribute("aria-invalid") == "true"
    page.click("summary")
    page.check("#truncate")
    page.click("#generate")
    page.wait_for_selector("#answer[data-state=done]")
    assert not error.is_visible()
    assert "Only the beginning" in text_of(page, "#notes")
    generate(page, "x" * 2001, state="failed")
    assert "too long for this server. The prompts have 2001 characters" in error.text_content()
    page.fill("#max_tokens", "70")
    generate(page, WORD, state="failed")
    assert error.text_content().startswith("max_tokens is 70")
    assert page.evaluate("document.activeElement.id") == "max_tokens"
    page.fill("#max_tokens", "1.5")
    page.click("#generate")
    assert error.text_content().startswith("Most tokens: ")
    page.fill("#max_tokens", "")
    generate(page, "  ", state="failed")
    assert error.text_content() == "There is no text yet. Write one first."
    ticket = waiting(models[FULL])
    generate(page, WORD, FULL, state="failed")
    assert error.text_content() == "The server is busy. Ask again in 1 second."
    ticket.cancel()
    page.route("**/v1/completions", lambda route: route.abort())
    generate(page, WORD, state="failed")
    assert error.text_content() == "The server cannot be reached. Is it still running?"


def waiting(model):
    """A request that fills a queue of one."""
    call = ConfiguredCall(model.lm.runner, model.lm.preprocessor, model.lm.by_config())
    return model.scheduler.submit(Request(call.plan(call.from_texts(["x"]))))


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ('data: {"error": {"message": "It was refused."}}\n\n', "It was refused."),
        ("", "The connection ended before the text did."),
    ],
)
def test_a_stream_that_breaks_off_is_told(visit, address, end, says):
    page = visit(address)
    body = 'data: {"choices": [{"index": 0, "text": "begun"}]}\n\n' + end
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
    )
    generate(page, WORD, state="failed")
    assert says in text_of(page, "#error")
    assert text_of(page, "#result") == "begun"


def test_a_key_is_asked_for_and_kept_in_the_tab_only(visit, models):
    options = replace(OPTIONS, api_key=("sécret",))
    with serving(create_app(models, options)) as address:
        page = visit(address, expected="401")
        page.wait_for_selector("#key:visible")
        assert page.evaluate("document.activeElement.id") == "secret"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-hint:has-text('does not know that key')")
        page.keyboard.type("sécret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key", state="hidden")
        generate(page, WORD)
        kept = "[Object.values(sessionStorage), localStorage.length, document.cookie]"
        assert page.evaluate(kept) == [["sécret"], 0, ""]
        assert "sécret" not in page.content()
        visit(address, expected="401").wait_for_selector("#key:visible")


def test_by_keyboard_alone(visit, address):
    page = visit(address)
    page.wait_for_selector("#model:enabled")
    stops = []
    for _ in range(6):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = "getComputedStyle({}).outlineStyle"
        shown = "document.activeElement.nextElementSibling ?? document.activeElement"
        if stops[-1] != "INPUT":  # of a choice the words beside it are marked
            shown = "document.activeElement"
        assert page.evaluate(outline.format(shown)) == "solid", stops
    assert stops == ["model", "text", "INPUT", "max_tokens", "SUMMARY", "generate"]
    page.focus("#text")
    page.keyboard.type(WORD)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answer[data-state=done]")
    page.focus("#generate")
    page.keyboard.press("Tab")
    assert lit(page) == ["s"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert text_of(page, ".word:focus") == text_of(page, "#result")[-1]
    assert lit(page) == ["n"]
    page.keyboard.press("Enter")
    assert page.locator(".word:focus").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "source"
    assert lit(page) == ["n"]  # what was chosen stays
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Home")
    assert page.evaluate("document.querySelectorAll('.word[tabindex=\"0\"]').length") == 1


def test_copied_words_and_what_words_looked_at(visit, address):
    page = visit(address)
    canned(page)
    generate(page, CANNED_SOURCE)
    written = "".join(text for text, _ in CANNED)
    # What came is text, whatever it looks like.
    assert text_of(page, "#result") == written
    assert page.locator("#result b").count() == 0
    assert page.locator("#result mark").all_text_contents() == ["The old bridge", "was closed"]
    assert text_of(page, "#copied") == "5 of 6 words"
    words = page.locator(".word")
    assert words.all_text_contents() == written.split()
    for number, expected in enumerate(["The", "The", "The", "was", "closed", "😀"]):
        words.nth(number).hover()
        assert lit(page) == [expected]
    page.locator("h1").hover()
    assert lit(page) == []
    assert text_of(page, "#told") == "Point at a word above, or Tab to it."
    words.nth(4).focus()
    assert lit(page) == ["closed"]
    assert text_of(page, "#told") == "“closed” looked most at “closed”"
    page.focus("#text")
    assert lit(page) == []


def overflow(page):
    """How much wider than the screen the page is."""
    width = page.evaluate("document.documentElement.scrollWidth")
    return width - page.viewport_size["width"]


def test_on_a_phone(visit, address):
    page = visit(address, expected="Failed to load resource", **PHONE)
    page.wait_for_selector("#model:enabled")
    assert overflow(page) == 0
    for way in ("beams", "drawn"):
        page.check(f"[value={way}]", force=True)
        assert overflow(page) == 0
    page.locator("summary").tap()
    sizes = "each => each.map((one) => one.getBoundingClientRect().height)"
    tapped = "select, textarea, input[type=number]:visible, button:visible, .choice span"
    assert min(page.locator(tapped).evaluate_all(sizes)) >= 40
    generate(page, WORD)
    page.locator(".word").first.tap()
    assert lit(page) == ["s"]
    page.locator("#status").tap()
    assert lit(page) == ["s"]  # there is no pointer to leave it
    assert overflow(page) == 0
    page.check("[value=preset]", force=True)
    generate(page, "w" * 1999, state="failed")
    assert overflow(page) == 0
    canned(page, [("w" * 300, "The"), (" end", "May")])
    generate(page, CANNED_SOURCE)
    assert overflow(page) == 0


# Of each text that is seen: WCAG 2.2's contrast between its colour and what is behind it.
CONTRASTS = """(selectors) => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => channels(colour).slice(0, 3)
    .map((each) => each / 255)
    .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return (channels(colour)[3] ?? 1) > 0 ? colour : behind(node.parentElement);
  };
  return selectors.map((selector) => {
    const node = document.querySelector(selector);
    const both = [getComputedStyle(node).color, behind(node)].map(light);
    const [dark, bright] = both.sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  });
}"""
SEEN = ("h1", "header p", "label", ".hint", "#text", "summary", "#generate", "kbd", "#status", "h2")
SEEN += (".choice :checked + span", ".choice :not(:checked) + span", ".lit", ".word", "dt", "dd")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(visit, address, scheme):
    page = visit(address, expected="Failed to load resource", color_scheme=scheme)
    generate(page, WORD)
    page.locator(".word").first.hover()
    found = dict(zip(SEEN, page.evaluate(CONTRASTS, list(SEEN)), strict=True))
    assert min(found.values()) >= 4.5, found
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 380) == (scheme == "light")
    generate(page, "x" * 80, state="failed")
    (contrast,) = page.evaluate(CONTRASTS, ["#error"])
    assert contrast >= 4.5


def test_the_policy_is_in_force(visit, address):
    page = visit(address, expected="policy: |Content Security|TrustedHTML")
    told = []
    page.on("console", lambda message: told.append(message.text))
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://localhost/x'}))")
    page.evaluate("try { document.body.innerHTML = '<b>' } catch (error) { console.log(error) }")
    page.wait_for_selector("#model:enabled")
    assert {"policy: img-src", "policy: require-trusted-types-for"} <= set(told)
    assert page.locator("#ask").count() == 1
