// Reading: data, words, and numbers as text.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const languages = JSON.parse($("words").textContent);
const ARRAYS = { "<u1": Uint8Array, "<i2": Int16Array, "<i4": Int32Array, "<f4": Float32Array, "<f8": Float64Array };

const state = {
  place: 0, language: document.documentElement.lang, head: -1, boxes: false, opacity: 0.75,
  byLooked: false, chosen: -1, noMemory: false, playing: 0, tab: "health",
};

// A column of the data as an array; all columns of an object at once.
function column(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
  const values = new ARRAYS[packed.dtype](bytes.buffer);
  const size = packed.shape.reduce((product, side) => product * side, 1);
  return packed.repeat ? new ARRAYS[packed.dtype](size).fill(values[0]) : values;
}

function columns(packed) {
  const found = {};
  for (const [name, value] of Object.entries(packed)) {
    if (value && value.dtype) found[name] = column(value);
    else if (value && typeof value === "object" && !Array.isArray(value)) found[name] = columns(value);
    else found[name] = value;
  }
  return found;
}

// Where the items of each step begin: running sums of their counts.
function starts(counts) {
  const sums = new Int32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i += 1) sums[i + 1] = sums[i] + counts[i];
  return sums;
}

const places = (sums, i) => Array.from({ length: sums[i + 1] - sums[i] }, (_, k) => sums[i] + k);
const texts = data.texts;
const actions = data.actions;
const width = actions.length;
const count = data.count;
const steps = columns(data.steps);
const tables = columns({
  q: data.q, preference: data.preference, allowed: data.allowed, without_memories: data.without_memories,
  share: data.share, distribution: data.distribution, attention: data.attention, facts: data.facts,
  entries: data.entries, reads: data.reads, recalled: data.recalled, still_moves: data.still_moves,
  parts_mattered: data.parts_mattered,
  parts: { layout: data.parts.layout, values: data.parts.values },
});
const layouts = data.parts.layouts.map(columns);
const pictures = columns({ sheet: data.images.sheet, slot: data.images.slot });
const returns = column(data.meta.returns);

const at = {
  facts: starts(tables.facts.count), reads: starts(tables.reads.count), without: starts(tables.reads.without.has),
  entryFacts: starts(tables.entries.facts.count), recalled: starts(tables.recalled.count),
  still: starts(tables.still_moves.count), mattered: starts(tables.parts_mattered.count),
  none: starts(tables.without_memories.has),
  share: starts(tables.share.has), spread: starts(tables.distribution.has), atoms: starts(tables.distribution.atoms),
  heads: starts(tables.attention.heads),
  mass: starts(Array.from(tables.distribution.support, (row) => tables.distribution.atoms[row])),
  weights: starts(Array.from(tables.attention.heads, (heads, i) => heads * tables.attention.width[i])),
  parts: starts(Array.from(tables.parts.layout, (which) => layouts[which].names.length)),
};
const row = (values, i) => Array.from(values.subarray(i * width, (i + 1) * width));
const rowIf = (table, sums, i) => (table.has[i] ? row(table.rows, sums[i]) : null);
const known = (number) => (Number.isNaN(number) ? null : number);

function factsOf(facts, sums, i) {
  return places(sums, i).map((k) => [texts[facts.name[k]], texts[facts.value[k]]]);
}

function memoryOf(k) {
  const reads = tables.reads;
  const entries = tables.entries;
  const e = reads.entry[k];
  return {
    id: entries.id[e], action: entries.action[e], environment: entries.environment[e], episode: entries.episode[e],
    step: entries.step[e], picture: entries.picture[e], facts: factsOf(entries.facts, at.entryFacts, e),
    looked_at: reads.looked_at[k], gave: reads.gave[k], mattered: known(reads.mattered[k]), value: reads.value[k],
    reads: known(reads.reads[k]), age: known(reads.age[k]), without: rowIf(reads.without, at.without, k),
  };
}

function headsOf(i) {
  const { heads, width: parts, weights, scale } = tables.attention;
  return Array.from({ length: heads[i] }, (_, head) => {
    const from = at.weights[i] + head * parts[i];
    const factor = scale ? scale[at.heads[i] + head] / 255 : 1;
    return Array.from(weights.subarray(from, from + parts[i]), (weight) => weight * factor);
  });
}

function partsOf(i) {
  const layout = layouts[tables.parts.layout[i]];
  return Array.from(layout.names, (name, k) => {
    const box = layout.boxes.subarray(4 * k, 4 * k + 4);
    const value = texts[tables.parts.values[at.parts[i] + k]];
    return { name: texts[name], value, box: Number.isNaN(box[0]) ? null : Array.from(box) };
  });
}

