// The chat page: asks, shows the answers as they come, keeps the conversation.

import { AnswerView, newAnswer } from "./answer.js";
import { closeDrawer } from "./drawer.js";
import { exportThread } from "./export.js";
import { ask, Failure } from "./stream.js";
import { counted, element } from "./text.js";

const [form, input, thread, model, compare, stop, send, status, exports] = [
  "ask", "question", "thread", "model", "compare", "stop", "send", "status", "export",
].map((id) => document.getElementById(id));

/** Turns {question, answers}: what is sent as history, and exported. */
let turns = [];
let running = new Set();

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = input.value.trim();
  if (!question || running.size) return;
  input.value = "";
  askQuestion(question);
});

input.addEventListener("keydown", (event) => {
  // While an input method composes a character, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

stop.addEventListener("click", () => {
  for (const controller of running) controller.abort();
  input.focus();
});

document.getElementById("new").addEventListener("click", () => {
  for (const controller of running) controller.abort();
  turns = [];
  thread.replaceChildren();
  closeDrawer();
  offerControls();
  status.textContent = "New chat.";
  input.focus();
});

for (const button of exports.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    exportThread(turns, button.dataset.kind);
    closeExports();
  });
}
exports.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && exports.open) {
    event.preventDefault();
    closeExports();
  }
});
document.addEventListener("click", (event) => {
  if (!exports.contains(event.target)) exports.open = false;
});
model.addEventListener("change", offerControls);

function closeExports() {
  exports.open = false;
  exports.querySelector("summary").focus();
}

/** What can be done at the moment. */
function offerControls() {
  const pressed = [send, stop].includes(document.activeElement);
  stop.hidden = running.size === 0;
  send.hidden = running.size > 0;
  // A button that hides would take the focus with it.
  if (pressed) (stop.hidden ? send : stop).focus();
  exports.hidden = turns.length === 0;
  document.getElementById("welcome").hidden = turns.length > 0;
  // Without tuned components both answers would be the same.
  const chosen = model.selectedOptions[0].dataset;
  compare.disabled = chosen.tuned !== "yes";
  document.getElementById("compare-why").hidden = !compare.disabled;
}

/** The models that a question goes to. */
function asked() {
  if (!compare.checked || compare.disabled) return [model.value];
  const { run } = model.selectedOptions[0].dataset;
  return [run, `${run}-base`];
}

async function askQuestion(question) {
  const turn = { question, answers: asked().map(newAnswer) };
  const before = [...turns];
  turns.push(turn);
  const views = turn.answers.map((answer) => {
    const view = new AnswerView(answer, () => again(view));
    return view;
  });
  const again = (view) => {
    if (running.size) return;
    Object.assign(view.answer, newAnswer(view.answer.model), { error: null, signIn: false });
    const fresh = new AnswerView(view.answer, () => again(fresh));
    view.node.replaceWith(fresh.node);
    input.focus();
    answerAll([fresh], question, before);
  };
  const answers = element("div", { class: "answers" }, ...views.map((view) => view.node));
  const title = element("h2", { class: "question", dir: "auto" }, question);
  thread.append(element("article", {}, title, answers));
  title.scrollIntoView({ block: "start" });
  await answerAll(views, question, before);
}

async function answerAll(views, question, before) {
  status.textContent = "Answering.";
  const mine = turns;
  await Promise.all(views.map((view) => answerOne(view, question, before)));
  if (turns !== mine) return;
  const failed = views.filter((view) => view.answer.state === "failed").length;
  status.textContent = failed ? `${counted(failed, "answer")} failed.` : "The answer is complete.";
}

async function answerOne(view, question, before) {
  const { answer } = view;
  const controller = new AbortController();
  running.add(controller);
  offerControls();
  try {
    const messages = [...history(before, answer.model), { role: "user", content: question }];
    for await (const frame of ask(answer.model, messages, controller.signal)) {
      const follows = isAtEnd();
      view.take(frame);
      if (follows) scrollToEnd();
    }
    answer.state = controller.signal.aborted ? "stopped" : "done";
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    Object.assign(answer, { state: "failed", error: error.message, signIn: error.signIn });
  } finally {
    running.delete(controller);
    const follows = isAtEnd();
    view.finish(question);
    if (follows) scrollToEnd();
    offerControls();
  }
}

/** The turns before a question as messages: each with this model's answer, else with another's.
 * Turns without an answer are left out. */
function history(before, name) {
  return before.flatMap(({ question, answers }) => {
    const own = answers.find((answer) => answer.model === name && answer.text);
    const answer = own ?? answers.find((other) => other.text);
    if (!answer) return [];
    return [
      { role: "user", content: question },
      { role: "assistant", content: answer.text },
    ];
  });
}

function isAtEnd() {
  const { scrollHeight, scrollTop, clientHeight } = thread.parentElement;
  return scrollHeight - scrollTop - clientHeight < 40;
}

function scrollToEnd() {
  const view = thread.parentElement;
  view.scrollTop = view.scrollHeight;
}

offerControls();
