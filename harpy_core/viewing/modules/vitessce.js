// The page: Vitessce with the configuration beside it, and a view of crops linked to the others.
import { createElement as h, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom";
import { CoordinationType, PluginViewType, Vitessce, useCoordination } from "vitessce";

const MOST = 200;
const LINKED = ["OBS_HIGHLIGHT", "OBS_SET_SELECTION", "ADDITIONAL_OBS_SETS"]
  .map((name) => CoordinationType[name]);

/** Names of the observations in the sets that are selected. */
function selected(sets, paths) {
  const names = new Set();
  for (const path of paths ?? []) {
    let nodes = sets?.tree ?? [], node;
    for (const name of path) {
      node = nodes.find((one) => one.name === name);
      nodes = node?.children ?? [];
    }
    for (const [name] of node?.set ?? []) names.add(name);
  }
  return [...names];
}

/** One crop, drawn when its pixels are there. */
function Crop({ name, side: [height, width], marked, onPoint }) {
  const canvas = useRef(null);
  const [there, setThere] = useState(true);
  useEffect(() => {
    const stop = new AbortController();
    fetch(`crops/${name}`, { signal: stop.signal })
      .then((answer) => (answer.ok ? answer.arrayBuffer() : null))
      .then((found) => {
        setThere(found !== null);
        if (found === null) return;
        const pixels = new ImageData(new Uint8ClampedArray(found), width, height);
        canvas.current?.getContext("2d").putImageData(pixels, 0, 0);
      })
      .catch(() => {});
    return () => stop.abort();
  }, [name]);
  return there && h("figure", {
    className: marked ? "marked" : "",
    "data-name": name,
    // Another view tells that it was left after this one was entered.
    onMouseMove: () => marked || onPoint(name),
    onMouseLeave: () => onPoint(null),
  }, h("canvas", { ref: canvas, width, height }), h("figcaption", null, name));
}

/** Crops of the selected cells, and of the one under the pointer. */
function Crops({ coordinationScopes, side, first }) {
  const [values, { setObsHighlight }] = useCoordination(LINKED, coordinationScopes);
  const { obsHighlight, obsSetSelection, additionalObsSets } = values;
  const chosen = selected(additionalObsSets, obsSetSelection);
  const shown = (chosen.length ? chosen : first).slice(0, MOST);
  const told = chosen.length
    ? `Crops of the selected cells: ${shown.length} of ${chosen.length}`
    : "Crops: select cells with the lasso of the scatter plot";
  const crop = (name) =>
    h(Crop, { key: name, name, side, marked: name === obsHighlight, onPoint: setObsHighlight });
  const pointed = obsHighlight !== null && !shown.includes(obsHighlight) ? [obsHighlight] : [];
  return h("div", { className: "crops" }, h("p", null, told), [...pointed, ...shown].map(crop));
}

const config = await (await fetch("vitessce.json")).json();
for (const dataset of config.datasets) {
  for (const file of dataset.files) file.url = new URL(file.url, document.baseURI).href;
}
const place = document.getElementById("vitessce");
const height = () => Math.max(window.innerHeight - place.offsetTop, 600);

function Page() {
  const [tall, setTall] = useState(height());
  useEffect(() => window.addEventListener("resize", () => setTall(height())), []);
  return h(Vitessce, {
    config,
    height: tall,
    theme: "light",
    pluginViewTypes: [new PluginViewType("crops", Crops, LINKED)],
    onConfigChange: (changed) => { globalThis.shownConfig = changed; },
  });
}

createRoot(place).render(h(Page));
document.body.dataset.ready = "yes";
