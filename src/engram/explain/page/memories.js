// Past experiences: what each was, how much it was looked at, how much it mattered, and what the choice is without it.
const readAny = tables.reads.entry.length > 0;

function showPast(step) {
  const n = step.memories.length + step.others[0];
  $("past-title").textContent = say("past", { n: whole(n) });
  const sort = (byLooked, word) => make("button", {
    class: "small", text: say(word), "aria-pressed": String(state.byLooked === byLooked),
    click: () => change({ byLooked }),
  });
  const none = step.without_memories ? make("button", {
    class: "small", id: "no-memory", text: say("no_memory_button"), title: say("no_memory_means"),
    "aria-pressed": String(state.noMemory), click: () => change({ noMemory: !state.noMemory, chosen: -1 }),
  }) : null;
  const several = step.memories.length > 1;
  $("past-tools").replaceChildren(...[
    several ? span("quiet", say("sort")) : null,
    several ? sort(false, "mattered") : null, several ? sort(true, "looked") : null, none].filter(Boolean));
  $("past").replaceChildren(...pastOf(step));
}

function pastOf(step) {
  if (!step.kept) return [note(say("not_kept"))];
  if (!step.memories.length) return [note(say(emptyWord(step)))];
  const measure = state.byLooked
    ? step.memories.map((memory) => memory.looked_at)
    : step.memories.map((memory) => (memory.mattered === null ? -1 : Math.abs(memory.mattered)));
  const most = {
    looked: Math.max(1e-12, ...finite(step.memories.map((memory) => memory.looked_at))),
    mattered: Math.max(1e-12, ...finite(step.memories.map((memory) => Math.abs(memory.mattered ?? 0)))),
  };
  const list = make("ul", { class: "memories" });
  for (const index of order(measure)) list.append(memoryLine(step, index, most));
  if (step.others[0]) list.append(othersLine(step));
  const head = make("div", { class: "memory-head", "aria-hidden": "true" }, make("span"), make("span"),
    span("", say("looked")), span("", say("mattered")));
  return [head, list];
}

function emptyWord(step) {
  if (step.others[0]) return "memories_not_shown";
  return data.health || readAny ? "memory_empty" : "no_memory";
}

// When it happened, as far as this kind of memory keeps it.
function when(memory) {
  const known_ = [];
  if (memory.episode >= 0) known_.push(say("episode_n", { n: whole(memory.episode) }));
  if (memory.step >= 0) known_.push(say("step_n", { n: whole(memory.step) }));
  return known_.length ? known_.join(", ") : say("memory_id", { id: memory.id });
}

function memoryLine(step, index, most) {
  const memory = step.memories[index];
  const open = state.chosen === index;
  const measured = memory.mattered !== null;
  const side = !measured || !memory.mattered ? "" : memory.mattered > 0 ? " \u25b2" : " \u25bc";
  const button = make("button", {
    class: "memory", "aria-expanded": String(open), "data-memory": String(index),
    "data-id": String(memory.id), click: () => change({ chosen: open ? -1 : index, noMemory: false }),
  },
  memory.picture >= 0 ? thumbnail(memory.picture, say("picture_of_memory", { id: memory.id })) : make("span", { class: "thumb blank" }),
  make("span", { class: "about" },
    span("when", when(memory)),
    span("quiet", details(memory))),
  make("span", { class: "cell" }, span("unseen", say("looked") + " "),
    span("number looked", percent(memory.looked_at)), bar(0, memory.looked_at / most.looked, "look")),
  make("span", { class: "cell" }, span("unseen", say("mattered") + " "),
    span("number mattered", measured ? signed(memory.mattered) + side : say("not_measured")),
    measured ? bar(0.5, 0.5 + 0.5 * memory.mattered / most.mattered, memory.mattered < 0 ? "against" : "for") : null));
  return make("li", { class: open ? "open" : "" }, button, open ? opened(step, memory) : null);
}

function details(memory) {
  const found = [say("did", { action: actionName(memory.action) })];
  if (memory.age !== null) found.push(say("writes_ago", { n: whole(memory.age) }));
  return found.join(" \u00b7 ");
}

function opened(step, memory) {
  const rows = [
    ["memory_number", String(memory.id)], ["its_action", actionName(memory.action)], ["its_value", show(memory.value)],
    ["looked", percent(memory.looked_at)], ["gave", signed(memory.gave)],
    ["mattered_measured", memory.mattered === null ? say("not_measured") : signed(memory.mattered)],
  ];
  if (memory.environment >= 0) rows.push(["environment", String(memory.environment)]);
  if (memory.episode >= 0) rows.push(["episode", whole(memory.episode)]);
  if (memory.step >= 0) rows.push(["step", whole(memory.step)]);
  if (memory.age !== null) rows.push(["age", say("writes_ago", { n: whole(memory.age) })]);
  if (memory.reads !== null) rows.push(["reads", show(memory.reads)]);
  const list = make("dl", { class: "pairs" });
  for (const [word, text] of rows) list.append(make("dt", { text: say(word) }), make("dd", { text }));
  for (const [name, text] of memory.facts) list.append(make("dt", { text: name }), make("dd", { text }));
  const big = memory.picture >= 0 ? thumbnail(memory.picture, say("picture_of_memory", { id: memory.id })) : null;
  if (big) big.className = "big";
  return make("div", { class: "opened" }, big, list,
    note(say(memory.without ? "bars_show_without" : "without_not_measured")));
}

function othersLine(step) {
  const [n, weight, gave] = step.others;
  return make("li", { class: "others" },
    make("span", { class: "thumb blank" }),
    make("span", { class: "about" }, span("when", say("other_memories", { n: whole(n) })),
      span("quiet", say("others_means"))),
    make("span", { class: "cell" }, span("unseen", say("looked") + " "),
      span("number looked", percent(weight))),
    make("span", { class: "cell" }, span("unseen", say("gave") + " "),
      span("number", say("gave_n", { n: signed(gave) }))));
}
