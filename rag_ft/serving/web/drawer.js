// The drawer that shows a chunk: beside the conversation, on a narrow screen over it.

import { codePoints, element } from "./text.js";

const drawer = document.getElementById("drawer");
const heading = document.getElementById("drawer-title");
const content = document.getElementById("drawer-content");
const narrow = matchMedia("(max-width: 800px)");
let opener = null;

/** Shows a citation {rank, title, content, evidence, ...} of `total` chunks; `from` gets the focus
 * back. */
export function openDrawer(citation, total, from) {
  if (drawer.open) drawer.close();
  opener = from;
  heading.textContent = citation.title || citation.document_id;
  const page = citation.page === null ? "" : `, page ${citation.page}`;
  content.replaceChildren(
    element("p", { class: "soft" }, `Chunk ${citation.rank} of ${total}${page}: ${role(citation)}`),
    element("p", { class: "chunk", dir: "auto" }, ...marked(citation)),
    ...notes(citation),
    element(
      "p",
      {},
      element(
        "a",
        { href: citation.url, target: "_blank", rel: "noopener" },
        "Open the document (new tab)",
      ),
    ),
  );
  if (narrow.matches) drawer.showModal();
  else drawer.show();
  content.scrollTop = 0;
  content.querySelector("mark")?.scrollIntoView({ block: "nearest" });
  heading.focus();
}

/** Closes the drawer where it is open. */
export function closeDrawer() {
  if (drawer.open) drawer.close();
}

/** "cited", "cited (inferred)" or "shown, not cited". */
export function role(citation) {
  if (!citation.cited) return "shown, not cited";
  return citation.inferred ? "cited (inferred)" : "cited";
}

function marked(citation) {
  if (!citation.evidence) return [citation.content];
  const [start, end] = citation.evidence;
  const part = codePoints(citation.content);
  return [
    part(0, start),
    element("mark", { "aria-label": "evidence" }, part(start, end)),
    part(end),
  ];
}

function notes(citation) {
  const said = [];
  if (citation.inferred) {
    said.push("Inferred: the model cited nothing, and this chunk contains the answer.");
  }
  if (citation.cited && !citation.evidence) {
    said.push("No evidence is marked: the answer is not a quote from this chunk.");
  }
  return said.map((text) => element("p", { class: "soft" }, text));
}

// "close" also fires where a modal dialog is left by Esc.
drawer.addEventListener("close", () => {
  if (drawer.open) return;
  (opener?.isConnected ? opener : document.getElementById("question")).focus();
  opener = null;
});
document.getElementById("drawer-close").addEventListener("click", closeDrawer);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.defaultPrevented) closeDrawer();
});
