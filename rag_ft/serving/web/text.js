// Elements from text. Nothing that a model or a document wrote is ever parsed as HTML.

/** An element with children, which are elements or strings. A function among the attributes listens
 * to the event of its name; true sets an attribute without value, false and null leave it out. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A function (start, end) -> part of the text. The server counts code points, a string of
 * JavaScript counts UTF-16 units. */
export function codePoints(text) {
  const points = Array.from(text);
  return (start, end) => points.slice(start, end).join("");
}

/** "1 chunk", "5 chunks". */
export function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
