// The page: its head, its keys, and going to another step.
function change(changes) {
  const mark = focusMark(document.activeElement ?? document.body);
  Object.assign(state, changes);
  showStep();
  if (mark) document.querySelector(mark)?.focus();
}

// What was focused before its part of the page was built anew.
function focusMark(element) {
  if (element.id) return "#" + element.id;
  for (const name of ["memory", "head"]) {
    if (element.dataset[name]) return "[data-" + name + '="' + Number(element.dataset[name]) + '"]';
  }
  const parent = element.parentElement;
  if (!parent || !parent.id) return null;
  return "#" + parent.id + " > :nth-child(" + (Array.from(parent.children).indexOf(element) + 1) + ")";
}

function seek(place) {
  if (!count) return;
  const to = Math.max(0, Math.min(count - 1, place));
  if (to === state.place) return;
  change({ place: to, chosen: -1 });
}

// To a step by its number in this episode, or the nearest told.
function jump(t) {
  const near = (i) => Math.abs(steps.t[i] - t) + (steps.episode[i] === steps.episode[state.place] ? 0 : 1e9);
  let to = state.place;
  for (let i = 0; i < count; i += 1) if (near(i) < near(to)) to = i;
  seek(to);
}

let spoken = 0;
function showStep() {
  if (!count) {
    $("sentence").textContent = say("no_steps");
    return;
  }
  const step = stepAt(state.place);
  showSeen(step);
  showDecision(step);
  showPast(step);
  showPlace(step);
  if (BY_STEP.includes(state.tab)) fillTab();
  clearTimeout(spoken);
  if (!state.playing) {
    spoken = setTimeout(() => { $("live").textContent = say("step_n",
      { n: whole(step.t) }) + ": " + sentenceOf(step); }, 300);
  }
}

function showHead() {
  const { meta } = data;
  $("env").textContent = meta.env;
  $("agent").textContent = meta.agent;
  const list = Array.from(returns);
  const shown = list.slice(0, 6).map(show).join(", ") + (list.length > 6 ? ", \u2026" : "");
  const rows = [[list.length > 1 ? "returns" : "return", shown || "\u2013"], ["steps", whole(count)],
    ["trained", whole(meta.trained)], ["checkpoint", meta.checkpoint], ["seed", meta.seed]];
  $("meta").replaceChildren(...rows.map(([word, text]) => box("", make("dt", { text: say(word) }), make("dd",
    { text }))));
  $("badges").replaceChildren(span("badges-title", say("faithfulness")),
    ...(data.faithful.length ? data.faithful.map(badge) : [span("badge unknown", say("not_measured"))]));
  $("notes").replaceChildren(...meta.notes.map((text) => make("li", { text: term(text) })));
}

const SIGNS = { above: "\u2713", around: "?", below: "\u2717", unknown: "\u2013" };

function badge(each) {
  const stand = standing(each);
  return make("button", { class: "badge " + stand, click: () => openTab("faithfulness") },
    span("sign", SIGNS[stand], HIDDEN),
    span("name", say("of_" + each.what)),
    span("number", each.score === null ? say("not_measured") : show(each.score)),
    span("quiet", between(each.interval)),
    span("quiet", term(each.verdict)));
}

function speak() {
  document.documentElement.lang = state.language;
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.title = element.ariaLabel = say(element.dataset.label);
  }
  $("language").textContent = say("other_language");
  $("language").lang = state.language === "en" ? "zh" : "en";
  $("language").ariaLabel = say("other_language");
  showHead();
  showTimeline();
  showMoments();
  showTabs();
  showPlaying();
  showHelp();
  showStep();
}

function showHelp() {
  const close = make("button", { text: say("close"), click: () => $("help").close() });
  $("help").replaceChildren(make("h2", { id: "help-title", text: say("help") }),
    table([say("key"), say("does")], languages[state.language].keys),
    remark("help_more"), close);
}

function showPlaying() {
  const label = say(state.playing ? "pause" : "play");
  $("play").setAttribute("aria-label", label);
  $("play").title = label;
  $("play").dataset.playing = String(Boolean(state.playing));
}

