// This step: what was seen and looked at, what each action was worth, and how the margin came about.
const TOP_PARTS = 6;

function showSeen(step) {
  const weights = headWeights(step, state.head);
  const boxed = step.parts.some((part) => part.box);
  const frame = $("frame");
  frame.replaceChildren();
  if (step.picture >= 0) frame.append(pictureOf(step, weights, boxed));
  else if (!step.facts.length && !step.parts.length) frame.append(remark(step.kept ? "nothing_seen" : "not_kept"));
  $("lens").replaceChildren(...lens(step, boxed && step.picture >= 0));
  // Where the parts are the numbers of the table, their weights stand in it.
  const measured = state.head === MEASURED || !step.attention.length;
  const same = step.picture < 0 && !measured && step.facts.length && weights.length === step.facts.length;
  $("parts").replaceChildren(...(same || measured ? [] : attended(step, weights)), ...partsMattered(step));
  $("facts").replaceChildren(...observed(step, same ? weights : null));
}

const partLine = (about, part, art, text) => make("li", about, span("name", part.name), span("what", part.value), art,
  span("number", text));

// How far the margin falls when a part of the input is covered, the largest first.
function partsMattered(step) {
  const ranked = order(step.parts_mattered.map(([, effect]) => Math.abs(effect))).slice(0, TOP_PARTS);
  if (!ranked.length) return [];
  const most = Math.max(1e-12, Math.abs(step.parts_mattered[ranked[0]][1]));
  return [heading("parts_mattered"), ordered("attended", ...ranked.map((k) => {
    const [part, effect] = step.parts_mattered[k];
    return partLine({ "data-covered": part }, step.parts[part], effectBar(effect, most), signed(effect));
  }))];
}

function pictureOf(step, weights, boxed) {
  const about = { id: "picture", role: "img", "aria-label": pictureLabel(step, weights) };
  const stage = stageOf(step, boxed ? weights : [], about, { id: "layer" });
  const { width: wide, height: high } = data.images.sheets[pictures.sheet[step.picture]];
  stage.style.width = "min(100%, " + (38 * wide / high).toFixed(2) + "vh)";
  return stage;
}

function stageOf(step, weights, about = HIDDEN, named = {}) {
  const sheet = data.images.sheets[pictures.sheet[step.picture]];
  const stage = make("span", { class: "stage" }, make("canvas", about));
  stage.style.aspectRatio = sheet.width + " / " + sheet.height;
  paint(stage.firstChild, step.picture);
  if (weights.length) {
    const layer = make("canvas", { ...named, class: "layer", ...HIDDEN });
    stage.append(layer);
    requestAnimationFrame(() => overlay(layer, step, weights, state.opacity, named.id && state.boxes));
  }
  return stage;
}

const foremost = (step, weights) => order(weights).slice(0, 3)
  .map((part) => step.parts[part].name + " " + percent(weights[part])).join(", ");

function pictureLabel(step, weights) {
  const looked = weights.length ? " " + say("looked_most", { parts: foremost(step, weights) }) : "";
  return say("picture_of", { step: step.t }) + looked;
}

function lens(step, visible) {
  const heads = step.attention.length;
  const measured = step.parts_mattered.length;
  if (!heads && !measured) return step.kept ? [remark("no_attention")] : [];
  const pick = (head, text, label) => toggle(text, state.head === head, () => change({ head }),
    { "aria-label": label, "data-head": head });
  const group = make("div", { class: "pick", role: "group", "aria-label": say("head") },
    span("quiet", say("head") + "\u00a0"), pick(-1, say("mean"), say("mean_of_heads")));
  for (let head = 0; head < heads; head += 1) group.append(pick(head, head + 1, say("head_number", { n: head + 1 })));
  if (measured) group.append(pick(MEASURED, say("mattered"), say("parts_mattered")));
  const several = heads > 1 || (heads && measured);
  if (!visible) return several ? [group] : [];
  const way = make("div", { class: "pick", role: "group", "aria-label": say("shown_as") },
    toggle(say("heat"), !state.boxes, () => change({ boxes: false })),
    toggle(say("boxes"), state.boxes, () => change({ boxes: true })));
  const slider = make("input", {
    type: "range", min: "0", max: "100", value: Math.round(100 * state.opacity), "aria-label": say("opacity"),
    id: "opacity", "aria-valuetext": Math.round(100 * state.opacity) + " %",
  });
  slider.addEventListener("input", () => {
    state.opacity = Number(slider.value) / 100;
    slider.setAttribute("aria-valuetext", slider.value + " %");
    const layer = $("layer");
    if (layer) overlay(layer, step, headWeights(step, state.head), state.opacity, state.boxes);
  });
  return [several ? group : null, way, slider].filter(Boolean);
}

