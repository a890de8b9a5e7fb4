"use strict";
const content = JSON.parse(document.getElementById("content").textContent);
const { width, height, ids, channels, statistics, planes } = content;
const count = ids.length;
const LIGHTS = ["#00bfff", "#ff26a6", "#ffd900", "#ffffff", "#4dff88", "#ff7a33", "#8f7bff", "#ff4d4d",
                "#00e6cf", "#c8ff4d", "#ff9ecf", "#9ec7ff"];
const LEFT = 110;  // of the heat map: the names of its channels
const MOST_SHOWN = 40, UNASKED = 24;  // crops of a selection, and without one
const get = id => document.getElementById(id);
const selected = new Set();
let view = { x: 0, y: 0, scale: 1 };
const cropOf = new Map((content.crops ? content.crops.instances : []).map((instance, i) => [instance, i]));
let labels, pixels, values, small, order, rank, places, pointed = -1;

async function inflated(text, kind) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new kind(await new Response(stream).arrayBuffer());
}

function value(instance, channel, statistic) {
  return values[(statistic * count + instance) * channels.length + channel];
}

function column(channel, statistic) {
  return Float64Array.from({ length: count }, (_, i) => value(i, channel, statistic));
}

function range(numbers) {
  const finite = Array.from(numbers).filter(Number.isFinite).sort((a, b) => a - b);
  if (!finite.length) return [0, 1];
  const low = finite[Math.floor(0.01 * (finite.length - 1))];
  const high = finite[Math.ceil(0.99 * (finite.length - 1))];
  return high > low ? [low, high] : [low, low + 1];
}

// Perceptually uniform enough, and told apart by every kind of colour vision.
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function ramp(share) {
  if (!Number.isFinite(share)) return [120, 120, 120];
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const left = Math.min(Math.floor(place), RAMP.length - 2), part = place - left;
  return RAMP[left].map((v, i) => Math.round(v + part * (RAMP[left + 1][i] - v)));
}

function rgb(hex) { return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)); }

function coloured() {
  const numbers = column(+get("channel").value, +get("statistic").value);
  const [low, high] = range(numbers);
  return Array.from(numbers, number => ramp((number - low) / (high - low)));
}

function outline(at, x, y) {
  const here = labels[at];
  return here !== (x ? labels[at - 1] : 0) || here !== (y ? labels[at - width] : 0)
    || here !== (x < width - 1 ? labels[at + 1] : 0) || here !== (y < height - 1 ? labels[at + width] : 0);
}

function composite() {
  const shown = planes.map((_, i) => i).filter(i => get("plane" + i).checked);
  const lights = shown.map(i => rgb(LIGHTS[i % LIGHTS.length]));
  const strength = get("strength").value / 100, colours = coloured();
  const lines = get("outlines").checked;
  const picture = new ImageData(width, height), out = picture.data;
  for (let y = 0, at = 0; y < height; y++) for (let x = 0; x < width; x++, at++) {
    let colour = [0, 0, 0];
    shown.forEach((plane, i) => {
      const brightness = pixels[plane * width * height + at] / 255;
      for (let c = 0; c < 3; c++) colour[c] += brightness * lights[i][c];
    });
    const instance = labels[at] - 1;
    if (instance >= 0) {
      const fill = colours[instance];
      for (let c = 0; c < 3; c++) colour[c] += strength * (fill[c] - colour[c]);
      if (selected.has(instance) && outline(at, x, y)) colour = [255, 176, 0];
      else if (lines && outline(at, x, y)) colour = strength > 0.5 ? [20, 24, 31] : [235, 238, 242];
    }
    for (let c = 0; c < 3; c++) out[4 * at + c] = Math.min(colour[c], 255);
    out[4 * at + 3] = 255;
  }
  return picture;
}

const field = document.createElement("canvas");
function drawImage(again = true) {
  if (again) {
    field.width = width; field.height = height;
    field.getContext("2d").putImageData(composite(), 0, 0);
  }
  const canvas = get("image"), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const fit = canvas.width / width * view.scale;
  context.drawImage(field, -view.x * fit, -view.y * fit, width * fit, height * fit);
}

