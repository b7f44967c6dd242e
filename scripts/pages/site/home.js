// The first page: a story, and the words that may follow. The first answers came with the page; Python, which begins to
// load at the first click, gives the others.
import { at, dataOfPage, button, element, shade, visible } from "../widgets/common.js";
import { openedIn } from "../lesson.js";
import { python } from "./python.js";
const { context, text, answers, lessons } = dataOfPage();
const WRITTEN = 40; // tokens
const MODEL = { model: "stories" };
const MODEL_SIZE = " and the model (3 MB)";
let story = null; // {ids, tokens}: the tokens and their texts, the whole story
let turn = 0; // the last question is the one whose answer is shown

const missing = python.missing();
const wake = () => { if (!missing) python.begin().catch(() => {}); }; // the next question tells the error

// Ask for the words that may follow. question: {text}, or {ids} of the whole story.
async function ask(question) {
  turn += 1;
  document.querySelector(".try").setAttribute("aria-busy", "true"); // until this answer is drawn
  const mine = turn, ids = question.ids?.slice(-context);
  try {
    const found = answers.find((answer) => answer.text === question.text || String(answer.ids) === String(ids)) ?? (await look({ ...question, ids }));
    if (mine !== turn) return;
    const before = question.ids ? story.tokens.slice(0, question.ids.length - ids.length) : [];
    story = { ids: question.ids ?? found.ids, tokens: [...before, ...found.tokens] };
    draw(found.alternatives);
  } catch (error) {
    if (mine !== turn) return;
    at("state").textContent = error.message;
    document.querySelector(".try").setAttribute("aria-busy", "false");
  }
}

async function look(question) {
  if (missing) throw new Error(missing);
  python.say(at("state"), "reading ...", MODEL_SIZE);
  const found = await python.call("explore.look", { ...MODEL, question }, MODEL);
  if (found.error) throw new Error(`This cannot be read: ${found.error}.`);
  return found;
}

function draw(alternatives) {
  at("story").textContent = story.tokens.join("");
  at("state").textContent = "";
  document.querySelector(".try").setAttribute("aria-busy", "false");
  at("alternatives").replaceChildren(...alternatives.map(({ id, text: word, p }) => button({ style: shade(p), onclick: () => ask({ ids: [...story.ids, id] }) },
    element("code", {}, visible(word)), element("span", {}, p < 0.0005 ? " < 0.1 %" : ` ${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`))));
}

async function write() {
  if (missing) return ask({});
  turn += 1;
  python.say(at("state"), "writing ...", MODEL_SIZE);
  const said = (part) => { at("story").textContent += part; };
  const seed = Math.floor(Math.random() * 1e6);
  try {
    const { ids, tokens } = await python.call("explore.write", { ...MODEL, ids: story.ids, tokens: WRITTEN, seed }, { ...MODEL, said });
    story = { ids: [...story.ids, ...ids], tokens: [...story.tokens, ...tokens] };
    await ask({ ids: story.ids });
  } catch (error) {
    at("state").textContent = error.message;
  }
}

const [lesson, title] = lessons.find(([name, , questions]) => openedIn(name).length < questions) ?? lessons[0];
if (lessons.some(([name]) => openedIn(name).length)) at("start").replaceChildren("Continue with: ", element("a", { href: `lessons/${lesson}.html` }, title));
function begin() {
  at("text").value = text;
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask({ text: at("text").value });
  });
  at("write").addEventListener("click", write);
  at("again").addEventListener("click", () => {
    at("text").value = text;
    ask({ text });
  });
  for (const event of ["pointerdown", "keydown"]) document.querySelector(".try").addEventListener(event, wake);
  ask({ text });
  if (missing) at("state").textContent = missing;
}

if (answers) begin(); // there are none until the site's model is trained
