// What a reviewer writes: an edit of a card, or a question of their own about its chunk.

import { checkList, markChunk } from "./review_card.js";
import { element } from "./text.js";

const PAUSE_MS = 150; // after the last key, before the checks are asked
let open = null;

/** Whether somebody is writing: keys are off. */
export function isWriting() {
  return open !== null && open.isConnected;
}

/** Puts a form in place of the card's question. `isNew`: a question of one's own.
 * `on` is {check, save, cancel}. */
export function openWriter(node, card, isNew, on) {
  const before = ["edit", "add"].includes(card.mine?.decision) ? card.mine : null;
  const start = isNew ? { question: "", answers: [] } : (before ?? card);
  let evidence = isNew ? null : firstEvidence(card, before);
  const checks = element("div", { "aria-live": "polite" });
  const hint = element("p", { class: "hint" });
  const form = element(
    "form",
    { class: "write", submit: save, keydown: keys },
    element("h2", {}, isNew ? "A question of your own" : "Edit"),
    element(
      "label",
      {},
      "Question",
      element("textarea", { name: "question", rows: 3, dir: "auto", maxlength: 20000 }, start.question),
    ),
    element(
      "label",
      {},
      "Answers, one a line; none: the documents do not say",
      element("textarea", { name: "answers", rows: 2, dir: "auto" }, start.answers.join("\n")),
    ),
    element(
      "label",
      {},
      "Evidence: select it in the chunk, or type it",
      element("textarea", { name: "evidence", rows: 2, dir: "auto", input: typeEvidence }),
    ),
    hint,
    element("h3", {}, "Checks"),
    checks,
    element(
      "div",
      { class: "row" },
      element("button", { type: "submit", class: "primary" }, "Save ", element("kbd", {}, "Ctrl+Enter")),
      element("button", { type: "button", click: cancel }, "Cancel ", element("kbd", {}, "Esc")),
    ),
  );
  open = form;
  document.body.classList.add("writing");
  node.querySelector(".sheet").replaceChildren(form);
  document.addEventListener("selectionchange", select);
  const stop = () => {
    document.removeEventListener("selectionchange", select);
    document.body.classList.remove("writing");
  };
  showEvidence();
  markEvidence();
  form.elements.question.focus();
  let waiting = 0;
  form.addEventListener("input", later);
  ask();

  function written() {
    return {
      number: card.number,
      question: form.elements.question.value,
      answers: form.elements.answers.value.split("\n"),
      evidence,
      is_new: isNew,
    };
  }

  function later() {
    clearTimeout(waiting);
    waiting = setTimeout(ask, PAUSE_MS);
  }

  async function ask() {
    if (!form.elements.question.value.trim()) {
      checks.replaceChildren();
      return;
    }
    const asked = JSON.stringify(written());
    const found = await on.check(written()).catch((error) => ({
      checks: [{ name: "checks", passed: false, detail: error.message }],
    }));
    // An answer to an older text is not shown.
    if (form.isConnected && asked === JSON.stringify(written())) {
      checks.replaceChildren(checkList(found.checks));
    }
  }

  /** Selected text of a chunk becomes the evidence. */
  function select() {
    const selection = document.getSelection();
    if (!form.isConnected || selection.isCollapsed || !selection.rangeCount) return;
    const range = selection.getRangeAt(0);
    const chunk = range.startContainer.parentElement?.closest("[data-chunk]");
    if (!chunk || chunk !== range.endContainer.parentElement?.closest("[data-chunk]")) return;
    const head = document.createRange();
    head.setStart(chunk, 0);
    head.setEnd(range.startContainer, range.startOffset);
    const from = Array.from(head.toString()).length;
    const text = Array.from(range.toString());
    // Without the white space around it.
    const lead = text.findIndex((point) => point.trim());
    if (lead < 0) return;
    const trail = text.findLastIndex((point) => point.trim());
    evidence = { chunk_id: chunk.dataset.chunk, start: from + lead, end: from + trail + 1 };
    showEvidence();
    later();
  }

  /** Typed evidence must stand in a chunk of the card word for word. */
  function typeEvidence() {
    const quote = form.elements.evidence.value.trim();
    evidence = null;
    for (const chunk of quote ? node.querySelectorAll("[data-chunk]") : []) {
      const at = chunk.textContent.indexOf(quote);
      if (at < 0) continue;
      const start = Array.from(chunk.textContent.slice(0, at)).length;
      evidence = { chunk_id: chunk.dataset.chunk, start, end: start + Array.from(quote).length };
      break;
    }
    hint.textContent = quote && !evidence ? "The chunk does not contain this text." : "";
    markEvidence();
  }

  function showEvidence() {
    const chunk = node.querySelector(`[data-chunk="${CSS.escape(evidence?.chunk_id ?? "")}"]`);
    const points = Array.from(chunk?.textContent ?? "");
    form.elements.evidence.value = evidence ? points.slice(evidence.start, evidence.end).join("") : "";
    hint.textContent = "";
  }

  function markEvidence() {
    for (const chunk of node.querySelectorAll("[data-chunk]")) {
      const span = evidence?.chunk_id === chunk.dataset.chunk ? [evidence.start, evidence.end] : null;
      markChunk(chunk, chunk.textContent, span);
    }
  }

  function keys(event) {
    if (event.key === "Escape") {
      event.preventDefault();
      cancel();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  }

  function cancel() {
    stop();
    open = null;
    on.cancel();
  }

  async function save(event) {
    event.preventDefault();
    if (!form.elements.question.value.trim()) {
      form.elements.question.focus();
      return;
    }
    await on.save(written());
    if (!form.isConnected) {
      stop();
      open = null;
    }
  }
}

function firstEvidence(card, before) {
  if (before) return before.evidence;
  const chunk = card.chunks.find((each) => each.evidence);
  return chunk ? { chunk_id: chunk.id, start: chunk.evidence[0], end: chunk.evidence[1] } : null;
}
