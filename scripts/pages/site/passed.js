// A check mark behind the links to exercises that are passed in this browser.
export const passed = (() => { try { return { ...JSON.parse(localStorage.getItem("minigrad exercises")).state.passed }; } catch { return {}; } })();
for (const link of document.querySelectorAll("a[href]")) {
  const [, name] = link.pathname.match(/\/exercises\/(\w+)\.html$/) ?? [];
  if (name in passed) link.after(" \u2713");
}
