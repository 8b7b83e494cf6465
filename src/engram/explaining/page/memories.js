// Past experiences: looked at, mattered, and the choice without each.
const readAny = data.health || tables.reads.entry.length > 0;
const recallsAny = tables.recalled.step.length + tables.still_moves.step.length > 0;

function showPast(step) {
  // Without an external memory, its place is for what the working memory holds.
  if (!readAny) {
    document.querySelector(".past").hidden = !recallsAny;
    $("past-title").textContent = say("tab_recall");
    return $("past").replaceChildren(...showRecall(step));
  }
  const n = step.memories.length + step.others[0];
  $("past-title").textContent = say("past", { n: whole(n) });
  const sort = (byLooked, word) => toggle(say(word), state.byLooked === byLooked, () => change({ byLooked }), SMALL);
  const several = step.memories.length > 1;
  const without = () => change({ noMemory: !state.noMemory, chosen: -1 });
  $("past-tools").replaceChildren(
    ...(several ? [span("quiet", say("sort")), sort(false, "mattered"), sort(true, "looked")] : []),
    ...(step.without_memories
      ? [toggle(say("no_memory_button"), state.noMemory, without, { ...SMALL, id: "no-memory" })] : []));
  return $("past").replaceChildren(...pastOf(step));
}

// Memories as they are listed; without a measurement, by what they gave.
function ranking(step) {
  return order(step.memories.map((memory) => (state.byLooked ? memory.looked_at
    : Math.abs(memory.mattered ?? memory.gave))));
}

function pastOf(step) {
  if (!step.kept) return [remark("not_kept")];
  if (!step.memories.length) return [remark(step.others[0] ? "memories_not_shown" : "memory_empty")];
  const most = {
    looked: Math.max(1e-12, ...finite(step.memories.map((memory) => memory.looked_at))),
    mattered: Math.max(1e-12, ...finite(step.memories.map((memory) => Math.abs(memory.mattered ?? 0)))),
  };
  const list = make("ul", { class: "memories" + (step.memories.some(({ picture }) => picture >= 0) ? ""
    : " plainly") });
  for (const index of ranking(step)) list.append(memoryLine(step, index, most));
  if (step.others[0]) list.append(othersLine(step));
  const head = make("div", { class: "memory-head", ...HIDDEN }, make("span"),
    span("", say("looked")), span("", say("mattered")));
  list.prepend(make("li", {}, head));
  return [list];
}

function when(memory) {
  const known_ = [];
  if (memory.episode >= 0) known_.push(say("episode_n", { n: whole(memory.episode) }));
  if (memory.step >= 0) known_.push(say("step_n", { n: whole(memory.step) }));
  return known_.length ? known_.join(", ") : say("memory_id", { id: memory.id });
}

const measure = (word, ...inside) => make("span", { class: "cell" }, span("unseen", say(word) + " "), ...inside);

const thumbOf = (memory) => thumbnail(memory.picture, say("picture_of_memory", { name: when(memory) }));

function memoryLine(step, index, most) {
  const memory = step.memories[index];
  const open = state.chosen === index;
  const measured = memory.mattered !== null;
  const side = !measured || !memory.mattered ? "" : memory.mattered > 0 ? " \u25b2" : " \u25bc";
  const button = make("button", {
    class: "memory", "aria-expanded": open, "data-memory": index,
    "data-id": memory.id, click: () => change({ chosen: open ? -1 : index, noMemory: false }),
  },
  memory.picture >= 0 ? thumbOf(memory) : span("thumb blank"),
  make("span", { class: "about" },
    span("when", when(memory)),
    span("quiet", details(memory))),
  measure("looked", span("number looked", percent(memory.looked_at)), bar(0, memory.looked_at / most.looked, "look")),
  measure("mattered", span("number mattered", measured ? signed(memory.mattered) + side : say("not_measured")),
    measured ? effectBar(memory.mattered, most.mattered) : null));
  return make("li", { class: open ? "open" : "" }, button, open ? opened(step, memory) : null);
}

function details(memory) {
  const found = [say("did", { action: actionName(memory.action) })];
  if (memory.age !== null) found.push(say("writes_ago", { n: whole(memory.age) }));
  return found.join(" \u00b7 ");
}

function opened(step, memory) {
  const rows = [
    ["memory_number", memory.id], ["its_action", actionName(memory.action)], ["its_value", show(memory.value)],
    ["gave", signed(memory.gave)],
  ];
  for (const word of ["environment", "episode", "step"]) if (memory[word] >= 0) rows.push([word, whole(memory[word])]);
  if (memory.reads !== null) rows.push(["reads", show(memory.reads)]);
  const list = make("dl", { class: "pairs" });
  for (const [name, text] of rows.map(([word, about]) => [say(word), about]).concat(memory.facts)) {
    list.append(make("dt", { text: name }), make("dd", { text }));
  }
  const big = memory.picture >= 0 ? thumbOf(memory) : null;
  if (big) big.className = "big";
  return box("opened", big, list,
    remark(memory.without ? "bars_show_without" : "without_not_measured"));
}

function othersLine(step) {
  const [n, weight, gave] = step.others;
  return make("li", { class: "others" },
    span("thumb blank"),
    make("span", { class: "about" }, span("when", say("other_memories", { n: whole(n) })),
      span("quiet", say("others_means"))),
    measure("looked", span("number looked", percent(weight))),
    measure("gave", span("number", say("gave_n", { n: signed(gave) }))));
}
