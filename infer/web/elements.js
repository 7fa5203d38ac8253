"use strict";

/* What the pages share: elements and numbers. */

/* --- Elements --------------------------------------------------------------------------------- */

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const color = i => `var(--s${i % 8})`;

/* --- Numbers ---------------------------------------------------------------------------------- */

const isNumber = x => typeof x === "number";
function digits(x, n) {
  if (!isNumber(x)) return "–";
  const [whole, rest] = Math.abs(x).toFixed(n).split(".");
  return (x < 0 ? "−" : "") + whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") + (rest ? "." + rest : "");
}
const percent = x => isNumber(x) ? digits(100 * x, 1) + " %" : "–";
