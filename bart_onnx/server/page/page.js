// Asks v1/completions and shows the text as it comes. What was not written here reaches the page as
// text only. Addresses are relative, since a proxy may put a prefix before them.

import { draw, forget, listen } from "./origins.js";

const at = (id) => document.getElementById(id);
const places = Object.fromEntries(["result", "source", "told"].map((id) => [id, at(id)]));
const KEY = "bart_onnx key";
const SHORT = 60; // characters, of both texts, that are shown larger
const WAYS = {
  preset: "As the preset’s own configuration says.",
  greedy: "The likeliest token at each step.",
  beams: "Several texts side by side; the best one wins.",
  drawn: "Tokens are drawn; the same seed draws the same text.",
};

const many = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;
const time = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

class Failure extends Error {
  constructor(status, told = {}, answer = null) {
    super(told.message ?? "");
    Object.assign(this, { status, code: told.code, param: told.param });
    this.retry = Number(answer?.headers.get("Retry-After"));
    this.request = answer?.headers.get("X-Request-Id");
  }

  // What happened and what to do, in a sentence or two.
  get words() {
    const again = this.retry ? `in ${many(this.retry, "second")}` : "in a while";
    if (this.code === "context_length_exceeded") {
      return "The text is longer than the model reads. Shorten it, or tick “Cut a text that is too long” under More options.";
    }
    switch (this.status) {
      case 0: return this.message || "The server cannot be reached. Is it still running?";
      case 413: return `The text is too long for this server. ${this.message}`;
      case 429: return `The server is busy. Ask again ${again}.`;
      case 503: return `The server is closing. Ask again ${again}.`;
      case 504: return "It took longer than this server allows. Ask for fewer tokens or beams.";
      case 500: return `The server failed at this request. Its log says why, under ${this.request}.`;
      default: return this.message || `The server answered with ${this.status}.`;
    }
  }
}

// Asking.

function gone(error) {
  throw error.name === "AbortError" ? error : new Failure(0);
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers };
  // A header holds bytes; fetch takes each as a character.
  if (key) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store" }).catch(gone);
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Failure(answer.status, told.error, answer);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read().catch(gone);
    if (done) throw new Failure(0, { message: "The connection ended before the text did. Ask again." });
    const whole = (held + value).split("\n\n");
    held = whole.pop();
    for (const event of whole.filter((each) => each.startsWith("data: "))) {
      if (event === "data: [DONE]") return;
      yield JSON.parse(event.slice(6));
    }
  }
}

const way = () => document.querySelector("[name=way]:checked").value;

function body() {
  const asked = { model: at("model").value, prompt: at("text").value, stream: true };
  asked.stream_options = { include_usage: true };
  if (!asked.prompt.trim()) throw new Failure(400, { message: "There is no text yet. Write one first.", param: "prompt" });
  if (at("alignments").checked) asked.alignments = true;
  if (at("truncate").checked) asked.long_input = "truncate";
  if (way() === "greedy") asked.temperature = 0;
  for (const input of document.querySelectorAll("#ask [type=number]:enabled")) {
    if (!input.checkValidity()) {
      const message = `${input.labels[0].textContent}: ${input.validationMessage}`;
      throw new Failure(400, { message, param: input.id });
    }
    if (input.value) asked[input.id] = input.valueAsNumber;
  }
  return asked;
}

// What is under way.

let running = null; // an AbortController

async function generate() {
  if (running) return;
  running = new AbortController();
  begin();
  try {
    if (!at("model").value) await loadModels();
    await write(body(), running.signal);
  } catch (error) {
    if (error.name === "AbortError") state("cancelled", "Cancelled");
    else fail(error);
  } finally {
    running = null;
    swap("generate", "cancel");
    at("result").ariaBusy = "false";
  }
}

async function write(asked, signal) {
  const began = performance.now();
  let text = "", first = 0, last = began, usage = null, choice = {};
  const headers = { "Content-Type": "application/json" };
  const answer = await ask("v1/completions", { method: "POST", headers, body: JSON.stringify(asked), signal });
  for await (const event of events(answer)) {
    if (event.error) throw new Failure(0, event.error, answer);
    usage = event.usage ?? usage;
    for (const each of event.choices) {
      if (each.finish_reason) choice = each;
      if (!each.text) continue;
      state("writing", "Writing …");
      last = performance.now();
      first ||= last - began;
      text += each.text;
      at("answer").classList.toggle("short", text.length + asked.prompt.length < SHORT);
      at("result").append(each.text);
    }
  }
  show(text, asked.prompt, choice, usage);
  at("first").textContent = text ? time(first) : "–";
  const speed = (1000 * usage.completion_tokens) / (last - began);
  at("speed").textContent = text ? speed.toFixed(speed < 10 ? 1 : 0) : "–";
  state("done", `Done in ${time(performance.now() - began)}`);
}

