// The review page: which card is shown, the keys, and what is sent. Cards are drawn by
// review_card.js, what a reviewer writes by review_edit.js.

import { drawCard, drawNeighbours } from "./review_card.js";
import { isWriting, openWriter } from "./review_edit.js";
import { counted, element } from "./text.js";

const $ = (id) => document.getElementById(id);
const AHEAD = 3; // cards that are fetched before they are needed
const filters = $("filters");
const name = $("reviewer");
name.value = localStorage.getItem("reviewer") || document.body.dataset.reviewer;

let numbers = []; // of the cards that match the filter
let at = 0; // the place of the shown card in `numbers`
let shown = null; // the card itself
let seen = 0; // lines of reviews.jsonl that the page knows
let busy = false;
let changed = false; // the filter or the reviewer, since the cards were asked for
const done = new Set(); // numbers that this reviewer decided since the filter was set
const taken = new Set(); // numbers that others decided meanwhile
const past = []; // [numbers] of each decision, for undo
const cards = new Map(); // number -> promise of a card

async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached: is it still running? Nothing was saved.");
  }
  if (response.ok) return response.json();
  if (response.status === 401) location.assign("/login");
  const said = await response.json().catch(() => null);
  throw new Error(said?.error?.message || `The server answered with status ${response.status}.`);
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

/** Runs what a key or button asks for, one thing at a time; an error is shown. What the filter was
 * changed to meanwhile is asked for afterwards. */
async function run(action) {
  if (busy) return;
  busy = true;
  document.body.dataset.busy = "yes";
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  } finally {
    busy = false;
    document.body.dataset.busy = "no";
    if (changed) run(loadQueue);
  }
}

// Cards.

function fetchCard(number) {
  if (!cards.has(number)) {
    const wanted = call(`/review/cards/${number}?reviewer=${encodeURIComponent(name.value)}`);
    wanted.catch(() => cards.delete(number));
    cards.set(number, wanted);
  }
  return cards.get(number);
}

/** Asks for the cards of the filter at once. One request is on its way at a time, so fast typing
 * needs no wait. */
function reload() {
  changed = true;
  run(loadQueue);
}

async function loadQueue() {
  changed = false;
  const query = new URLSearchParams(new FormData(filters));
  query.set("reviewer", name.value);
  const found = await call(`/review/queue?${query}`);
  numbers = found.numbers;
  // What was decided before this page was opened can be undone too.
  if (!past.length) past.push(...found.recent.reverse().map((number) => [number]));
  done.clear();
  taken.clear();
  cards.clear();
  if (found.card) cards.set(numbers[0], Promise.resolve(found.card));
  at = 0;
  takeOver(found);
  await show();
}

/** Takes over the rates, and what others decided since. */
function takeOver(found) {
  seen = found.seen;
  for (const [number, reviewers] of Object.entries(found.changed)) {
    if (reviewers.some((reviewer) => reviewer !== name.value)) taken.add(Number(number));
  }
  drawRates(found.rates);
}

async function show() {
  cancelReject();
  const total = numbers.length;
  $("empty").hidden = total > 0;
  $("card").hidden = total === 0;
  drawProgress();
  if (!total) {
    shown = null;
    $("empty").textContent = "No card matches. Press / to change the filter.";
    return;
  }
  const card = await fetchCard(numbers[at]);
  shown = card;
  drawCard($("card"), card, () => run(around));
  $("main").scrollTop = 0;
  for (let next = at + 1; next <= at + AHEAD && next < total; next++) {
    fetchCard(numbers[next]).catch(() => {});
  }
}