// The text twin of the overlay.
function attended(step, weights) {
  if (!weights.length) return [];
  const ranked = order(weights);
  const greatest = Math.max(1e-12, ...finite(weights));
  const line = (part) => partLine({ "data-part": part }, step.parts[part], bar(0, weights[part] / greatest, "look"),
    percent(weights[part]));
  const list = (parts) => ordered("attended", ...parts.map(line));
  const rest = ranked.slice(TOP_PARTS);
  const sum = rest.reduce((total, part) => total + weights[part], 0);
  const more = rest.length ? folded(say("other_parts", { n: rest.length, share: percent(sum) })) : null;
  // Filled when opened: there may be hundreds, at every step.
  if (more) more.addEventListener("toggle", () => more.children.length < 2 && more.append(list(rest)));
  return [heading("looked_at"), list(ranked.slice(0, TOP_PARTS)), more].filter(Boolean);
}

function observed(step, weights) {
  if (!step.facts.length) return [];
  const greatest = weights ? Math.max(1e-12, ...finite(weights)) : 1;
  const lines = step.facts.map(([name, value], i) => make("li", {},
    span("name", name), span("what", value),
    ...(weights ? [bar(0, weights[i] / greatest, "look"), span("number", percent(weights[i]))] : [])));
  return [heading(weights ? "observed_and_looked_at" : "observed"),
    make("ol", { class: weights ? "attended" : "facts" }, ...lines)];
}

// What the bars show besides: the preferences without one memory, or without any.
function alternative(step) {
  if (state.noMemory) return step.without_memories && { values: step.without_memories, what: say("no_memory_at_all") };
  const memory = step.memories[state.chosen];
  return memory && memory.without
    ? { values: memory.without, what: say("without_memory", { name: when(memory) }) } : null;
}

// Python's sentence, in the reader's language clause by clause.
function sentenceOf(step) {
  if (!width) return say("no_actions");
  return languages[state.language].clauses
    .reduce((text, [said, meant]) => text.replace(RegExp(said), meant), step.sentence);
}

function flagsOf(step) {
  return ["terminated", "truncated"].filter((word) => step[word]).map((word) => {
    return make("span", { class: "flag " + word, text: say(word), title: say(word + "_means") });
  });
}

function showDecision(step) {
  const [first, ...more] = sentenceOf(step).split(/(?<=\.) (?=\D)|(?<=\u3002)(?=.)/);
  $("sentence").replaceChildren(make("strong", { text: first }), more.length ? " " + more.join(" ") : "");
  $("flags").replaceChildren(...flagsOf(step),
    span("quiet", say("reward_value", { reward: signed(step.reward), value: show(step.value) })));
  const other = alternative(step);
  $("whatif").replaceChildren(...(other ? [whatIf(step, other)] : []));
  $("bars").replaceChildren(...bars(step, other));
  $("waterfall").replaceChildren(...waterfall(step));
  $("spread").replaceChildren(...spread(step));
}

function whatIf(step, other) {
  const now = best(step.preference, step.allowed);
  const then = best(other.values, step.allowed);
  const same = now.action === then.action;
  const text = say(same ? "same_choice" : "other_choice", {
    what: other.what, action: actionName(then.action), gap: show(then.gap),
  });
  return make("div", { class: "whatif" + (same ? "" : " flips") },
    make("p", {}, make("strong", { text: say("what_if") + " " }), text),
    make("button", { text: say("put_back"), click: () => change({ chosen: -1, noMemory: false }) }));
}

// Where the bars begin: at zero, unless all values are far from it and close together.
function axis(values) {
  const [low, high] = range(finite(values));
  if (low <= 0 && high >= 0) return [low, high];
  const near = high - low < 0.5 * Math.max(Math.abs(low), Math.abs(high));
  if (near) return [low - 0.15 * (high - low), high + 0.05 * (high - low)];
  return [Math.min(0, low), Math.max(0, high)];
}

// Past its names a step has no action.
const there = ({ called }, action) => !called.length || action < called.length;

function bars(step, other) {
  if (!width) return [remark("no_actions")];
  const ranked = order(step.preference);
  const [low, high] = axis(step.preference.concat(other ? other.values : []));
  const scaled = (value) => (value === -Infinity ? 0 : (value - low) / (high - low));
  const from = low <= 0 && high >= 0 ? scaled(0) : 0;
  // Of many the chosen one is first, then by value.
  const many = [step.action, ...ranked.filter((one) => one !== step.action && there(step, one))];
  const shown = many.length > 12 ? many : many.sort((a, b) => a - b);
  const line = (action) => barLine(step, action, ranked.indexOf(action) + 1, other, scaled, from);
  return [
    heading("all_actions"),
    make("ol", { class: "bars" + (other ? " compared" : "") }, ...shown.map(line)),
    box("ends", span("", show(low)),
      span("", (low > 0 || high < 0 ? say("not_from_zero") + " \u00b7 " : "") + say("marks_mean")),
      span("", show(high))),
  ];
}

