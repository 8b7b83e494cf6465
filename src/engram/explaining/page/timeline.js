// The timeline: value, margin, rewards, explored steps, ends of episodes and key moments, with one cursor over all.
const LANES = { height: 84, value: [14, 48], margin: [52, 64], reward: [68, 84] };
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
    "aria-label": say("timeline_twin", { steps: whole(count), episodes: whole(episodes) }),
  });
  const x = (place) => across(place, wide);
  art.append(...shading(x, wide), ...lanes(x, wide), ...rewardTicks(x, wide));
  if (ends.length < wide / 3) art.append(...ends.map((place) => segment("end", x(place), 8, x(place), LANES.height)));
  const cursor = make("div", { id: "cursor", class: "cursor" });
  plot.replaceChildren(art, ...pins(wide), cursor);
  $("legend").replaceChildren(...["value", "margin", "reward", "explored", "episode_end"].map((word) => {
    return make("li", {}, make("span", { class: "key " + word, ...HIDDEN }), legendText(word));
  }));
}

function legendText(word) {
  if (word !== "value" && word !== "margin") return say("legend_" + word);
  const [low, high] = range(steps[word]);
  return say("legend_" + word, { low: show(low), high: show(high) });
}

// Runs of explored steps; more than there are pixels for are joined.
function shading(x, wide) {
  const found = [];
  const gap = Math.max(1, Math.floor(count / wide));
  let from = -1;
  let until = -1;
  const close = () => found.push(vector("rect", {
    class: "explored", x: x(from - 0.5), width: Math.max(1, x(until + 0.5) - x(from - 0.5)), y: 8,
      height: LANES.height - 8,
  }));
  for (let i = 0; i < count; i += 1) {
    if (!steps.explored[i]) continue;
    if (from >= 0 && i - until > gap) {
      close();
      from = -1;
    }
    if (from < 0) from = i;
    until = i;
  }
  if (from >= 0) close();
  return found;
}

function lanes(x, wide) {
  const found = [];
  for (const word of ["margin", "value"]) {
    const [top, bottom] = LANES[word];
    const [low, high] = word === "margin" ? range(steps.margin, [0]) : range(steps.value);
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
  const drawn = new Map();
  for (let i = 0; i < count; i += 1) {
    const reward = steps.reward[i];
    if (!reward || !Number.isFinite(reward)) continue;
    const key = Math.round(x(i)) + (reward > 0 ? "+" : "-");
    if (Math.abs(reward) > Math.abs(drawn.get(key) ?? 0)) drawn.set(key, reward);
  }
  let [good, bad] = ["", ""];
  for (const [key, reward] of drawn) {
    const tall = Math.max(2, (middle - top) * Math.abs(reward) / greatest);
    if (reward > 0) good += "M" + parseInt(key, 10) + " " + middle + "v" + (-tall).toFixed(1);
    else bad += "M" + parseInt(key, 10) + " " + middle + "v" + tall.toFixed(1);
  }
  return [segment("zero", 0, middle, wide, middle),
    vector("path", { class: "tick good", d: good }), vector("path", { class: "tick bad", d: bad })];
}

// Numbered marks of the key moments over the plot.
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
