// Which answers of a lesson the reader has opened. The browser keeps it (localStorage), so the index knows it as well.
// Without storage, or where the index has another origin than the page, a lesson counts as long as it is open.
const KEPT = "minigrad lesson ";
const answersOpened = {};

function openedIn(lesson) {
  try {
    answersOpened[lesson] ??= JSON.parse(localStorage.getItem(KEPT + lesson)) ?? [];
  } catch {
    answersOpened[lesson] ??= [];
  }
  return answersOpened[lesson];
}

function showProgress() {
  for (const place of document.querySelectorAll("[data-lesson]:not([data-read])")) {
    const opened = openedIn(place.dataset.lesson).length, all = Number(place.dataset.answers);
    place.classList.toggle("done", opened >= all);
    if (opened) place.textContent = opened >= all ? "done" : `${opened} of ${all} answers opened`;
  }
  const next = document.querySelector(".index .progress:not(.done)")?.closest("li").querySelector("h3").firstChild;
  const done = document.querySelectorAll(".index .progress.done").length;
  if (next && done) {
    document.querySelector(".next p").textContent = `${done} done. Go on with:`;
    document.querySelector(".next p + *").replaceWith(next.cloneNode(true));
  }
}

// A click, by mouse or keyboard; printing a page opens all answers, too, and is no reading.
document.querySelectorAll(".answer > summary").forEach((summary, i) => summary.addEventListener("click", () => {
  const { lesson } = document.querySelector("[data-lesson]").dataset;
  if (!openedIn(lesson).includes(i)) openedIn(lesson).push(i);
  try {
    localStorage.setItem(KEPT + lesson, JSON.stringify(openedIn(lesson)));
  } catch { /* this browser keeps nothing */ }
  showProgress();
}));
// On paper, nothing is folded.
addEventListener("beforeprint", () => document.querySelectorAll(".cell details").forEach((fold) => { fold.open = true; }));
addEventListener("pageshow", () => { Object.keys(answersOpened).forEach((lesson) => delete answersOpened[lesson]); showProgress(); });
