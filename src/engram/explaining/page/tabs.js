// Behind the first screen.
const TABS = ["health", "faithfulness", "heads", "episode", "recall", "about"];
const FILLED = {
  health: showHealth, faithfulness: showFaithfulness, heads: showHeads, episode: showEpisode, recall: showRecall,
  about: showAbout,
};
const BY_STEP = ["heads", "episode", "recall"];
const ROWS = 50;

function showTabs() {
  $("tabs").replaceChildren(...TABS.map((name) => make("button", {
    role: "tab", id: "tab-" + name, text: say("tab_" + name), "aria-controls": "tab-panel",
    "aria-selected": name === state.tab, tabindex: name === state.tab ? "0" : "-1", click: () => openTab(name),
  })));
  openTab(state.tab, true);
}

function openTab(name, quiet = false) {
  state.tab = name;
  for (const tab of $("tabs").children) {
    const here = tab.id === "tab-" + name;
    tab.setAttribute("aria-selected", String(here));
    tab.tabIndex = here ? 0 : -1;
    if (here && !quiet) tab.focus();
  }
  $("tab-panel").setAttribute("aria-labelledby", "tab-" + name);
  fillTab();
}

function fillTab() {
  const step = count ? stepAt(state.place) : null;
  const needed = BY_STEP.includes(state.tab) && !step;
  $("tab-panel").replaceChildren(...(needed ? [remark("no_steps")] : FILLED[state.tab](step)));
}

// ---- memory health
const LIGHTS = { good: "\u25cf", look: "\u25b2", bad: "\u25a0" };

function showHealth() {
  const health = data.health;
  if (!health) return [remark("no_memory")];
  const share = percent(health.capacity ? health.entries / health.capacity : 0);
  const fill = remark("fill", { n: whole(health.entries), capacity: whole(health.capacity), share });
  const lights = make("ul", { class: "lights" }, ...health.lights.map((light) => make("li", { class: light.state },
    span("lamp", LIGHTS[light.state] ?? "\u25cb", HIDDEN),
    span("name", term(light.name)), span("number", light.value),
    span("judged", say("light_" + light.state)),
    span("quiet", term(light.rule)))));
  const effective = column(health.effective);
  return [fill, health.lights.length ? lights : remark("no_lights"),
    box("charts", histogram(column(health.ages), "ages", say("writes")),
      histogram(column(health.reads), "read_counts", say("attention_received")),
      effective.length ? overSteps(effective, "effective") : null)];
}

const chart = (...shapes) => vector("svg",
  { viewBox: "0 0 300 60", preserveAspectRatio: "none", class: "line-chart", ...HIDDEN }, ...shapes);

function overSteps(values, title) {
  const [low, high] = range(values, [0]);
  const y = (value) => 58 - 54 * (value - low) / (high - low);
  const x = (place) => (values.length < 2 ? 150 : 300 * place / (values.length - 1));
  const art = chart(vector("path", { class: "line value", d: trace(values, x, y, 300) }));
  return box("", heading(title), art, box("ends", span("", show(low) + " \u2013 " + show(high))));
}

// ---- faithfulness
const CURVES = ["ours", "random", "least", "oracle"];

// Above, around or below chance, by the interval alone.
function standing(each) {
  if (!each.interval || each.score === null) return "unknown";
  if (each.interval[0] > 0) return "above";
  return each.interval[1] < 0 ? "below" : "around";
}

const between = (pair) => (pair?.every(Number.isFinite) ? "[" + pair.map(show).join(", ") + "]" : "");

function showFaithfulness() {
  if (!data.faithful.length) return [remark("faithfulness_off")];
  return [remark("faithfulness_means"), ...data.faithful.map((each) => {
    const line = (word, beside, write = show) => [say(word), each[word] === null ? say("not_measured")
      : write(each[word]), beside];
    const rows = [line("score", between(each.interval)), line("agreement", between(each.agreement_interval)),
      line("shuffled", say("near_zero")), line("reinitialised", say("near_zero")),
      line("flips", say("of_steps", { n: whole(each.samples) }), percent)];
    return make("section", { class: "faithful " + standing(each) }, heading("of_" + each.what),
      make("p", {}, make("strong", { text: term(each.verdict) })),
      box("charts",
        table([say("measure"), say("number"), say("interval")], rows), ...each.curves.map(curve)),
      ...each.notes.map((text) => note(term(text))));
  }), ...editedWorlds()];
}

// One thing of the task is another: does the choice change, and was it named first?
function editedWorlds() {
  if (!data.worlds.length) return [];
  const rows = data.worlds.map((one) => [one.edit, whole(one.episode) + " \u00b7 " + whole(one.step), whole(one.asked),
    actionName(one.before, -1), actionName(one.after, -1), one.first + (one.named ? " \u2713" : " \u2717")]);
  const names = ["edit", "edited_at", "asked_at", "chose_before", "chose_after", "named_first"];
  return [make("section", { class: "faithful" }, heading("worlds"), remark("worlds_mean"),
    table(names.map((word) => say(word)), rows))];
}

