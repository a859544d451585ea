// Where the words of a text came from: copied from the source, or written while looking at some of it.
// It draws both, and lights up what a word looked at. It asks nobody.

const SHORTEST_RUN = 2; // words in a row; one alone stands in most sources anyway

const HINT = matchMedia("(pointer: coarse)").matches ? "Tap a word above." : "Point at a word above, or Tab to it.";

const origins = new WeakMap(); // of each button: elements of the source, and a sentence
let lit = null, pinned = null; // buttons

function words(text) {
  return [...text.matchAll(/\S+/gu)].map(({ 0: word, index }) => ({
    start: index,
    end: index + word.length,
    key: word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "") || word,
  }));
}

// Stretches of words that stand in the source in the same sequence, the longest from each on.
function copiedRuns(own, theirs) {
  const places = new Map(), runs = [];
  theirs.forEach(({ key }, place) => places.get(key)?.push(place) ?? places.set(key, [place]));
  for (let i = 0, longest; i < own.length; i += longest) {
    longest = 1;
    for (const place of places.get(own[i].key) ?? []) {
      let length = 1;
      while (i + length < own.length && theirs[place + length]?.key === own[i + length].key) length += 1;
      longest = Math.max(longest, length);
    }
    if (longest >= SHORTEST_RUN) runs.push({ start: own[i].start, end: own[i + longest - 1].end, words: longest });
  }
  return runs;
}

// The pieces of a text with the stretch of the source that each looked at. The server counts
// characters; here one is one or two units of UTF-16.
function placed(alignments, source) {
  const index = [0];
  for (const character of source) index.push(index.at(-1) + character.length);
  let end = 0;
  return alignments.map(({ text, source: span, weight }) => {
    const start = end;
    end += text.length;
    return { start, end, weight, blank: !text.trim(), from: span && { start: index[span[0]], end: index[span[1]] } };
  });
}

const overlap = (a, b) => a.start < b.end && b.start < a.end;

// What can be pointed at, and what of the source: words, or pieces of a text that is one word.
function pairs(own, theirs, pieces) {
  const useful = pieces.filter(({ blank, from }) => from && !blank);
  if (own.length < 2) return useful.map((piece) => ({ ...piece, looked: [piece.from] }));
  return own.map((word) => {
    const spans = useful.filter((piece) => overlap(piece, word)).map(({ from }) => from);
    return { ...word, looked: theirs.filter((each) => spans.some((span) => overlap(span, each))) };
  }).filter(({ looked }) => looked.length);
}

// A stretch of a text as nodes: some parts of it as elements, what is between as it is.
function nodes(text, parts, make, start = 0, end = text.length) {
  const found = [];
  for (const part of parts.filter((each) => each.start >= start && each.end <= end)) {
    found.push(text.slice(start, part.start), make(part));
    start = part.end;
  }
  return [...found, text.slice(start, end)];
}

function element(name, ...inside) {
  const made = document.createElement(name);
  made.append(...inside);
  return made;
}

// Draws text and source. Returns how many words there are, copied ones, and ones to point at.
export function draw(places, text, source, alignments) {
  const own = words(text), theirs = words(source), runs = copiedRuns(own, theirs);
  const units = alignments ? pairs(own, theirs, placed(alignments, source)) : [];
  const looked = new Map(units.flatMap((unit) => unit.looked.map((part) => [part.start, part])));
  const spans = new Map();
  const span = (part) => {
    spans.set(part.start, element("span", source.slice(part.start, part.end)));
    return spans.get(part.start);
  };
  const button = (unit) => {
    const made = element("button", text.slice(unit.start, unit.end));
    Object.assign(made, { type: "button", className: "word", tabIndex: -1, ariaPressed: "false" });
    const from = unit.looked.map(({ start, end }) => `“${source.slice(start, end)}”`).join(", ");
    const share = unit.weight ? ` (${Math.round(100 * unit.weight)} % of its attention)` : "";
    const told = `“${made.textContent}” looked most at ${from}${share}`;
    origins.set(made, { told, spans: unit.looked.map(({ start }) => spans.get(start)) });
    return made;
  };
  places.source.replaceChildren(...nodes(source, [...looked.values()].sort((a, b) => a.start - b.start), span));
  const drawn = [];
  let end = 0;
  for (const run of runs) {
    drawn.push(...nodes(text, units, button, end, run.start));
    drawn.push(element("mark", ...nodes(text, units, button, run.start, run.end)));
    end = run.end;
  }
  places.result.replaceChildren(...drawn, ...nodes(text, units, button, end));
  places.told.textContent = HINT;
  const first = places.result.querySelector(".word");
  if (first) first.tabIndex = 0;
  return { words: own.length, copied: runs.reduce((sum, run) => sum + run.words, 0), units: units.length };
}

export function forget() {
  lit = pinned = null;
}

// Pointing, tapping, and the keyboard: Tab reaches one word, arrow keys the others.
export function listen(places) {
  const light = (word) => {
    for (const each of origins.get(lit)?.spans ?? []) each.className = "";
    lit = word;
    const { spans = [], told = HINT } = origins.get(word) ?? {};
    for (const each of spans) each.className = "lit";
    places.told.textContent = told;
    if (spans.length) reveal(places.source, spans[0]);
  };
  const pin = (word) => {
    if (pinned) pinned.ariaPressed = "false";
    pinned = pinned === word ? null : word;
    if (pinned) pinned.ariaPressed = "true";
    light(pinned ?? word);
  };
  const word = (event) => event.target.closest?.(".word");
  places.result.addEventListener("pointerover", (event) => word(event) && light(word(event)));
  places.result.addEventListener("pointerleave", () => light(pinned));
  places.result.addEventListener("focusin", (event) => light(word(event)));
  places.result.addEventListener("focusout", () => light(pinned));
  places.result.addEventListener("click", (event) => word(event) && pin(word(event)));
  places.result.addEventListener("keydown", (event) => {
    const all = [...places.result.querySelectorAll(".word")], now = all.indexOf(word(event));
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
    if (now < 0 || !all[to]) return;
    event.preventDefault();
    all[now].tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
}

// Scrolls the box, and never the page.
function reveal(box, inside) {
  const above = inside.offsetTop < box.scrollTop;
  const below = inside.offsetTop + inside.offsetHeight > box.scrollTop + box.clientHeight;
  if (above || below) box.scrollTop = inside.offsetTop - box.clientHeight / 3;
}