function drawScatter() {
  const canvas = get("scatter"), context = canvas.getContext("2d"), edge = 34;
  const statistic = +get("statistic").value, colours = coloured();
  const axes = ["across", "up"].map(id => column(+get(id).value, statistic));
  const [[x0, x1], [y0, y1]] = axes.map(range);
  context.fillStyle = "#0c0f14";
  context.fillRect(0, 0, canvas.width, canvas.height);
  places = Array.from({ length: count }, (_, i) => [
    edge + (axes[0][i] - x0) / (x1 - x0) * (canvas.width - 2 * edge),
    canvas.height - edge - (axes[1][i] - y0) / (y1 - y0) * (canvas.height - 2 * edge)]);
  const dot = (i, radius, fill) => {
    if (!places[i].every(Number.isFinite)) return;
    context.beginPath(); context.arc(...places[i], radius, 0, 7);
    context.fillStyle = fill; context.fill();
  };
  colours.forEach((colour, i) => dot(i, 4, `rgb(${colour})`));
  selected.forEach(i => dot(i, 7, "#ffb000"));
  context.fillStyle = "#9aa6b5"; context.font = "16px system-ui, sans-serif";
  const number = v => Number(v.toPrecision(3)).toLocaleString("en");
  context.fillText(`${number(x0)} to ${number(x1)}: ${channels[get("across").value]}`, edge, canvas.height - 10);
  context.save(); context.translate(16, canvas.height - edge); context.rotate(-Math.PI / 2);
  context.fillText(`${number(y0)} to ${number(y1)}: ${channels[get("up").value]}`, 0, 0); context.restore();
}

function drawHeatmap() {
  const statistic = +get("statistic").value, chosen = +get("channel").value;
  const key = column(chosen, statistic);
  order = Array.from(key.keys()).sort((a, b) => (key[a] - key[b]) || (a - b));
  rank = new Int32Array(count);
  order.forEach((instance, place) => { rank[instance] = place; });
  const canvas = get("heatmap"), left = LEFT, row = Math.min(Math.max(160 / channels.length, 16), 32);
  canvas.height = row * channels.length + 10;
  const context = canvas.getContext("2d"), step = (canvas.width - left) / Math.max(count, 1);
  context.fillStyle = "#0c0f14"; context.fillRect(0, 0, canvas.width, canvas.height);
  context.font = "12px system-ui, sans-serif";
  channels.forEach((name, channel) => {
    const numbers = column(channel, statistic), [low, high] = range(numbers);
    order.forEach((instance, place) => {
      context.fillStyle = `rgb(${ramp((numbers[instance] - low) / (high - low))})`;
      context.fillRect(left + place * step, channel * row, step + 0.6, row - 1);
    });
    context.fillStyle = channel === chosen ? "#ffb000" : "#9aa6b5";
    context.fillText(name.length > 15 ? name.slice(0, 14) + "…" : name, 4, (channel + 0.5) * row + 4);
  });
  context.fillStyle = "#ffb000";
  order.forEach((instance, place) => {
    if (selected.has(instance))
      context.fillRect(left + place * step, row * channels.length, Math.max(step, 2), 8);
  });
  get("heading").textContent = `Heat map: ${statistics[statistic]}, instances ordered by `
    + `${channels[chosen]}, each channel from its 1st to its 99th percentile`;
}

