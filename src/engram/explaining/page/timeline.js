// The timeline, with one cursor over all.
const LANES = { height: 100, value: [14, 46], margin: [50, 62], doubt: [66, 78], reward: [84, 100] };
const episodes = new Set(steps.episode).size;
const ends = [];
for (let i = 0; i < count; i += 1) {
  if (steps.terminated[i] || steps.truncated[i] || (i + 1 < count
    && steps.episode[i + 1] !== steps.episode[i])) ends.push(i);
}
const across = (place, wide) => (count < 2 ? wide / 2 : (place / (count - 1)) * wide);

function showTimeline() {
  const plot = $("plot");
  const wide = Math.max(120, plot.clientWidth);
  const art = vector("svg", {
    viewBox: "0 0 " + wide + " " + LANES.height, width: wide, height: LANES.height, role: "img",
    preserveAspectRatio: "none",
    "aria-label": say("timeline_twin", { steps: whole(count), episodes: whole(episodes) }),
  });
  const x = (place) => across(place, wide);
  art.append(...lanes(x, wide), ...rewardTicks(x, wide));
  if (ends.length < wide / 3) art.append(...ends.map((place) => segment("end", x(place), 8, x(place), LANES.height)));
  const cursor = make("div", { id: "cursor", class: "cursor" });
  plot.replaceChildren(art, ...pins(wide), cursor);
  const words = ["value", "margin", doubts && "doubt", "reward", "episode_end"].filter(Boolean);
  $("legend").replaceChildren(...words.map((word) => {
    return make("li", {}, span("key " + word, "", HIDDEN), legendText(word));
  }));
}

function legendText(word) {
  if (!["value", "margin", "doubt"].includes(word)) return say("legend_" + word);
  const [low, high] = range(steps[word]);
  const name = word !== "doubt" ? word : ofPolicy ? "entropy" : "spread";
  return say("legend_" + name, { low: show(low), high: show(high) });
}

// A policy's entropy, or the spread of the chosen action's return; NaN for neither.
const ofPolicy = data.meta.unit === "log-probability";
steps.doubt = Float64Array.from({ length: count }, (_, i) => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  if (ofPolicy) return sum(finite(row(tables.preference, i)).map((log) => -log * Math.exp(log)));
  const atoms = tables.distribution.has[i] ? atomsOf(i, steps.action[i]) : [];
  const mean = (of) => sum(atoms.map(([back, share]) => of(back) * share)) / sum(atoms.map(([, share]) => share));
  const middle = mean((back) => back);
  return Math.sqrt(mean((back) => (back - middle) ** 2));
});
const doubts = steps.doubt.some(Number.isFinite);

function lanes(x, wide) {
  const found = [];
  for (const word of doubts ? ["margin", "doubt", "value"] : ["margin", "value"]) {
    const [top, bottom] = LANES[word];
    const [low, high] = word === "margin" ? range(steps.margin, [0]) : range(steps[word]);
    const y = (value) => bottom - (bottom - top) * (value - low) / (high - low);
    if (word === "margin") found.push(segment("zero", 0, y(0), wide, y(0)));
    found.push(vector("path", { class: "line " + word, d: trace(steps[word], x, y, wide) }));
  }
  return found;
}

function rewardTicks(x, wide) {
  const greatest = Math.max(1e-12, ...range(steps.reward).map(Math.abs));
  const [top, bottom] = LANES.reward;
  const middle = (top + bottom) / 2;
  const path = (sign) => Array.from(steps.reward, (reward, i) => {
    const tall = Math.max(2, (middle - top) * Math.abs(reward) / greatest);
    return sign * reward > 0 && tall < 99 ? "M" + x(i).toFixed(1) + " " + middle + "v" + -sign * tall.toFixed(1) : "";
  }).join("");
  return [segment("zero", 0, middle, wide, middle),
    vector("path", { class: "tick good", d: path(1) }), vector("path", { class: "tick bad", d: path(-1) })];
}

function pins(wide) {
  return data.moments.map(({ place }, i) => {
    const pin = span("pin", i + 1, { ...HIDDEN, click: () => seek(place) });
    pin.style.left = 100 * across(place, wide) / wide + "%";
    return pin;
  });
}

function showMoments() {
  const group = $("moments");
  if (!data.moments.length) return group.replaceChildren(remark("no_moments"));
  return group.replaceChildren(...data.moments.map(({ place, why }, i) => make("button", {
    class: "moment", "data-place": place, click: () => seek(place),
  }, span("index", i + 1), span("why", term(why)),
  span("quiet", say("step_n", { n: whole(steps.t[place]) })))));
}

function showPlace(step) {
  const cursor = $("cursor");
  if (cursor) cursor.style.left = (count < 2 ? 50 : 100 * state.place / (count - 1)) + "%";
  const slider = $("seek");
  slider.value = String(state.place);
  const gaps = {
    step: whole(step.t), place: whole(state.place + 1), count: whole(count), action: actionName(step.action),
    episode: whole(step.episode),
  };
  if (document.activeElement !== $("jump")) $("jump").value = step.t;
  slider.setAttribute("aria-valuetext", say("slider_text", gaps));
  $("where").textContent = say(episodes > 1 ? "where_episodes" : "where", gaps);
  for (const button of $("moments").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(Number(button.dataset.place) === state.place));
  }
}

function startTimeline() {
  const plot = $("plot");
  const from = (event) => {
    const box = plot.getBoundingClientRect();
    seek(Math.round((count - 1) * (event.clientX - box.left) / Math.max(1, box.width)));
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.target.classList.contains("pin")) return;
    plot.setPointerCapture(event.pointerId);
    from(event);
  });
  plot.addEventListener("pointermove", (event) => event.buttons && plot.hasPointerCapture(event.pointerId)
    && from(event));
  new ResizeObserver(() => {
    showTimeline();
    if (count) showPlace(stepAt(state.place));
  }).observe(plot);
}
