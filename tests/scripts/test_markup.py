"""Markdown and Python as HTML: what is meant, and never more than that."""

import html
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.course.lessons.cells import lessons, read_cells
from scripts.pages.markup import formula, markdown_to_html, python_to_html
from scripts.shared.web_page import data_script, page
from tests.scripts.test_lessons import LESSONS, ROOT

TAGS = {"h1", "h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "table", "tr", "th", "td", "div",
        "pre", "code", "strong", "em", "a", "span", "math", "mrow", "mi", "mn", "mo", "mfrac", "mspace", "msqrt",
        "msub", "msup", "mtext", "wbr"}  # fmt: skip


class Checked(HTMLParser):
    def handle_starttag(self, tag, attributes):
        assert tag in TAGS, tag
        for name, value in attributes:
            look = tag.startswith("m") or (name == "class" and value in ("scroll", "formulas", "math", "soft"))
            assert look or (name == "href" and re.match(r"https?://|#|known\.py$", value))


TABLE = '<div class="scroll"><table>'


def known(target):
    return "known.py" if target in ("gpt/known.py", "lesson 4.4.3b") else None


@pytest.mark.parametrize(
    "text, expected",
    [
        ("# A & B", "<h1>A &amp; B</h1>"),
        ("one\ntwo\n\nthree", "<p>one\ntwo</p>\n<p>three</p>"),
        ("**b** *e* `c<d`", "<p><strong>b</strong> <em>e</em> <code>c&lt;d</code></p>"),
        ("2 * 3 * 4, x*y*z, W_Q and `a*b*c`", "<p>2 * 3 * 4, x*y*z, W_Q and <code>a*b*c</code></p>"),
        ("- a\n  goes on\n- b", "<ul><li>a\ngoes on</li><li>b</li></ul>"),
        ("text\n1. a\n2. b", "<p>text</p>\n<ol><li>a</li><li>b</li></ol>"),
        ("    a\n\n      b < c\nd", "<pre>a\n\n  b &lt; c</pre>\n<p>d</p>"),
        ("    softmax(x)\n\n    y", "<pre>softmax(x)\n\ny</pre>"),
        ("[`x`](gpt/known.py)", '<p><a href="known.py"><code>x</code></a></p>'),
        ("Lessons 443b and 4.4.4, 0.1.", '<p>Lessons <a href="known.py">4.4.3b</a> and 4.4.4, 0.1.</p>'),
        ("see gpt/known.py.", '<p>see <a href="known.py">gpt/known.py</a>.</p>'),
        ("`gpt/known.py`", '<p><a href="known.py"><code>gpt/known.py</code></a></p>'),
        ("[x](gpt/unknown.py) gpt/unknown.py", "<p>x gpt/unknown.py</p>"),
        ("[x](javascript:alert(1))", "<p>x)</p>"),
        ("[x](https://a.b/c?d&e)", '<p><a href="https://a.b/c?d&amp;e">x</a></p>'),
        ("| a |\n|---|\n| `2` |", f"{TABLE}<tr><th>a</th></tr><tr><td><code>2</code></td></tr></table></div>"),
    ],
)
def test_marks(text, expected):
    assert markdown_to_html(text, known) == expected


PIECES = ["<script>", "</p>", "`", "*", "**", "[a](", ")", "](javascript:x)", "|", "|-|", "\n", "\n\n", "> ", "- ",
          "1. ", "# ", "```", "\0", "\x001\0", '"', "&lt;", "    ", "gpt/known.py", "https://x.y/",
          "é", "\ud800"]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))).map("".join))
def test_no_text_becomes_markup_of_its_own(text):
    made = markdown_to_html(text, known)
    Checked().feed(made)
    made.encode("utf-8")


def plain(made):
    return html.unescape(re.sub(r"<[^>]*>", "", made))


@pytest.mark.parametrize("name", LESSONS)
def test_colors_leave_the_code_as_it_is(name):
    source = (ROOT / "scripts" / "course" / "lessons" / f"{name}.py").read_text(encoding="utf-8")
    made = python_to_html(source)
    assert plain(made) == source and made.count("<span") > 100


