"use strict";
// What every page shares: its data, its elements, its colours, its numbers.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children); // strings become text, never markup
  return made;
}

/** A tensor's name, which may break after its dots. */
const nameParts = (name) => name.split(/(?<=\.)/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));

/** The order of two cells of a column, either way; those without a value come last. */
function compareCells(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = a < b ? -1 : a > b ? 1 : 0;
  return descending ? -order : order;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// --- numbers, as intruders/system/words.py writes them

function numberText(value) {
  if (value === null || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (value === 0 || (size >= 0.001 && size < 1e5)) return String(Number(value.toPrecision(3)));
  return value.toExponential(2).replace(/(?<=e[+-])\d$/, "0$&");
}

function percentText(share) {
  if (share === null || !Number.isFinite(share)) return "-";
  const value = 100 * share;
  if (value === 0 || value === 100 || value > 100) return `${value.toFixed(0)} %`;
  return value < 0.1 ? "<0.1 %" : `${Math.min(value, 99.9).toFixed(1)} %`;
}

/** A count that may be open, with its noun. */
const intrudersText = (least, most) => `${rangeText(least, most)} intruder${least === 1 && most === 1 ? "" : "s"}`;
const rangeText = (least, most) => (least === most ? least.toLocaleString("en") : `${least.toLocaleString("en")}–${most.toLocaleString("en")}`);

// --- colours: the system's, light, or dark; paper is always light

const SCHEMES = ["system", "light", "dark"];
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const drawings = []; // functions that draw a figure in the colours of the moment
let scheme = "system";
let printing = false;
const unfolded = []; // parts that were closed, and are open on paper

function onDraw(draw) {
  drawings.push(draw);
  draw();
}

function applyScheme() {
  const dark = !printing && (scheme === "dark" || (scheme === "system" && darkSystem.matches));
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").textContent = `Colors: ${scheme}`;
  $("theme").setAttribute("aria-label", `Colors: ${scheme}. Change`);
}

function changeScheme() {
  applyScheme();
  for (const draw of drawings) draw();
}

$("theme").addEventListener("click", () => {
  scheme = SCHEMES[(SCHEMES.indexOf(scheme) + 1) % SCHEMES.length];
  changeScheme();
});
darkSystem.addEventListener("change", changeScheme);
for (const [event, now] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    printing = now;
    document.body.classList.toggle("printing", now);
    // Nobody can open a part on paper. The window has it closed again.
    if (now) unfolded.push(...document.querySelectorAll("details:not([open])"));
    for (const part of now ? unfolded : unfolded.splice(0)) part.open = now;
    changeScheme();
    // A figure that was given the width of paper keeps it until it is told to fit its frame again.
    if (!now) for (const plot of document.querySelectorAll(".plot")) Plotly.Plots.resize(plot);
  });
}
applyScheme();