const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
function play(on) {
  clearInterval(state.playing);
  state.playing = 0;
  if (on && count > 1) {
    if (state.place === count - 1) change({ place: 0, chosen: -1 });
    const by = Number($("speed").value);
    // For those who asked for less motion.
    const wait = calm.matches ? 500 : Math.max(60, 240 / by);
    const each = calm.matches ? 1 : Math.max(1, Math.round(by / 4));
    state.playing = setInterval(() => {
      seek(state.place + each);
      if (state.place >= count - 1) play(false);
    }, wait);
  }
  showPlaying();
  if (!state.playing) showStep();
}

function nextMoment() {
  const places = data.moments.map((moment) => moment.place);
  if (places.length) seek(places.find((place) => place > state.place) ?? places[0]);
}

function focusMemories() {
  const first = $("past").querySelector("button");
  (first ?? $("past")).focus();
}

const PRESSED = {
  ArrowLeft: (event) => seek(state.place - (event.shiftKey ? 10 : 1)),
  ArrowRight: (event) => seek(state.place + (event.shiftKey ? 10 : 1)),
  Home: () => seek(0),
  End: () => seek(count - 1),
  " ": () => play(!state.playing),
  k: nextMoment,
  m: focusMemories,
  n: () => change({ noMemory: !state.noMemory, chosen: -1 }),
  Escape: () => change({ chosen: -1, noMemory: false }),
  "?": () => $("help").showModal(),
};

const MOVES = ["ArrowLeft", "ArrowRight", "Home", "End", " "];
// Which keys an element needs for itself.
function own(element, key) {
  if ($("help").open) return true;
  if (element.id === "seek") return !MOVES.includes(key);
  if (element.matches("input, select, textarea")) return true;
  if (element.matches("button, summary, a")) return key === " ";
  return element.matches(".scroll") && MOVES.includes(key);
}

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  const target = event.target instanceof Element ? event.target : document.body;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (own(target, key)) return;
  if (/^[0-9]$/.test(key)) {
    const heads = count ? stepAt(state.place).attention.length : 0;
    if (Number(key) <= heads) change({ head: Number(key) - 1 });
  } else if (PRESSED[key]) PRESSED[key](event);
  else return;
  event.preventDefault();
}

// Arrows go from tab to tab while one has the focus.
function pressedOnTab(event) {
  const here = TABS.indexOf(state.tab);
  const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: TABS.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  openTab(TABS[(to + TABS.length) % TABS.length]);
}

// Where the page opens: the step its address asks for, else the first key moment.
function opening() {
  const asked = /^#step=(\d{1,9})$/.exec(window.location.hash);
  if (asked) return Math.min(count - 1, Number(asked[1]));
  return data.moments.length ? data.moments[0].place : 0;
}

function start() {
  if (/^zh\b/.test(navigator.language || "")) state.language = "zh";
  if (!languages[state.language]) state.language = "en";
  state.place = count ? Math.max(0, opening()) : 0;
  if (!readAny) state.tab = data.faithful.length ? "faithfulness" : "episode";
  $("app").hidden = false;
  $("seek").max = String(Math.max(0, count - 1));
  for (const id of ["first", "back", "play", "next", "last", "seek", "jump", "speed"]) $(id).disabled = count < 2;
  speak();
  startTimeline();
  const clicks = {
    first: PRESSED.Home, back: PRESSED.ArrowLeft, next: PRESSED.ArrowRight, last: PRESSED.End,
    play: PRESSED[" "], "help-open": PRESSED["?"],
    language: () => { state.language = state.language === "en" ? "zh" : "en"; speak(); },
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  $("seek").addEventListener("input", () => seek(Number($("seek").value)));
  $("jump").addEventListener("change", () => {
    jump($("jump").valueAsNumber);
    $("jump").value = steps.t[state.place];
  });
  $("speed").addEventListener("change", () => state.playing && play(true));
  $("tabs").addEventListener("keydown", pressedOnTab);
  document.addEventListener("keydown", pressed);
  window.addEventListener("resize", () => count && showSeen(stepAt(state.place)));
  document.documentElement.dataset.ready = "true";
}

start();
