"use strict";
// The question browser. Text of documents only ever becomes text nodes, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const WHY = ["equals an accepted answer", "contains an accepted answer and more", "shares words with an accepted answer",
    "shares no word with an accepted answer", "abstained, as it should",
    "abstained: the gold chunk was not in its context", "abstained although the gold chunk was in its context",
    "answered where it should have abstained", "abstained; the gold chunk is not known"];
  const PAGE = 25;
  let found = [], shown = 0;

  function element(name, css, text) {
    const made = document.createElement(name);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  }
  // Text of people and documents in a line with words of the page: its direction is its own, and moves nothing else.
  function own(text) {
    return element("bdi", "", text);
  }
  function option(select, value, text) {
    const made = element("option", "", text);
    made.value = value;
    select.append(made);
  }
  function score(question, system) {
    const answer = question.a[system];
    return answer ? answer[2] : null;
  }
  function matches(question, wanted) {
    if (wanted.kind && question.kind !== wanted.kind) return false;
    if (wanted.origin && question.origin !== wanted.origin) return false;
    const a = question.a[wanted.left], b = question.a[wanted.right];
    if (wanted.show !== "all" && !(a && b)) return false;
    if (wanted.show === "changed" && a[0] === b[0]) return false;
    if (wanted.show === "better" && !(b[2] > a[2])) return false;
    if (wanted.show === "worse" && !(b[2] < a[2])) return false;
    if (wanted.show === "wrong" && !(a[1] === 0 && b[1] === 0)) return false;
    return !wanted.text || text(question).includes(wanted.text);
  }
  function text(question) {
    if (!question.text) {
      const said = Object.values(question.a).map((answer) => answer[0]);
      const place = question.doc === null ? "" : data.documents[question.doc];
      question.text = [question.q, place, question.id, ...question.answers, ...said].join("\n").toLowerCase();
    }
    return question.text;
  }
  function side(question, system) {
    const answer = question.a[system];
    const box = element("div", "side");
    box.append(element("div", "name", data.systems[system]));
    if (!answer) {
      const leftOut = data.unlocated.includes(system) && question.answers.length && !question.gold.length;
      box.append(element("div", "why", leftOut ? "not asked: the gold chunk is not known" : "no reply: the language model failed"));
      return box;
    }
    const [said, em, f1, why, , cited, inferred] = answer;
    box.classList.add(f1 === 1 ? "right" : f1 === 0 ? "wrong" : "part");
    box.append(element("div", "said", said || "(empty)"));
    box.append(element("div", "why", `${WHY[why]} · ${data.scores[0]} ${100 * em} · ${data.scores[1]} ${(100 * f1).toFixed(0)}`));
    if (cited.length) box.append(element("div", "why", (inferred ? "found in " : "cites ") + cited.map((n) => data.chunks[n].id).join(", ")));
    return box;
  }
  function context(question, number, rank) {
    const chunk = data.chunks[number];
    const gold = question.gold.includes(number);
    const box = element("div", gold ? "context gold" : "context");
    const name = element("div", "name");
    name.append(`[${rank}] `, own(chunk.id), ...(chunk.title ? [" · ", own(chunk.title)] : []), gold ? " · gold chunk" : "");
    const letters = Array.from(chunk.t);  // positions count characters; a string's own would count an emoji as two
    const span = question.ev && chunk.doc === question.doc ? question.ev.map((at) => Math.min(Math.max(at - chunk.s, 0), letters.length)) : [0, 0];
    const part = (from, to) => letters.slice(from, to).join("");
    const passage = element("div", "passage", part(0, span[0]));
    if (span[1] > span[0]) passage.append(element("mark", "", part(span[0], span[1])));
    passage.append(part(Math.max(span[0], span[1])));
    const places = Object.entries(question.r[number] || {}).map(([ranking, [place, score]]) => `${data.rankings[ranking].replaceAll("_", " ")} ${place} (${score})`);
    box.append(name, passage, element("div", "why", places.length ? "rank (score): " + places.join(" · ") : "found by no ranking"));
    return box;
  }
  function contexts(question, system) {
    const answer = question.a[system];
    const box = element("details");
    if (!answer || !answer[4].length) return null;
    box.append(element("summary", "", `context of ${data.systems[system]}`));
    box.addEventListener("toggle", () => {
      if (box.open && box.children.length === 1) answer[4].forEach((number, i) => box.append(context(question, number, i + 1)));
    });
    return box;
  }
  function card(question, wanted) {
    const box = element("article", "card");
    box.append(element("div", "q", question.q));
    const accepted = element("div", "accepted", question.answers.length ? "accepted: " : "not answerable from the documents");
    question.answers.forEach((answer, i) => accepted.append(i ? " | " : "", own(answer)));
    const where = element("div", "where", `${question.kind} · ${question.origin} · `);
    where.append(question.doc === null ? "no known document" : own(data.documents[question.doc]), " · ", own(question.id));
    box.append(accepted, where);
    const sides = element("div", "sides");
    sides.append(side(question, wanted.left), side(question, wanted.right));
    box.append(sides);
    for (const system of new Set([wanted.left, wanted.right])) {
      const shownContext = contexts(question, system);
      if (shownContext) box.append(shownContext);
    }
    return box;
  }
  function wanted() {
    return { text: byId("search").value.trim().toLowerCase(), show: byId("show").value, left: Number(byId("left").value),
      right: Number(byId("right").value), kind: byId("kind").value, origin: byId("origin").value };
  }
  function more() {
    const now = wanted();
    byId("list").append(...found.slice(shown, shown + PAGE).map((question) => card(question, now)));
    shown = Math.min(shown + PAGE, found.length);
    byId("more").hidden = shown >= found.length;
  }
  function refresh() {
    const now = wanted();
    found = data.questions.filter((question) => matches(question, now));
    if (now.show === "better" || now.show === "worse") {
      const gap = (question) => Math.abs(score(question, now.right) - score(question, now.left));
      found.sort((a, b) => gap(b) - gap(a));
    }
    byId("found").textContent = `${found.length} of ${data.questions.length} questions`;
    byId("list").replaceChildren();
    shown = 0;
    more();
  }
  function start() {
    data.systems.forEach((name, i) => { option(byId("left"), i, name); option(byId("right"), i, name); });
    byId("left").value = Math.max(0, data.systems.indexOf("base"));
    byId("right").value = Math.max(0, data.systems.indexOf("tuned"));
    for (const field of ["kind", "origin"]) {
      const values = [...new Set(data.questions.map((question) => question[field]))].sort();
      values.forEach((value) => option(byId(field), value, value));
      if (values.length < 2) byId(field).parentElement.hidden = true;
    }
    let timer = 0;
    byId("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(refresh, 120); });
    for (const id of ["show", "left", "right", "kind", "origin"]) byId(id).addEventListener("change", refresh);
    byId("more").addEventListener("click", more);
    document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
    refresh();
  }
  start();
})();
