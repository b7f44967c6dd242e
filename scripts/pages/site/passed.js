// A check mark behind the links to exercises that are passed in this browser.
const { passed = {} } = JSON.parse(localStorage.getItem("minigrad exercises") ?? '{"state": {}}').state;
for (const link of document.querySelectorAll("a[href]")) {
  const [, name] = link.pathname.match(/\/exercises\/(\w+)\.html$/) ?? [];
  if (name in passed) link.after(" \u2713");
}
