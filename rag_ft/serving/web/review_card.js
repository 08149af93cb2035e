// Draws a card. Nothing that a model or a document wrote is ever parsed as HTML.

import { codePoints, counted, element } from "./text.js";

const DECIDED = {
  accept: "You accepted this",
  reject: "You rejected this",
  edit: "You edited this",
  add: "You added this",
  unsure: "You were unsure",
};

/** Draws `card` into `node`; `around` shows the chunks before and after. */
export function drawCard(node, card, around) {
  const edit = ["edit", "add"].includes(card.mine?.decision) ? card.mine : null;
  const text = edit ?? card;
  node.replaceChildren(
    element(
      "section",
      { class: "sheet", "aria-label": "Question and answers" },
      ...verdicts(card),
      tags(card),
      element("h2", { dir: "auto" }, text.question),
      answerList(text.answers),
      ...said(card),
      element("h3", {}, "Checks"),
      checkList(card.checks, card.facts),
      element("div", { id: "writer" }),
    ),
    element(
      "section",
      { class: "sheet", "aria-label": "Chunk", id: "source" },
      sourceHead(card),
      element("div", { id: "before" }),
      element("div", { id: "chunks" }, ...card.chunks.map((chunk) => drawChunk(chunk, spanOf(chunk, edit)))),
      element("div", { id: "after" }),
      card.chunks.length
        ? element(
            "button",
            { type: "button", class: "around-button", id: "around", click: around },
            "Show the chunks around it ",
            element("kbd", {}, "b"),
          )
        : null,
    ),
  );
}

/** [start, end] of the evidence in a chunk, in an edit where there is one; null: none. */
function spanOf(chunk, edit) {
  if (!edit) return chunk.evidence;
  const span = edit.evidence;
  return span?.chunk_id === chunk.id ? [span.start, span.end] : null;
}

/** The text of a chunk with the evidence marked. */
export function drawChunk(chunk, span, name = "chunk") {
  const node = element("p", { class: name, dir: "auto", "data-chunk": chunk.id });
  markChunk(node, chunk.text, span);
  return node;
}

/** Marks [start, end] (code points) in the paragraph of a chunk. */
export function markChunk(node, text, span) {
  if (!span) {
    node.replaceChildren(text);
    return;
  }
  const part = codePoints(text);
  node.replaceChildren(
    part(0, span[0]),
    element("mark", { "aria-label": "evidence" }, part(span[0], span[1])),
    part(span[1]),
  );
}

/** The chunks before and after. */
export function drawNeighbours(node, found) {
  for (const side of ["before", "after"]) {
    const none = side === "before" ? "The document begins here." : "The document ends here.";
    const around = found[side].map((chunk) => drawChunk(chunk, null, "chunk around"));
    node
      .querySelector(`#${side}`)
      .replaceChildren(...(around.length ? around : [element("p", { class: "soft" }, none)]));
  }
  node.querySelector("#around")?.remove();
}

/** The checks, and facts [name, text]. */
export function checkList(checks, facts = []) {
  return element(
    "ul",
    { class: "checks" },
    ...checks.map((check) =>
      element(
        "li",
        { class: check.passed ? "pass" : "fail" },
        element(
          "span",
          { dir: "auto" },
          element("span", { class: "hidden" }, check.passed ? "passed: " : "failed: "),
          element("b", {}, check.name),
          check.detail ? ` ${check.detail}` : "",
        ),
      ),
    ),
    ...facts.map(([name, text]) =>
      element("li", { class: "fact" }, element("span", {}, element("b", {}, name), ` ${text}`)),
    ),
  );
}

export function answerList(answers) {
  const rows = answers.map((answer) => element("li", { dir: "auto" }, answer));
  const none = element("li", { class: "none" }, "No answer: the documents do not say");
  return element("ul", { class: "answers" }, ...(rows.length ? rows : [none]));
}

function tags(card) {
  const origin = { added: "added by people", served: "rated by users" }[card.origin] ?? card.origin;
  return element(
    "div",
    { class: "tags" },
    element("span", { class: "tag strong" }, card.kind.replace("_", " ")),
    element("span", { class: "tag" }, card.split),
    // "rejected" would give away what the checks decided.
    card.origin === "rejected" && !card.mine ? null : element("span", { class: "tag" }, origin),
  );
}

function sourceHead(card) {
  const { title, place, url } = card.document;
  return element(
    "div",
    { class: "source-head" },
    element(
      "span",
      {},
      element("strong", { dir: "auto" }, title),
      place ? element("span", { class: "soft", dir: "auto" }, ` ${place}`) : null,
    ),
    url
      ? element("a", { href: url, target: "_blank", rel: "noopener", class: "soft" }, "Open the document")
      : null,
  );
}

function said(card) {
  if (!card.said.length) return [];
  const rows = card.said.map((row) => {
    const thumb = { 1: "Good answer", "-1": "Bad answer" }[row.rating];
    return element("li", { class: "fact" }, element("span", {}, [thumb, row.comment].filter(Boolean).join(": ")));
  });
  return [element("h3", {}, "Users of the server said"), element("ul", { class: "checks" }, ...rows)];
}

/** What was decided. Before this reviewer has decided, only that others have. */
function verdicts(card) {
  if (!card.mine) {
    if (!card.num_others) return [];
    const who = counted(card.num_others, "other reviewer");
    return [element("p", { class: "verdict" }, `Also decided by ${who}; shown after you decide.`)];
  }
  const { decision, reason } = card.mine;
  const rows = [
    element(
      "p",
      { class: `verdict ${decision}` },
      element("b", {}, DECIDED[decision]),
      reason ? `: ${reason}` : "",
      ". ",
      element("kbd", {}, "u"),
      " takes it back.",
    ),
  ];
  if (card.judge) {
    const verb = card.judge.keeps ? "The checks of generation kept it" : "A check of generation rejected it";
    const detail = card.judge.detail ? `: ${card.judge.detail}` : ".";
    rows.push(element("p", { class: "verdict", dir: "auto" }, `${verb}${detail}`));
  }
  for (const other of card.others) {
    const why = other.reason ? ` (${other.reason})` : "";
    rows.push(
      element("p", { class: `verdict ${other.decision}` }, element("b", {}, other.reviewer), `: ${other.decision}${why}`),
    );
  }
  return rows;
}
