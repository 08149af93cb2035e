// One answer of the conversation: its text, its marks [n] and the chunks behind it.

import { openDrawer, role } from "./drawer.js";
import { feedbackControls } from "./feedback.js";
import { codePoints, counted, element } from "./text.js";

/** What is known of an answer before the first frame. */
export function newAnswer(model) {
  return { model, id: null, text: "", state: "waiting", annotations: [], citations: [] };
}

/** An answer on the page. `retry` asks its question again. */
export class AnswerView {
  constructor(answer, retry) {
    this.answer = answer;
    this.retry = retry;
    this.text = element("p", { class: "text", dir: "auto" });
    this.waiting = element("p", { class: "soft waiting" }, "Searching the documents…");
    this.below = element("div");
    this.node = element(
      "section",
      { class: "answer", "aria-busy": "true", "aria-label": `Answer of ${answer.model}` },
      element("h3", {}, answer.model),
      this.waiting,
      this.text,
      this.below,
    );
  }

  /** Takes one frame of the stream. */
  take(frame) {
    const { answer } = this;
    answer.id = frame.id;
    const [choice] = frame.choices;
    if (!choice) return;
    const { content, annotations, context } = choice.delta;
    if (content) {
      this.waiting.hidden = true;
      answer.text += content;
      this.text.append(content);
    }
    if (!context) return;
    Object.assign(answer, {
      annotations,
      citations: context.citations,
      searched: context.standalone_question,
      cutOff: choice.finish_reason === "length",
    });
  }

  /** Shows the answer after its last frame; `answer.state` is done, stopped or failed. */
  finish(question) {
    const { answer } = this;
    this.waiting.hidden = true;
    this.text.replaceChildren(...this.withMarks());
    const notes = [];
    if (answer.state === "stopped") notes.push("Stopped.");
    if (answer.state === "done" && !answer.text) notes.push("The answer is empty.");
    if (answer.cutOff) notes.push("The answer reached its longest length and is cut off.");
    if (answer.searched && answer.searched !== question) {
      notes.push(`Searched for: ${answer.searched}`);
    }
    const below = notes.map((text) => element("p", { class: "soft", dir: "auto" }, text));
    if (answer.state === "failed") below.push(this.failure());
    if (answer.state === "done") below.push(...this.sources(), ...feedbackControls(answer));
    this.below.replaceChildren(...below);
    this.node.setAttribute("aria-busy", "false");
  }

  /** The text, with a button for each number of a mark. */
  withMarks() {
    const { text, annotations } = this.answer;
    const part = codePoints(text);
    const spans = annotations.map((annotation) => annotation.url_citation);
    const children = [];
    let at = 0;
    // A mark [1, 2] has two annotations with one span.
    for (const { start_index: start, end_index: end } of spans) {
      if (start < at) continue;
      children.push(part(at, start));
      for (const number of part(start, end).match(/\d+/g) ?? []) {
        children.push(this.opener(Number(number), `[${number}]`, "mark"));
      }
      at = end;
    }
    children.push(part(at));
    return children;
  }

  /** A button that opens the chunk shown as `number`. */
  opener(number, text, kind, title = null) {
    const { citations } = this.answer;
    const citation = citations[number - 1];
    if (!citation) return text;
    const named = `Open chunk ${number}: ${citation.title} (${role(citation)})`;
    return element(
      "button",
      {
        type: "button",
        class: kind,
        "aria-label": named,
        "aria-haspopup": "dialog",
        click: (event) => openDrawer(citation, citations.length, event.currentTarget),
      },
      text,
      title,
    );
  }

  sources() {
    const { citations } = this.answer;
    if (!citations.length) return [element("p", { class: "soft" }, "No chunks were shown.")];
    const row = (citation) =>
      element(
        "li",
        { class: citation.cited ? "cited" : null },
        this.opener(citation.rank, `[${citation.rank}] `, "source", citation.title),
        element("span", { class: "soft" }, ` ${role(citation)}`),
      );
    const cited = citations.filter((citation) => citation.cited);
    const rest = citations.filter((citation) => !citation.cited);
    const parts = [element("h4", {}, cited.length ? "Sources" : "This answer cites no chunk.")];
    if (cited.length) parts.push(element("ul", { class: "sources" }, ...cited.map(row)));
    if (rest.length) {
      parts.push(
        element(
          "details",
          {},
          element("summary", {}, `${counted(rest.length, "chunk")} shown, not cited`),
          element("ul", { class: "sources" }, ...rest.map(row)),
        ),
      );
    }
    return parts;
  }

  failure() {
    const { answer } = this;
    const again = element("button", { type: "button", click: this.retry }, "Try again");
    const signIn = element("a", { href: "/login" }, "Sign in");
    const next = answer.signIn ? signIn : again;
    return element("p", { class: "error", role: "alert" }, `${answer.error} `, next);
  }
}
