// Drawing: elements that hold text only, pictures, attention over them, lines and bars.
const SVG = "http://www.w3.org/2000/svg";
const HIDDEN = { "aria-hidden": "true" };

// An element; text goes in as text.
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  if (tag === "button") element.type = "button";
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") element.textContent = value;
    else if (name === "click") element.addEventListener("click", value);
    else if (value !== null && (value || name !== "disabled")) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function vector(tag, options = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(options)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const span = (kind, text, more = {}) => make("span", { class: kind || null, text, ...more });

const segment = (kind, x1, y1, x2, y2) => vector("line", { class: kind, x1, y1, x2, y2 });
const note = (text) => make("p", { class: "quiet", text });
const remark = (word, gaps) => note(say(word, gaps));
const heading = (word, gaps) => make("h3", { text: say(word, gaps) });
const toggle = (text, on, click, more = {}) => make("button", { text, "aria-pressed": on, click, ...more });
const SMALL = { class: "small" };
const box = (kind, ...children) => make("div", { class: kind || null }, ...children);
const ordered = (kind, ...children) => make("ol", { class: kind }, ...children);

// A horizontal bar from share `from` to share `to` of its track.
function bar(from, to, kind = "") {
  const fill = make("span", { class: "fill " + kind });
  const [low, high] = [Math.min(from, to), Math.max(from, to)].map((x) => Math.max(0, Math.min(1, x || 0)));
  fill.style.left = 100 * low + "%";
  fill.style.width = 100 * (high - low) + "%";
  return make("span", { class: "track", ...HIDDEN }, fill);
}

// To the right what is for the choice, to the left what is against it.
const effectBar = (effect, most) => bar(0.5, 0.5 + 0.5 * effect / most, effect < 0 ? "against" : "for");

function table(names, rows) {
  const head = make("tr", {}, ...names.map((text) => make("th", { scope: "col", text })));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((text, i) => {
    return make(i ? "td" : "th", { text, scope: i ? null : "row" });
  })));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": names[0] },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

const folded = (title, ...children) => make("details", {}, make("summary", { text: title }), ...children);

// Sheets are decoded when first needed.
const sheets = [];
function sheetOf(index) {
  if (!sheets[index]) {
    const image = sheets[index] = new Image();
    image.src = data.images.sheets[index].source;
  }
  return sheets[index];
}

// Draw a picture, now or when its sheet is decoded, unless another was asked for since.
function paint(canvas, number) {
  const index = pictures.sheet[number];
  const sheet = data.images.sheets[index];
  const slot = pictures.slot[number];
  canvas.width = sheet.width;
  canvas.height = sheet.height;
  canvas.dataset.wanted = String(number);
  canvas.dataset.painted = "";
  const image = sheetOf(index);
  const draw = () => {
    if (canvas.dataset.wanted !== String(number)) return;
    const left = (slot % sheet.columns) * sheet.width;
    const top = Math.floor(slot / sheet.columns) * sheet.height;
    canvas.getContext("2d").drawImage(
      image, left, top, sheet.width, sheet.height, 0, 0, sheet.width, sheet.height);
    canvas.dataset.painted = String(number);
  };
  if (image.complete && image.naturalWidth) draw();
  else image.addEventListener("load", draw, { once: true });
}

function thumbnail(number, label) {
  const canvas = make("canvas", { class: "thumb", role: "img", "aria-label": label });
  paint(canvas, number);
  return canvas;
}

// viridis, at five points.
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function hue(share) {
  const x = Math.max(0, Math.min(1, share)) * (SCALE.length - 1);
  const low = Math.min(SCALE.length - 2, Math.floor(x));
  return SCALE[low].map((from, i) => Math.round(from + (SCALE[low + 1][i] - from) * (x - low)));
}