// The crop, its channels in their colours as in the image; null where the page holds none.
function crop(instance) {
  if (!cropOf.has(instance)) return null;
  const { height, width, planes: own } = content.crops;
  const picture = new ImageData(width, height), out = picture.data.fill(255), size = width * height;
  const shown = own.map((plane, i) => [plane, i]).filter(([plane]) => get("plane" + plane).checked);
  const first = cropOf.get(instance) * own.length;
  for (let at = 0; at < size; at++) for (let c = 0; c < 3; c++) {
    let light = 0;
    for (const [plane, i] of shown)
      light += small[(first + i) * size + at] / 255 * rgb(LIGHTS[plane % LIGHTS.length])[c];
    out[4 * at + c] = Math.min(light, 255);
  }
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

function cutOut(instance) {
  const side = content.window, canvas = document.createElement("canvas");
  const [x, y] = content.centroids[instance].map(v => Math.round(v) - Math.floor(side / 2));
  canvas.width = canvas.height = side;
  canvas.getContext("2d").drawImage(field, -x, -y);
  return canvas;
}

function pictured(instance) {
  const figure = document.createElement("figure"), text = document.createElement("figcaption");
  const number = value(instance, +get("channel").value, +get("statistic").value);
  const own = crop(instance);
  text.textContent = `${ids[instance]}: ${Number(number.toPrecision(4))}`
    + (own || !content.crops ? "" : " (window)");
  figure.dataset.instance = instance;
  figure.append(own || cutOut(instance), text);
  return figure;
}

// Some from the lowest to the highest value, of those that have crops, if there are crops.
function unasked() {
  const known = content.crops ? order.filter(i => cropOf.has(i)) : order;
  const most = Math.min(UNASKED, known.length);
  return Array.from({ length: most }, (_, i) =>
    known[Math.round(i * (known.length - 1) / Math.max(most - 1, 1))]);
}

function drawCrops() {
  const asked = order.filter(i => selected.has(i));
  const what = content.crops ? "Crops" : "Windows";
  get("crops").replaceChildren(...(asked.length ? asked.slice(0, MOST_SHOWN) : unasked()).map(instance => {
    const figure = pictured(instance);
    figure.tabIndex = 0;
    figure.classList.toggle("chosen", selected.has(instance));
    return figure;
  }));
  get("chosen").textContent = asked.length
    ? `${what} of the selected instances: ${Math.min(asked.length, MOST_SHOWN)} of ${asked.length}`
    : `${what} from the lowest to the highest ${statistics[get("statistic").value]} of `
      + `${channels[get("channel").value]}; click one to select it`;
}

// A mark in every view, and the crop at its side, of the instance under the pointer.
function point(instance) {
  pointed = instance;
  const image = get("image"), unit = image.width / width * view.scale, there = instance >= 0;
  const inImage = there && content.centroids[instance].map((v, i) => (v + 0.5 - [view.x, view.y][i]) * unit);
  const step = (get("heatmap").width - LEFT) / Math.max(count, 1);
  const marked = [["image", inImage], ["scatter", there && places[instance]],
                  ["heatmap", there && [LEFT + (rank[instance] + 0.5) * step, 0]]];
  for (const [id, at] of marked) {
    const canvas = get(id), mark = canvas.nextElementSibling;
    mark.hidden = !(at && at.every(Number.isFinite));
    if (mark.hidden) continue;
    mark.style.left = `${100 * at[0] / canvas.width}%`;
    if (id !== "heatmap") mark.style.top = `${100 * at[1] / canvas.height}%`;
  }
  for (const figure of get("crops").children)
    figure.classList.toggle("here", +figure.dataset.instance === instance);
  get("pointed").replaceChildren(...(there ? [pictured(instance)] : []));
}

function draw() { drawImage(); drawScatter(); drawHeatmap(); drawCrops(); point(pointed); }

function select(instances, more) {
  if (!more) selected.clear();
  instances.forEach(i => selected.add(i));
  draw();
}

function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width,
          (event.clientY - box.top) * canvas.height / box.height];
}

function dragged(id, found, done, moving) {
  const canvas = get(id);
  let from = null;
  canvas.addEventListener("pointerdown", event => {
    from = place(canvas, event); canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    const to = place(canvas, event);
    if (from && moving) from = moving(from, to) || from;
    const instance = found(to);
    if (instance !== pointed) point(instance);
  });
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("pointerup", event => {
    if (from) done(from, place(canvas, event), event.shiftKey);
    from = null;
  });
}

function inImage(to) {
  const unit = get("image").width / width * view.scale;
  const x = Math.floor(view.x + to[0] / unit), y = Math.floor(view.y + to[1] / unit);
  return x >= 0 && y >= 0 && x < width && y < height ? labels[y * width + x] - 1 : -1;
}

function inScatter(to) {
  let best = -1, nearest = 8;
  places.forEach(([x, y], i) => {
    const distance = Math.hypot(x - to[0], y - to[1]);
    if (distance < nearest) [best, nearest] = [i, distance];
  });
  return best;
}

function inHeatmap(to) {
  const found = order[Math.floor((to[0] - LEFT) * count / (get("heatmap").width - LEFT))];
  return found === undefined ? -1 : found;
}

