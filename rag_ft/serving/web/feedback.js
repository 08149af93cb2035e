// Thumbs and the correction of an answer.

import { Failure, post } from "./stream.js";
import { element } from "./text.js";

const SNIPPET = 140;

/** The controls under a finished answer; they keep rating and correction in `answer`. */
export function feedbackControls(answer) {
  const status = element("span", { class: "soft", role: "status" });
  const thumbs = [
    [1, "Good answer"],
    [-1, "Bad answer"],
  ].map(([rating, label]) =>
    element(
      "button",
      {
        type: "button",
        class: "quiet thumb",
        "aria-label": label,
        title: label,
        "aria-pressed": "false",
        click: () => rate(rating),
        "data-rating": rating,
      },
      element("span", { "aria-hidden": "true" }),
    ),
  );
  const correct = element(
    "button",
    { type: "button", class: "quiet", "aria-expanded": "false", click: () => show(form.hidden) },
    "Correct this answer",
  );
  const form = correctionForm(answer, (saved) => {
    show(false);
    if (saved) status.textContent = saved;
  });

  async function rate(rating) {
    const said = await send(status, { id: answer.id, rating }, "Rating saved.");
    if (!said) return;
    status.textContent = said;
    answer.rating = rating;
    for (const thumb of thumbs) {
      thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.rating) === rating));
    }
  }

  function show(open) {
    form.hidden = !open;
    correct.setAttribute("aria-expanded", String(open));
    (open ? form.elements.answer : correct).focus();
  }

  return [element("div", { class: "actions" }, ...thumbs, correct, status), form];
}

/** `close(text)` is called at the end; without text nothing was saved. */
function correctionForm(answer, close) {
  const given = withoutMarks(answer);
  const cited = new Set(answer.citations.filter((c) => c.cited).map((c) => c.chunk_id));
  const status = element("p", { role: "alert", class: "error", hidden: true });
  const form = element(
    "form",
    { class: "correction", hidden: true, submit: save },
    element(
      "label",
      {},
      "Correct answer",
      element("textarea", { name: "answer", rows: 3, dir: "auto" }, given),
    ),
    answer.citations.length
      ? element(
          "fieldset",
          {},
          element("legend", {}, "Chunks that contain the correct answer"),
          ...answer.citations.map((citation) => chunkBox(citation, cited)),
        )
      : null,
    element(
      "label",
      {},
      "Comment (optional)",
      element("input", { name: "comment", autocomplete: "off", dir: "auto" }),
    ),
    status,
    element(
      "div",
      { class: "actions" },
      element("button", { type: "submit", class: "primary" }, "Save correction"),
      element("button", { type: "button", click: () => close() }, "Cancel"),
    ),
  );
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    close();
  });

  async function save(event) {
    event.preventDefault();
    const chosen = [...form.querySelectorAll("input:checked")].map((box) => box.value);
    const text = form.elements.answer.value.trim();
    const comment = form.elements.comment.value.trim();
    const body = { id: answer.id, rating: answer.rating ?? null };
    if (comment) body.comment = comment;
    // An answer that nobody touched is no correction.
    const sameChunks = chosen.length === cited.size && chosen.every((id) => cited.has(id));
    if (text && (text !== given || !sameChunks)) {
      Object.assign(body, { answer: text, chunk_ids: chosen });
    }
    status.hidden = true;
    if (!body.answer && !comment) {
      status.textContent = "Nothing is changed: write the correct answer, or a comment.";
      status.hidden = false;
      return;
    }
    const said = await send(status, body, body.answer ? "Correction saved." : "Comment saved.");
    if (!said) {
      status.hidden = false;
      return;
    }
    answer.correction = { answer: body.answer ?? null, chunk_ids: body.chunk_ids ?? null, comment };
    close(said);
  }
  return form;
}

function chunkBox(citation, cited) {
  const text = citation.content.replace(/\s+/g, " ");
  const points = Array.from(text);
  const snippet = points.length > SNIPPET ? `${points.slice(0, SNIPPET).join("")}…` : text;
  return element(
    "label",
    { class: "choice" },
    element("input", {
      type: "checkbox",
      value: citation.chunk_id,
      checked: cited.has(citation.chunk_id),
    }),
    element(
      "span",
      { dir: "auto" },
      element("b", {}, `[${citation.rank}] ${citation.title}`),
      ` ${snippet}`,
    ),
  );
}

/** Posts feedback. Returns what to say of it; "" after an error, which `status` then says. */
async function send(status, body, done) {
  try {
    const response = await post("/v1/feedback", body);
    const forgotten = "The server no longer knows this answer, and kept your feedback without it.";
    return response.status === 202 ? forgotten : done;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    status.textContent = error.message;
    return "";
  }
}

/** The answer without its [n]. */
function withoutMarks(answer) {
  const points = Array.from(answer.text);
  const spans = answer.annotations.map((annotation) => annotation.url_citation);
  const inside = (at) => spans.some((s) => s.start_index <= at && at < s.end_index);
  const text = points.filter((_, at) => !inside(at)).join("");
  return text.replace(/ +(?=[.,;:!?]|$)/gm, "").trim();
}