function show(text, source, choice, usage) {
  const drawn = draw(places, text, source, choice.alignments);
  const notes = [
    [choice.truncated, "Only the beginning of the source was read."],
    [choice.finish_reason === "length", "The text ends at the most tokens allowed."],
    [drawn.copied, "Underlined words are copied from the source."],
    [!text, "The model wrote nothing."],
  ];
  at("notes").textContent = notes.filter(([is]) => is).map(([, told]) => told).join(" ");
  at("read").textContent = many(usage.prompt_tokens, "token");
  at("written").textContent = many(usage.completion_tokens, "token");
  at("copying").hidden = drawn.words < 2;
  at("copied").textContent = `${drawn.copied.toLocaleString("en")} of ${many(drawn.words, "word")}`;
  at("figures").hidden = false;
  at("origin").hidden = !drawn.units;
}

function begin() {
  for (const id of ["error", "figures", "origin"]) at(id).hidden = true;
  for (const id of ["result", "source", "notes", "told"]) at(id).replaceChildren();
  for (const each of document.querySelectorAll("[aria-invalid]")) each.removeAttribute("aria-invalid");
  forget();
  at("result").ariaBusy = "true";
  state("reading", "Reading …");
  swap("cancel", "generate");
  // On a phone the result is below.
  if (at("answer").getBoundingClientRect().top > innerHeight) at("answer").scrollIntoView();
}

function state(name, told) {
  at("answer").dataset.state = name;
  at("status").textContent = told;
}

function fail(error) {
  const failure = error instanceof Failure ? error : new Failure(0, { message: `The page failed: ${error.message}` });
  if (failure !== error) console.error(error);
  state("failed", "");
  if (failure.status === 401) return askKey();
  at("error").textContent = failure.words;
  at("error").hidden = false;
  const field = at(failure.param === "prompt" ? "text" : failure.param ?? "");
  if (field?.matches("#ask *")) {
    field.ariaInvalid = "true";
    if (field.closest("details")) field.closest("details").open = true;
    // A keyboard on the screen would cover what was said.
    if (!matchMedia("(pointer: coarse)").matches) field.focus({ preventScroll: true });
  }
  at("error").scrollIntoView({ block: "nearest" });
}

// One of two buttons is there; it takes the focus of the other.
function swap(shown, hidden) {
  const focused = document.activeElement === at(hidden);
  at(shown).hidden = false;
  at(hidden).hidden = true;
  if (focused) at(shown).focus();
}

// Presets and keys.

async function loadModels() {
  const { data } = await (await ask("v1/models")).json();
  at("model").replaceChildren(...data.map(({ id }) => new Option(id)));
  at("model").disabled = false;
}

function askKey() {
  if (sessionStorage.getItem(KEY)) at("key-hint").textContent = "The server does not know that key. Try another.";
  sessionStorage.removeItem(KEY);
  at("key").hidden = false;
  at("secret").focus();
}

async function useKey() {
  sessionStorage.setItem(KEY, at("secret").value.trim());
  at("secret").value = "";
  at("error").hidden = true;
  try {
    await loadModels();
    at("key").hidden = true;
    state("empty", "");
    at("text").focus();
  } catch (error) {
    fail(error);
  }
}

// What the fields do.

function chooseWay() {
  at("way-hint").textContent = WAYS[way()];
  for (const field of document.querySelectorAll("[data-way]")) {
    field.hidden = field.dataset.way !== way();
    field.querySelector("input").disabled = field.hidden;
  }
}

function count() {
  at("count").textContent = many([...at("text").value].length, "character");
}

function submitted(id, act) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

submitted("ask", generate);
submitted("key", useKey);
at("cancel").addEventListener("click", () => running?.abort());
at("text").addEventListener("input", count);
for (const each of document.querySelectorAll("[name=way]")) each.addEventListener("change", chooseWay);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !at("key").contains(event.target)) generate();
});
listen(places);
chooseWay();
count();
loadModels().catch(fail);