function listenToImage() {
  let moved = false;
  const canvas = get("image"), unit = () => canvas.width / width * view.scale;
  dragged("image", inImage, (from, to, more) => {
    const found = inImage(to);
    if (!moved) select(found >= 0 ? [found] : [], more);
    moved = false;
  }, (from, to) => {
    if (!moved && Math.hypot(to[0] - from[0], to[1] - from[1]) < 4) return null;
    moved = true;
    view.x -= (to[0] - from[0]) / unit(); view.y -= (to[1] - from[1]) / unit();
    drawImage(false);
    return to;
  });
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const [x, y] = place(canvas, event), before = unit();
    const at = [view.x + x / before, view.y + y / before];
    view.scale = Math.min(Math.max(view.scale * Math.exp(-event.deltaY / 400), 1), 40);
    view.x = at[0] - x / unit(); view.y = at[1] - y / unit();
    drawImage(false); point(pointed);
  }, { passive: false });
  get("whole").addEventListener("click", () => { view = { x: 0, y: 0, scale: 1 }; drawImage(false); });
}

function listenToCrops() {
  const strip = get("crops");
  const of = event => { const figure = event.target.closest("figure"); return figure ? +figure.dataset.instance : -1; };
  for (const kind of ["pointerover", "focusin"]) strip.addEventListener(kind, event => point(of(event)));
  for (const kind of ["pointerleave", "focusout"]) strip.addEventListener(kind, () => point(-1));
  const choose = event => { if (of(event) >= 0) select([of(event)], event.shiftKey); };
  strip.addEventListener("click", choose);
  strip.addEventListener("keydown", event => { if (event.key === "Enter") choose(event); });
}

function listen() {
  listenToImage();
  listenToCrops();
  dragged("scatter", inScatter, (from, to, more) => {
    const [x0, x1] = [from[0], to[0]].sort((a, b) => a - b), [y0, y1] = [from[1], to[1]].sort((a, b) => a - b);
    const near = Math.max(x1 - x0, y1 - y0) < 4 ? 5 : 0;
    const inside = places.map(([x, y], i) =>
      x >= x0 - near && x <= x1 + near && y >= y0 - near && y <= y1 + near ? i : -1);
    select(inside.filter(i => i >= 0), more);
  });
  dragged("heatmap", inHeatmap, (from, to, more) => {
    const step = (get("heatmap").width - LEFT) / Math.max(count, 1);
    const [first, last] = [from[0], to[0]].sort((a, b) => a - b).map(x => Math.floor((x - LEFT) / step));
    select(order.slice(Math.max(first, 0), Math.max(last + 1, 0)), more);
  });
  for (const id of ["channel", "statistic", "across", "up", "strength", "outlines"])
    get(id).addEventListener("input", draw);
  get("channels").addEventListener("input", draw);
}

function fill() {
  document.title = get("title").textContent = content.title;
  get("what").textContent = content.what;
  for (const id of ["channel", "across", "up"])
    channels.forEach((name, i) => get(id).add(new Option(name, i)));
  statistics.forEach((name, i) => get("statistic").add(new Option(name, i)));
  get("up").value = Math.min(1, channels.length - 1);
  planes.forEach((name, i) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox"; box.id = "plane" + i; box.checked = content.shown.includes(i);
    label.style.color = LIGHTS[i % LIGHTS.length];
    label.append(box, " " + name);
    get("channels").append(label);
  });
  const image = get("image");
  image.width = 960; image.height = Math.round(960 * height / width);
  get("scatter").width = 720; get("scatter").height = 860;
  get("heatmap").width = 1400;
  const held = cropOf.size.toLocaleString("en");
  if (content.crops)
    get("held").textContent = cropOf.size === count ? ""
      : `The page holds the crops of ${held} of these ${count.toLocaleString("en")} instances; `
        + "of the others it shows windows of the image.";
}

async function start() {
  fill();
  labels = await inflated(content.labels, Uint16Array);
  pixels = await inflated(content.pixels, Uint8Array);
  values = await inflated(content.values, Float32Array);
  small = content.crops && await inflated(content.crops.pixels, Uint8Array);
  listen();
  // #17,42 opens the page with these instances selected.
  const asked = new Set(location.hash.slice(1).split(",").filter(Boolean));
  select(ids.map((id, i) => asked.has(String(id)) ? i : -1).filter(i => i >= 0));
  get("told").textContent = `${count.toLocaleString("en")} instances`;
  document.body.dataset.ready = "yes";
}
start().catch(error => { get("told").textContent = `This page could not be shown: ${error}`; });