// The weights of one head, or their mean; or of the measured effects each part's share.
const MEASURED = -2;
function headWeights(step, head) {
  const heads = step.attention;
  const effects = step.parts_mattered;
  if (effects.length && (head === MEASURED || !heads.length)) {
    const total = effects.reduce((sum, [, effect]) => sum + Math.abs(effect), 0) || 1;
    const shares = step.parts.map(() => 0);
    for (const [part, effect] of effects) shares[part] = Math.abs(effect) / total;
    return shares;
  }
  if (!heads.length) return [];
  if (head >= 0) return heads[Math.min(head, heads.length - 1)];
  return heads[0].map((_, part) => heads.reduce((sum, weights) => sum + weights[part], 0) / heads.length);
}

const BOXES = 5; // that are outlined
function overlay(canvas, step, weights, opacity, outlined) {
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const [across, down] = [Math.max(1, canvas.clientWidth), Math.max(1, canvas.clientHeight)];
  canvas.width = Math.round(across * ratio);
  canvas.height = Math.round(down * ratio);
  const brush = canvas.getContext("2d");
  const greatest = Math.max(0, ...finite(weights));
  if (!greatest) return;
  const shown = outlined ? order(weights).slice(0, BOXES) : weights.map((_, part) => part);
  for (const part of shown) {
    const share = weights[part] / greatest;
    const box = step.parts[part] && step.parts[part].box;
    if (!box || !(share > 0)) continue;
    const [left, top] = [box[0] * canvas.width, box[1] * canvas.height];
    const [wide, high] = [(box[2] - box[0]) * canvas.width, (box[3] - box[1]) * canvas.height];
    brush.globalAlpha = outlined ? opacity : share * opacity;
    if (outlined) outline(brush, [left, top, wide, high], share, percent(weights[part]), ratio);
    else {
      brush.fillStyle = "rgb(" + hue(share).join(",") + ")";
      brush.fillRect(left, top, wide, high);
    }
  }
}

// A box as thick as its weight, dark around so that it shows on any picture.
function outline(brush, [left, top, wide, high], share, label, ratio) {
  brush.font = 11 * ratio + "px system-ui, sans-serif";
  for (const [colour, extra] of [["#000", 2 * ratio], ["#fde725", 0]]) {
    brush.strokeStyle = brush.fillStyle = colour;
    brush.lineWidth = (1 + 3 * share) * ratio + extra;
    brush.strokeRect(left, top, wide, high);
    if (extra) brush.fillRect(left, top, brush.measureText(label).width + 3 * extra, 15 * ratio);
    else brush.fillText(label, left + 3 * ratio, top + 11 * ratio);
  }
}

// A line; where there are more values than pixels, the least and greatest of each column. Gaps stay gaps.
function trace(values, x, y, pixels) {
  const each = Math.max(1, Math.ceil(values.length / Math.max(1, pixels)));
  let path = "";
  let pen = "M";
  for (let from = 0; from < values.length; from += each) {
    const part = finite(Array.from(values.slice(from, from + each)));
    if (!part.length) {
      pen = "M";
      continue;
    }
    const low = Math.min(...part);
    const high = Math.max(...part);
    for (const value of each === 1 ? [low] : [low, high]) {
      path += pen + x(from).toFixed(1) + " " + y(value).toFixed(1);
      pen = "L";
    }
  }
  return path;
}

// The least and greatest of finite numbers, apart from each other.
function range(values, also = []) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of [values, also]) {
    for (const value of list) {
      if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
  }
  if (low > high) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

function histogram(values, title, unit) {
  const bars = Array.from({ length: values.length / 3 }, (_, i) => Array.from(values.slice(3 * i, 3 * i + 3)));
  if (!bars.length) return box("", heading(title), remark("nothing_counted"));
  const greatest = Math.max(1, ...bars.map((each) => each[2]));
  const shape = make("div", { class: "histogram", ...HIDDEN });
  for (const [, , entries] of bars) {
    const column = make("span");
    column.style.height = Math.max(entries ? 2 : 0, 100 * entries / greatest) + "%";
    shape.append(column);
  }
  const ends = box("ends", span("", show(bars[0][0])),
    span("", unit), span("", show(bars[bars.length - 1][1])));
  const rows = bars.map(([from, to, entries]) => [show(from) + " \u2013 " + show(to), whole(entries)]);
  return box("", heading(title), shape, ends, folded(say("as_table"), table([unit, say("entries")], rows)));
}