// The returns of an action and their probabilities, the latter as shares of the greatest.
function atomsOf(i, action) {
  const { support, returns: ats, mass } = tables.distribution;
  const k = at.spread[i] * width + action;
  const from = at.atoms[support[k]];
  return Array.from(mass.subarray(at.mass[k], at.mass[k + 1]), (share, n) => [ats[from + n], share / 255]);
}
const spreadOf = (i) => (tables.distribution.has[i] ? actions.map((_, action) => atomsOf(i, action)) : null);

function pairsOf(table, sums, i) {
  return places(sums, i).map((k) => [table.step[k], table.weight[k]]);
}

const SCALARS = ["t", "episode", "action", "runner_up", "reward", "value", "margin", "from_network", "from_memories",
  "rest", "picture"];
const FLAGS = ["terminated", "truncated", "kept"];

// One step, as Python's `Step` has it.
function stepAt(i) {
  const step = { place: i, sentence: texts[steps.sentence[i]] };
  for (const name of SCALARS) step[name] = steps[name][i];
  for (const name of FLAGS) step[name] = Boolean(steps[name][i]);
  step.others = [steps.others[i], steps.others_weight[i], steps.others_gave[i]];
  step.called = (data.called[steps.called[i]] ?? []).map((name) => texts[name]);
  step.q = row(tables.q, i);
  step.preference = row(tables.preference, i);
  step.allowed = row(tables.allowed, i).map(Boolean);
  step.without_memories = rowIf(tables.without_memories, at.none, i);
  step.share = rowIf(tables.share, at.share, i);
  step.distribution = spreadOf(i);
  step.attention = headsOf(i);
  step.parts = partsOf(i);
  step.facts = factsOf(tables.facts, at.facts, i);
  step.memories = places(at.reads, i).map(memoryOf);
  step.recalled = pairsOf(tables.recalled, at.recalled, i);
  step.still_moves = pairsOf(tables.still_moves, at.still, i);
  step.parts_mattered = pairsOf(tables.parts_mattered, at.mattered, i);
  return step;
}

// The word `name` in the reader's language, with {gaps} filled in.
function say(name, gaps = { unit: term(data.meta.unit) }) {
  const text = languages[state.language][name] ?? languages.en[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, gap) => String(gaps[gap]));
}

// What Python wrote, in the reader's language where it is known.
const term = (text) => text.split("; ").map((part) => languages[state.language].sentences?.[part] ?? part).join("; ");
// Some steps have names of their own.
const nameOf = (action, place) => texts[data.called[steps.called[place]]?.[action]] ?? actions[action];
function actionName(action, place = state.place) {
  const name = nameOf(action, place);
  return name || (name === "" ? say("unnamed") : "\u2013");
}

// A number with as many digits as a reader compares.
function show(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return say("no_number");
  if (!Number.isFinite(number)) return number > 0 ? "\u221e" : "\u2212\u221e";
  const size = Math.abs(number);
  let text = size.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
  if (size >= 1e6 || (size > 0 && size < 5e-4)) text = size.toExponential(2).replace("-", "\u2212");
  return (number < 0 && Number(text) !== 0 ? "\u2212" : "") + text;
}

const signed = (number) => (number > 0 && Number.isFinite(number) ? "+" + show(number) : show(number));
const whole = (number) => Math.round(number).toLocaleString("en").replace(/,/g, "\u202f");
const percent = (share) => (Number.isFinite(share) ? (100 * share).toFixed(share < 0.0995 ? 1 : 0) + " %"
  : show(share));
const finite = (values) => values.filter(Number.isFinite);

// Places from the greatest to the least; what is no number comes last, equals keep their order.
function order(values) {
  const rank = (value) => (Number.isNaN(value) ? -Infinity : value);
  return values.map((_, i) => i).sort((a, b) => {
    const [x, y] = [rank(values[a]), rank(values[b])];
    return x === y ? a - b : x < y ? 1 : -1;
  });
}

// The best allowed action, and how far it is above the next best.
function best(preference, allowed) {
  const ranked = order(preference).filter((action) => allowed[action]);
  const gap = ranked.length > 1 ? preference[ranked[0]] - preference[ranked[1]] : 0;
  return { action: ranked.length ? ranked[0] : 0, second: ranked.length > 1 ? ranked[1] : -1, gap };
}