function drawProgress() {
  const total = numbers.length;
  const num = numbers.filter((number) => done.has(number)).length;
  $("count").textContent = total ? `${at + 1} of ${total} · ${num} decided` : "0 cards";
  $("progress").firstElementChild.style.width = `${total ? (100 * num) / total : 0}%`;
  $("progress").setAttribute("aria-valuemax", String(total));
  $("progress").setAttribute("aria-valuenow", String(num));
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

function drawRates(rates) {
  const [all] = rates;
  const interval = all.num ? ` (${percent(all.low)} to ${percent(all.high)})` : "";
  $("rate").replaceChildren(
    all.num ? `Accepted ${percent(all.share)}` : "Accept rate",
    element("span", { class: "interval" }, interval),
  );
  $("rates").querySelector("tbody").replaceChildren(
    ...rates.map((row) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, row.name),
        element("td", {}, `${row.num_good} of ${row.num}`),
        element("td", {}, row.num ? percent(row.share) : "–"),
        element("td", {}, row.num ? `${percent(row.low)} to ${percent(row.high)}` : "–"),
      ),
    ),
  );
}

// Steps and decisions.

async function step(by) {
  const place = at + by;
  if (place < 0 || place >= numbers.length) {
    say(by > 0 ? "This is the last card." : "This is the first card.");
    return;
  }
  at = place;
  say("");
  await show();
}

/** Shows the next card that nobody has decided meanwhile; the last one stays. */
async function forward() {
  let place = at + 1;
  while (place < numbers.length && (done.has(numbers[place]) || taken.has(numbers[place]))) place++;
  if (place >= numbers.length) {
    const left = numbers.filter((number) => !done.has(number) && !taken.has(number)).length;
    const more = left ? ` ${counted(left, "card")} before it still to decide.` : " All are decided.";
    cards.delete(numbers[at]);
    await show();
    $("status").textContent += ` This is the last card.${more}`;
    return;
  }
  at = place;
  await show();
}

/** Sends a decision about cards, and goes on when it is on the disk. */
async function send(decision, about, extra = {}) {
  const found = await call("/review/decisions", {
    reviewer: name.value,
    numbers: about,
    decision,
    seen,
    ...extra,
  });
  for (const number of about) {
    cards.delete(number);
    if (decision === "undo") done.delete(number);
    else if (decision !== "add") done.add(number);
  }
  if (found.card) cards.set(about[0], Promise.resolve(found.card));
  takeOver(found);
  return found;
}

const SAID = { accept: "Accepted", reject: "Rejected", unsure: "Unsure", edit: "Edited" };

async function decide(decision, extra) {
  if (!shown) return;
  const about = [shown.number];
  await send(decision, about, extra);
  past.push(about);
  const why = extra?.reason ? `: ${extra.reason}` : "";
  say(`${SAID[decision]}${why}. u takes it back.`);
  await forward();
}

async function undo() {
  // On a card that was decided, that decision is meant.
  const index = shown?.mine ? past.findLastIndex((each) => each.includes(shown.number)) : -1;
  const older = shown?.mine ? [shown.number] : past.pop();
  const about = index >= 0 ? past.splice(index, 1)[0] : older;
  if (!about) {
    say("There is nothing to undo.");
    return;
  }
  try {
    await send("undo", about);
  } catch (error) {
    past.push(about);
    throw error;
  }
  // The card shows again, also where the filter did not have it; an added question is gone.
  const place = numbers.indexOf(about[0]);
  if (place >= 0) at = place;
  else if ((await fetchCard(about[0])).origin !== "added") numbers.splice(at, 0, about[0]);
  say(`Taken back: ${counted(about.length, "decision")}.`);
  await show();
}

async function bulk(decision) {
  const about = numbers.filter((number) => !done.has(number) && !taken.has(number));
  if (!about.length) return;
  const dialog = $("bulk");
  const verb = { accept: "Accept", reject: "Reject", unsure: "Mark as unsure:" }[decision];
  $("bulk-title").textContent = `${verb} all ${counted(about.length, "card")} that match the filter?`;
  dialog.returnValue = "no";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "yes") return;
  await send(decision, about, decision === "reject" ? { reason: "other" } : {});
  past.push(about);
  say(`${SAID[decision]}: ${counted(about.length, "card")}. u takes them back.`);
  cards.clear();
  await show();
}