function curve(each) {
  const lists = CURVES.map((name) => each[name]);
  const bounds = each.random_interval.flat().filter((value) => value !== null);
  const [low, high] = range(lists.flat().map((value) => value ?? NaN), bounds.concat([0, 1]));
  const last = Math.max(1, each.sizes.length - 1);
  const x = (i) => 8 + 284 * i / last;
  const y = (value) => 126 - 116 * (value - low) / (high - low);
  const art = vector("svg", { viewBox: "0 0 300 134", class: "curve", ...HIDDEN });
  art.append(segment("zero", 0, y(0), 300, y(0)));
  const band = each.random_interval.map((pair, i) => [i, pair]).filter(([, pair]) => pair && !pair.includes(null));
  if (band.length > 1) {
    const edge = (side) => band.map(([i, pair]) => x(i).toFixed(1) + " " + y(pair[side]).toFixed(1));
    art.append(vector("path", { class: "band", d: "M" + edge(1).concat(edge(0).reverse()).join("L") + "z" }));
  }
  for (const name of [...CURVES].reverse()) {
    art.append(vector("path", { class: "line " + name, d: trace(each[name].map((value) => value ?? NaN), x, y, 1e6) }));
  }
  const key = make("ul", { class: "legend" }, make("li", { text: say("axis", { low: show(low), high: show(high) }) }),
    ...CURVES.map((name) => make("li", {},
    span("key " + name, "", HIDDEN), say("curve_" + name))));
  const rows = each.sizes.map((size, i) => [whole(size), ...lists.map((list) => show(list[i]))]);
  const title = say("way_" + each.way, { what: say("of_" + each.what) });
  return make("figure", {}, make("figcaption", { text: title }), art,
    box("ends", ...each.sizes.map((size) => span("", whole(size)))), key,
    folded(say("as_table"), table([say("how_many"), ...CURVES.map((name) => say("curve_" + name))], rows)));
}

// ---- heads
function showHeads(step) {
  if (!step.attention.length) return [remark(step.kept ? "no_attention" : "not_kept")];
  const boxed = step.picture >= 0 && step.parts.some((part) => part.box);
  return [remark("heads_mean"), box("heads", ...step.attention.map((weights, head) => {
    const entropy = weights.reduce((sum, weight) => sum - (weight > 0 ? weight * Math.log(weight) : 0), 0);
    return make("button", { class: "head", "aria-pressed": state.head === head, click: () => change({ head }) },
      make("strong", { text: say("head_number", { n: head + 1 }) }), boxed ? stageOf(step, weights) : null,
      span("", foremost(step, weights)),
      span("quiet", say("parts_in_effect", { n: show(Math.exp(entropy)) })));
  }))];
}

// ---- every step
function showEpisode(step) {
  const words = ["place", "episode", "step", "action", "reward", "value", "margin", "from_memories"];
  const head = make("tr", {}, ...words.map((word) => say(word)).concat(actions.map((_, i) => actionName(i, -1)))
    .map((text) => make("th", { scope: "col", text })));
  const from = Math.floor(step.place / ROWS) * ROWS;
  const until = Math.min(count, from + ROWS);
  const turn = (to, word) => make("button", {
    class: "small", text: say(word), disabled: to < 0 || to >= count, click: () => seek(to),
  });
  return [box("row", turn(from - ROWS, "page_back"), span("", whole(from + 1) + " \u2013 " + whole(until)),
    turn(until, "page_on"), ...downloads()),
  make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("tab_episode") },
    make("table", { class: "steps" }, make("thead", {}, head),
      make("tbody", {}, ...Array.from({ length: until - from }, (_, i) => episodeLine(from + i)))))];
}

function episodeLine(i) {
  const marks = [steps.terminated[i] && say("terminated"), steps.truncated[i] && say("truncated")].filter(Boolean);
  const cells = [whole(steps.episode[i]), whole(steps.t[i]),
    [actionName(steps.action[i], i), ...marks].join(" \u00b7 "),
    signed(steps.reward[i]), show(steps.value[i]), show(steps.margin[i]), signed(steps.from_memories[i]),
    ...row(tables.preference, i).map(show)];
  const go = make("button", { class: "link", text: whole(i + 1), click: () => seek(i) });
  return make("tr", { "aria-current": i === state.place ? "true" : null }, make("th", { scope: "row" }, go),
    ...cells.map((text, k) => make("td", { text, class: k - 7 === steps.action[i] ? "is-chosen" : null })));
}

