"""Pages in a headless Chromium: opening and using them.

And what is wrong with them as people see them: too wide, text that fades into its background, headings out of order.
"""

import contextlib

PHONE, DESKTOP = {"width": 390, "height": 800}, {"width": 1280, "height": 900}

FAULTS = """() => {
  const faults = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`${root.scrollWidth - root.clientWidth} pixels too wide`);

  // --- headings: one h1, first, and no level left out ---
  const seen = (element) => element.checkVisibility({ visibilityProperty: true });
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(seen).map((h) => Number(h.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1) faults.push(`not one h1 in ${levels}`);
  levels.forEach((level, i) => {
    if (level > (levels[i - 1] ?? 0) + 1) faults.push(`h${level} after ${i ? `h${levels[i - 1]}` : "nothing"}`);
  });

  const low = new Map(); // one fault for each kind of element
  const nameOf = (element) => `${element.tagName}.${element.className.baseVal ?? element.className}`;
  // --- whatever can be clicked can be reached with Tab, or with the arrow keys from where Tab leads ---
  const reached = "a[href], button, input, select, textarea, summary, label, [tabindex]";
  for (const element of document.querySelectorAll("body *")) {
    const pointed = getComputedStyle(element).cursor === "pointer";
    if (pointed && seen(element) && !element.closest(reached)) low.set(nameOf(element), "not by keyboard");
  }

  // --- contrast of text, WCAG AA: 4.5, and 3 for large letters ---
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channels = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color === "none" ? "transparent" : color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
  const light = (color) => {
    const [r, g, b] = color.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255, 1];
    return over(channels(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  };
  for (const element of document.querySelectorAll("body, body *")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!text || !seen(element) || element.matches("script, style, option, :disabled")) continue;
    const style = getComputedStyle(element);
    const box = element.ownerSVGElement && element.parentElement.querySelector(":scope > rect"); // around an SVG's text
    const filled = box && getComputedStyle(box), [r, g, b, alpha] = channels(filled ? filled.fill : "none");
    const back = over([r, g, b, alpha * (filled ? filled.fillOpacity : 1)], behind(element));
    const ink = over(channels(element.ownerSVGElement ? style.fill : style.color), back);
    const [bright, dark] = [light(ink), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (bright + 0.05) / (dark + 0.05);
    const isLow = contrast < (large ? 2.95 : 4.45);
    if (isLow) low.set(nameOf(element), `contrast ${contrast.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return [...faults, ...[...low].map(([what, fault]) => `${what}: ${fault}`)];
}"""


def faults(tab) -> list[str]:
    """Everything that is wrong, as sentences."""
    return tab.evaluate(FAULTS)


@contextlib.contextmanager
def opened(chromium, path, beside=False, **options):
    """A tab with a page, a file or an address; at the end no error, and no request but to the page itself.

    beside: nor to the pages beside it, to which its links lead.
    """
    context = chromium.new_context(**{"viewport": DESKTOP, **options})
    tab = context.new_page()
    problems = []
    tab.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    address = path if isinstance(path, str) else path.resolve().as_uri()
    allowed = (address.rpartition("/")[0] if beside else address, "data:")
    tab.on("request", lambda request: None if request.url.startswith(allowed) else problems.append(request.url))
    tab.goto(address)
    with contextlib.closing(context):
        yield tab
        assert problems == []


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def click(tab, name, exact=None):
    """Click on the button with this name, or, unless it must be exact, with these words in its name."""
    tab.get_by_role("button", name=name, exact=exact).click()


def says(tab, place, words):
    """Wait until these words are among those of the element at this place."""
    tab.locator(place, has_text=words).wait_for()