// Rejecting asks for the reason.

function askReason() {
  if (!shown) return;
  $("decide").hidden = true;
  $("why").hidden = false;
  $("why").querySelector("button").focus();
  say("Why is it rejected?");
}

function cancelReject() {
  $("decide").hidden = false;
  if ($("why").hidden) return;
  $("why").hidden = true;
  if ($("status").textContent === "Why is it rejected?") say("");
  $("card").focus({ preventScroll: true });
}

async function around() {
  drawNeighbours($("card"), await call(`/review/neighbours/${shown.number}`));
}

function write(isNew) {
  if (!shown) return;
  openWriter($("card"), shown, isNew, {
    check: (written) => call("/review/checks", written),
    save: (written) =>
      run(async () => {
        if (!isNew) {
          await decide("edit", { written });
          return;
        }
        const found = await send("add", [shown.number], { written });
        if (found.added !== null) {
          past.push([found.added]);
          done.add(found.added);
        }
        say("Question added. u takes it back.");
        await show();
      }),
    cancel: () => {
      drawCard($("card"), shown, () => run(around));
      $("card").focus();
    },
  });
}

// Keys and buttons.

const ACTIONS = {
  accept: () => run(() => decide("accept")),
  unsure: () => run(() => decide("unsure")),
  reject: askReason,
  cancel: cancelReject,
  edit: () => write(false),
  add: () => write(true),
  undo: () => run(undo),
  next: () => run(() => step(1)),
  previous: () => run(() => step(-1)),
};
const KEYS = {
  a: ACTIONS.accept,
  s: ACTIONS.unsure,
  r: ACTIONS.reject,
  e: ACTIONS.edit,
  n: ACTIONS.add,
  u: ACTIONS.undo,
  j: ACTIONS.next,
  k: ACTIONS.previous,
  b: () => shown && run(around),
  A: () => run(() => bulk("accept")),
  R: () => run(() => bulk("reject")),
  S: () => run(() => bulk("unsure")),
  "?": () => $("help").showModal(),
  "/": () => {
    toggleFilters(true);
    $("text").focus();
    $("text").select();
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, textarea, select");
  if (typing) {
    // Esc leaves a field; what is written in a card listens for itself.
    const leaves = event.key === "Escape" || (event.key === "Enter" && typing.tagName === "INPUT");
    if (leaves && !typing.closest(".write")) $("card").focus();
    return;
  }
  if (!$("why").hidden) {
    const button = $("why").querySelectorAll("[data-reason]")[Number(event.key) - 1];
    if (button) button.click();
    else if (event.key === "Escape") cancelReject();
    else if (!["Tab", "Enter", " ", "Shift"].includes(event.key)) return;
    if (button || event.key === "Escape") event.preventDefault();
    return;
  }
  const action = isWriting() ? null : KEYS[event.key];
  if (!action || (event.repeat && !"jk".includes(event.key))) return;
  event.preventDefault();
  action();
});
$("actions").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || isWriting()) return;
  if (button.dataset.reason) run(() => decide("reject", { reason: button.dataset.reason }));
  else ACTIONS[button.dataset.do]();
});
$("show-help").addEventListener("click", () => $("help").showModal());

function toggleFilters(open) {
  filters.classList.toggle("open", open);
  $("show-filters").setAttribute("aria-expanded", String(open));
}
$("show-filters").addEventListener("click", () => toggleFilters(!filters.classList.contains("open")));

filters.addEventListener("input", reload);
filters.addEventListener("submit", (event) => event.preventDefault());
$("clear").addEventListener("click", () => {
  filters.reset();
  reload();
});
name.addEventListener("change", () => {
  name.value = name.value.trim() || document.body.dataset.reviewer;
  localStorage.setItem("reviewer", name.value);
  past.length = 0;
  reload();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#rates")) $("rates").open = false;
});

run(loadQueue);