@given(st.text())
def test_what_is_not_python_is_shown_as_text(source):
    source = source.replace("\r", "")
    assert plain(python_to_html(source)) == source.encode("utf-8", "replace").decode("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "var(x after L blocks) = var(x)",
        "y = W[block 0] x",
        "[head_0 ... head_H-1] = x",
        "x = the mean of y",
        "y = a . b",
        "h = f(x",
        "ε = 1e-8: no division by 0",
        "V numbers",
        "(often μ = 0.9)",
        "512 x 64 + 2 x 64",
    ],
)
def test_what_can_be_read_in_two_ways_is_not_typeset(text):
    assert formula(text) == ""
    assert markdown_to_html(f"    x = y\n    {text}") == f"<pre>x = y\n{text}</pre>"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("4.2.2 is softmax(Q K^T / sqrt(d_k)) X, where Q = X W_Q.", ["softmax(QKTdk)X", "Q=XWQ"]),
        ("With β = 1 (often\nβ = 0.9), U S Vᵀ has D² numbers: 2 (N - 1) / N.", ["β=1", "β=0.9USVTD22(N−1)N"]),
        ("If |1 - 500 η| > 1, b grows. It is -ln p(target), or e^-x.", ["|1−500η|>1", "−lnp(target)", "e−x"]),
        ("Z cancels: r + β ln ρ = β ln(Z π*). *So* x = x + f(norm(x)) is", ["r+βlnρ=βln(Zπ∗)", "x=x+f(norm(x))"]),
    ],
)
def test_formulas_in_sentences(text, expected):
    made = "".join(f"{plain(math)} " for math in re.findall(r"<math>(.*?)</math>", markdown_to_html(text)))
    assert made.replace(" ", "") == "".join(expected)


@pytest.mark.parametrize(
    "text",
    [
        "`x = y` and `softmax(Q K^T / sqrt(d_k)) X`",
        "Example: x = 2, y = x^2",
        "    (a, b) -> (b, a)",
        "Shapes: x (B, T, C), n_head = H",
        "m = w animal + (1 - w) tired",
        "a, b, c = 3, 4, 5",
        "A_i = r_i - the mean of others",
        "out = x[i, D / 2] and x @ W + b with W, node.grad = 1",
        "H = n_head heads, keepdim = False, x + feed_forward(x), --seed 12, 1/3 of it",
        "leave out 1/e = 37 % of it, step 3 - 4, GPT-2's T5-base, Q and K, a head and V",
        "x*y*z, *e* and **b** 2 * 3",
        "h D ... (h + 1) D - 1, loss = DPO + SFT(chosen)",
    ],
)
def test_in_sentences_code_and_parts_of_formulas_are_text(text):
    assert "<math" not in markdown_to_html(text)


def letters(text):
    return sorted(re.findall(r"[^\W_]", unicodedata.normalize("NFKC", text)))


def test_formulas_of_the_lessons_keep_all_their_letters():
    count = 0
    for path in lessons():
        prose = "\n\n".join(cell.text for cell in read_cells(path) if cell.kind == "prose")
        for block in re.findall(r"(?:^    .*\n?)+", prose, re.MULTILINE):
            made = markdown_to_html(block.rstrip())
            count += made.startswith('<div class="formulas">')
            assert letters(plain(made)) == letters(block.replace("sqrt", "")), block
    assert count > 25


@pytest.mark.parametrize(
    "text, above, below",
    [
        ("a = d loss / d z_i", "loss", "z"),
        ("a = (r - 1) / std(r)", "1", "std"),
        ("a = b c / (√v + ε)", "b", "ε"),
        ("a = π(x) / π_old(y)", "x", "y"),
    ],
)
def test_a_fraction_has_the_right_parts_around_its_bar(text, above, below):
    top, bottom = re.search(r"<mfrac>(<mrow>.*</mrow>)(<mrow>.*</mrow>)</mfrac></math>", formula(text)).groups()
    assert above in top and below in bottom


def test_colors():
    made = python_to_html('for x in f"a{y}b":  # 1\n    z = 0x1')
    for part in ('<span class="k">for</span>', '<span class="c"># 1</span>', '<span class="n">0x1</span>'):
        assert part in made


def test_a_page_can_neither_load_nor_be_broken_out_of():
    made = page("</title><script>", "<p>x</p>", "lesson")
    assert "default-src 'none'" in made and "</title><script>" not in made
    assert "</script>" not in data_script({"a": "</script><b>"})[:-9]
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", made)