// ---- recall
function showRecall(step) {
  if (!recallsAny) return [remark("no_working_memory")];
  if (!step.kept) return [remark("not_kept")];
  return [remark("recall_means"), box("charts",
    pastSteps(step, step.recalled, "recalled", percent), pastSteps(step, step.still_moves, "still_moves", show))];
}

function pastSteps(step, pairs, word, write) {
  if (!pairs.length) return box("", heading(word), remark("nothing_recalled"));
  const greatest = Math.max(1e-12, ...finite(pairs.map(([, weight]) => Math.abs(weight))));
  const last = Math.max(1, step.t);
  const art = chart();
  for (const [t, weight] of pairs) {
    const x = 300 * t / last;
    if (Number.isFinite(weight)) art.append(segment("stem", x, 58, x, 58 - 54 * Math.abs(weight) / greatest));
  }
  const list = ordered("attended", ...order(pairs.map(([, weight]) => weight)).slice(0, 8).map((k) => {
    const [t, weight] = pairs[k];
    const place = step.place - step.t + t;
    const same = place >= 0 && place < count && steps.t[place] === t && steps.episode[place] === step.episode;
    return make("li", {},
      same ? make("button", { class: "link name", text: say("step_n", { n: whole(t) }), click: () => seek(place) })
        : span("name", say("step_n", { n: whole(t) })),
      span("what", same ? actionName(steps.action[place], place) : ""),
      bar(0, Math.abs(weight) / greatest, "look"), span("number", write(weight)));
  }));
  return box("", heading(word), art, box("ends",
    span("", say("step_n", { n: 0 })), span("", say("now_step", { n: whole(step.t) }))), list);
}

// ---- about
function showAbout() {
  const list = (items) => make("ul", { class: "plain" }, ...items.map((text) => make("li", { text })));
  const { meta } = data;
  const versions = Object.entries(meta.versions);
  return [box("charts",
    box("", heading("can_show"), list(languages[state.language].can)),
    box("", heading("cannot_show"), list(languages[state.language].cannot)),
    box("", heading("holds"), meta.holds.length ? list(meta.holds.map(term)) : remark("holds_nothing"),
      data.images.lossy ? remark("lossy") : null,
      meta.notes.length ? list(meta.notes.map(term)) : null),
    box("", heading("versions"),
      versions.length ? table([say("package"), say("version")], versions) : remark("no_number"),
      heading("downloads"), box("row", ...downloads())))];
}

// Everything shown, as files; a frame of a notebook may not download, so there it offers none.
function downloads() {
  if (window.self !== window.top) return [];
  const button = (word, name, kind, text) => make("button", {
    class: "small", text: say(word), "data-download": name, click: () => save(name, kind, text()),
  });
  return [button("csv_steps", "steps.csv", "text/csv", stepsCsv),
    button("csv_memories", "memories.csv", "text/csv", memoriesCsv),
    button("json_all", "explanation.json", "application/json", allJson)];
}

function save(name, kind, text) {
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([text], { type: kind + ";charset=utf-8" }));
  link.href = address; // a blob of this page, never an address from the data
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// What float32 held, without the digits that float64 adds.
const exact = (number) => (Number.isFinite(number) ? Number(number.toPrecision(8)) : number);

// What a spreadsheet would take for a formula is marked as text.
function cell(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "string") return String(typeof value === "number" ? exact(value) : value);
  const text = /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
  return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
}

const csv = (rows) => rows.map((cells) => cells.map(cell).join(",") + "\r\n").join("");
const named = (word) => actions.map((name) => word + " " + name);
const everyStep = () => Array.from({ length: count }, (_, i) => stepAt(i));
const valuesOf = (one, names, place = one.place) => names.map((name) => (name === "action"
  ? nameOf(one.action, place) : one[name]));

function stepsCsv() {
  const names = ["episode", "t", "action", "reward", "terminated", "truncated", "value", "margin",
    "from_network", "from_memories", "rest"];
  return csv([[...names, ...named("q"), ...named("preference"), "sentence"], ...everyStep().map((step) => [
    ...valuesOf(step, names), ...step.q, ...step.preference, step.sentence])]);
}

function memoriesCsv() {
  const names = ["id", "action", "looked_at", "gave", "mattered", "value", "environment", "episode", "step", "age",
    "reads"];
  return csv([["episode_told", "t", ...names, ...named("without")], ...everyStep().flatMap((step) => step.memories
    .map((memory) => [step.episode, step.t, ...valuesOf(memory, names, step.place), ...(memory.without ?? [])]))]);
}

function allJson() {
  const { meta, moments, faithful, worlds, health } = data;
  return JSON.stringify({ format: data.format, meta: { ...meta, returns: Array.from(returns) }, actions,
    steps: everyStep(), moments, faithful, worlds, health }, (_, value) => {
    if (typeof value !== "number") return value && value.dtype ? Array.from(column(value)) : value;
    return Number.isFinite(value) ? exact(value) : String(value);
  });
}