function barLine(step, action, rank, other, scaled, from) {
  const chosen = action === step.action;
  const value = step.preference[action];
  const track = bar(from, scaled(value), chosen ? "chosen" : "");
  if (other) {
    const ghost = span("ghost");
    const ends = [from, scaled(other.values[action])].sort((a, b) => a - b);
    ghost.style.left = 100 * Math.max(0, ends[0]) + "%";
    ghost.style.width = 100 * Math.min(1, ends[1] - ends[0]) + "%";
    track.append(ghost);
  }
  const second = !chosen && action === step.runner_up;
  const marks = [];
  if (!step.allowed[action]) marks.push(say("not_offered"));
  if (step.share) marks.push(say("memory_share", { share: percent(step.share[action]) }));
  const q = step.q[action];
  // One for all is the state's.
  if (new Set(step.q).size > 1 && Math.abs(q - value) > 1e-6) marks.push(say("q_is", { q: show(q) }));
  return make("li", {
    class: (chosen ? "is-chosen" : "") + (step.allowed[action] ? "" : " is-not-offered"), "data-action": action,
  },
  span("rank", rank, { title: say("rank") }),
  span("unseen", chosen ? say("chosen") : second ? say("second") : ""),
  span("name", (chosen ? "\u25b6 " : second ? "\u25b7 " : "") + actionName(action)),
  track,
  span("number", show(value)),
  span("number other", other ? show(other.values[action]) : ""),
  span("marks", marks.join(" \u00b7 ")));
}

// The margin as a sum: network, each memory shown, the others together, and the rest.
function pieces(step) {
  const found = [[say("from_network"), step.from_network, "network"]];
  let told = 0;
  for (const i of ranking(step)) {
    told += step.memories[i].gave;
    found.push([when(step.memories[i]), step.memories[i].gave, "memory", i]);
  }
  if (step.others[0]) found.push([say("other_memories", { n: whole(step.others[0]) }), step.others[2], "others"]);
  told += step.others[0] ? step.others[2] : 0;
  const left = step.from_memories - told;
  if (Math.abs(left) > 1e-5 * Math.max(1, Math.abs(step.margin), Math.abs(step.from_memories))) {
    found.push([say(step.kept ? "memories_unsplit" : "memories_together"), left, "others"]);
  }
  if (step.rest) found.push([say("rest"), step.rest, "rest"]);
  return found;
}

function waterfall(step) {
  if (!width || step.runner_up === step.action) return [];
  const all = pieces(step);
  const levels = [0];
  for (const [, size] of all) levels.push(levels[levels.length - 1] + size);
  const [low, high] = range(levels, [step.margin]);
  const scaled = (value) => (value - low) / (high - low);
  const lines = all.map(([label, size, kind, index], i) => {
    const line = make("li", { class: kind, "data-piece": kind }, span("name", label),
      bar(scaled(levels[i]), scaled(levels[i + 1]), size < 0 ? "against" : "for"),
      span("number", signed(size)));
    if (index !== undefined && index === state.chosen) line.classList.add("is-picked");
    return line;
  });
  lines.push(make("li", { class: "total", "data-piece": "margin" }, span("name", say("margin")),
    bar(scaled(0), scaled(step.margin), "sum"), span("number", signed(step.margin))));
  return [heading("margin_split", { action: actionName(step.action), other: actionName(step.runner_up) }),
    ordered("waterfall", ...lines)];
}

function spread(step) {
  if (!step.distribution) return [];
  const told = step.distribution.filter((_, action) => there(step, action));
  const [low, high] = range(told.flat().filter(([, share]) => share > 0.002).map(([at_]) => at_));
  const lines = told.map((pairs, action) => {
    const shape = vector("svg", { viewBox: "0 0 200 24", preserveAspectRatio: "none", ...HIDDEN });
    const x = (value) => 200 * (value - low) / (high - low);
    for (const [at_, share] of pairs) {
      if (!Number.isFinite(at_) || share <= 0.002) continue;
      shape.append(vector("line", { x1: x(at_), x2: x(at_), y1: 24, y2: 24 - 22 * share }));
    }
    const mean = x(step.q[action]);
    if (Number.isFinite(mean)) shape.append(segment("mean", mean, 0, mean, 24));
    return make("li", { class: action === step.action ? "is-chosen" : "" },
      span("name", actionName(action)), shape,
      span("number", show(step.q[action])));
  });
  return [heading("spread"), ordered("spread", ...lines),
    box("ends", span("", show(low)), span("", say("return")),
      span("", show(high)))];
}
