// Which answers of a lesson the reader has opened. The browser keeps it (localStorage), so the index knows it as well.
// Without storage, or where the index has another origin than the page, a lesson counts as long as it is open.
import { storage } from "./widgets/common.js";

const keyOf = (lesson) => `minigrad lesson ${lesson}`;
export const openedIn = (lesson) => JSON.parse(storage.get(keyOf(lesson)) ?? "[]");

function showProgress() {
  for (const place of document.querySelectorAll("[data-lesson]:not([data-read])")) {
    const opened = openedIn(place.dataset.lesson).length, all = Number(place.dataset.answers);
    place.classList.toggle("done", opened >= all);
    if (opened) place.textContent = opened >= all ? "done" : `${opened} of ${all} answers opened`;
  }
  const next = document.querySelector(".index .progress:not(.done)")?.closest("li").querySelector("h3").firstChild;
  const done = document.querySelectorAll(".index .progress.done").length;
  if (next && done) {
    document.querySelector(".next p").textContent = `${done} done. Continue with:`;
    document.querySelector(".next p + *").replaceWith(next.cloneNode(true));
  }
}

// A click, by mouse or keyboard; printing a page opens all answers, too, and is no reading.
document.querySelectorAll(".answer > summary").forEach((summary, i) => summary.addEventListener("click", () => {
  const { lesson } = document.querySelector("[data-lesson]").dataset;
  storage.set(keyOf(lesson), JSON.stringify([...new Set([...openedIn(lesson), i])]));
  showProgress();
}));
// On paper, nothing is folded.
addEventListener("beforeprint", () => document.querySelectorAll(".cell details").forEach((fold) => { fold.open = true; }));
addEventListener("pageshow", showProgress); // also on the way back from another page
addEventListener("storage", showProgress); // an answer was opened in another tab
