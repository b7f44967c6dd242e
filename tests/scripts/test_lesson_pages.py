"""A lesson as a page and as a notebook."""

import html
import json
import re
import sys
from types import SimpleNamespace

import pytest

from gpt.files import read_json, read_text, write_text
from scripts import site
from scripts.course.checker import catalogue
from scripts.course.lessons.cells import Cell, Running, lessons, read_cells
from scripts.course.lessons.concepts import concepts, exercises
from scripts.pages import lesson_index
from scripts.pages.lesson_notebook import write_notebook
from scripts.pages.lesson_page import LessonPage, Ran, record, write_page
from tests.scripts.running import assert_says
from tests.scripts.test_lesson_cells import write


def test_a_page_has_everything_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    lesson = write(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    ran = record(Running(lesson, ["--out-dir", str(out / "999_title")]), read_cells(lesson))
    made = read_text(write_page(lesson, ran, ["softmax"], out))
    assert_says(
        made,
        "<title>A title</title> ... <h1>Lesson 9.9.9: a title</h1> ... The introduction ... <summary>Imports</summary>",
        '<h2>A heading</h2> ... Predict before you look ... <p>What is &lt;1 + 1&gt; ... gpt2.py">the model</a>',
        '<span class="k">with</span> ... lesson ... <details class="answer"> ... >secret &lt;b&gt;</pre>',
        'aria-label="Two dots &amp; more" ... >after the picture</pre> ... Hidden.</p></details> ... Shown again',
        '/10_softmax.py"><code>python ... /break.py"><code>python ... <h2>A tensor</h2> ... <table> ... shape (2,)',
        "op-node ... Mul ... <h2>What next</h2> ... Exercises",
    )
    assert made.count("secret &lt;b&gt;") == 2  # in the code, and in the answer


@pytest.mark.parametrize("target", ["../../../../etc/passwd", "/etc/passwd", "nowhere.py", "javascript:f()", "", "\0"])
def test_a_link_leads_to_the_projects_own_files_only(target, tmp_path):
    assert LessonPage(tmp_path).link(target) is None


def test_pages_are_connected_as_they_are_made(tmp_path):
    first, second, third = lessons()[:3]
    ran = [Ran(Cell("prose", "# Title", 1))]
    page = write_page(second, ran, [], tmp_path)
    assert f"python scripts/lesson.py {third.stem[:3]} --html" in read_text(page)
    assert "<a href" not in read_text(page).split("<main>")[0].replace('<a href="index.html"', "")
    write_page(third, ran, [], tmp_path)
    write_page(first, ran, [], tmp_path)
    link = LessonPage(tmp_path).link
    assert link("lesson 0.0") == f"{first.stem}.html" and link("lesson 1.2") is None
    assert link("lesson 4.4.3b").endswith("443b_dpo.py")
    text = read_text(page)
    assert text.count(f'href="{third.stem}.html"') == 2 == text.count(f'href="{first.stem}.html"')
    index = read_text(tmp_path / "index.html")
    assert index.count(".html") >= 3 and index.count("<li>") == len(lessons())
    before = index.partition("<h2>")[0]
    assert f'Start here:</p> <a href="{first.stem}.html">' in before and "gpt.html" not in before


def test_the_index_says_how_long_it_takes_and_what_is_done_here(tmp_path, monkeypatch):
    folder = tmp_path / "lessons"
    monkeypatch.setattr(lesson_index, "passed_exercises", lambda: {"tanh"})
    first, second = lessons()[:2]
    drawn = SimpleNamespace(_repr_svg_=lambda: "<svg>a picture</svg>")
    write_page(first, [Ran(Cell("code", "draw()", 1), value=drawn)], [], folder)
    (folder / second.stem).mkdir()
    write_text(folder / second.stem / "done.txt", "")
    write_page(second, [], [], folder)
    rows = read_text(folder / "index.html").split("<li>")[1:]
    assert "<svg>a picture</svg>" in rows[0] and "tanh ✓, walk" in rows[0] and "ran in 0 s" in rows[0]
    assert "done in a terminal" in rows[1] and "done in a terminal" not in rows[0] and "ran in" not in rows[2]
    for lesson, row in zip(lessons(), rows):
        cells = read_cells(lesson)
        answers = sum(cell.text.count("Answer:") for cell in cells if cell.kind == "prose")
        assert f'data-answers="{answers}"' in row and f"{lesson_index.minutes(cells)} minutes" in row
        assert all(name in row for name in exercises(lesson))
    assert min(map(lesson_index.minutes, map(read_cells, lessons()))) >= 5
    site.write_indexes(tmp_path, [catalogue.load(catalogue.paths()["tanh"])])
    published = "".join(read_text(path) for path in tmp_path.rglob("*.html"))
    assert "/tanh.html" in published and "✓" not in published and "in a terminal" not in published


CODE = """\
# The subject.
x = Tensor([1.0])
print("a", x)
assert x.shape == (1,)

for n in range(3):
    assert n < 3
with lesson.picture("dots", "Dots") as axes:
    axes.plot([1])


def f(y):
    assert y, \"\"\"text
  in two lines\"\"\"
    return y
"""


def test_plots_and_checks_fold_and_no_line_is_lost_or_moved(tmp_path):
    made, _ = LessonPage(tmp_path).of([Ran(Cell("code", CODE, 1), "the output")])
    shown = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<summary>.*?</summary>", "", made)))
    assert list(filter(None, shown.splitlines())) == [*filter(None, CODE.splitlines()), "the output"]
    folded = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", made, re.DOTALL)
    assert [summary for summary, _ in folded] == ["the check and the plot: 6 lines"]
    assert "axes" in folded[0][1] and "text" not in folded[0][1] and made.index("</details>") < made.index("the output")
    assert made.count("line quiet") == 1
    assert 'style="--indent:2">' in made  # of the text that goes on


def test_a_cell_that_takes_long_carries_its_seconds(tmp_path):
    made, _ = LessonPage(tmp_path).of([Ran(Cell("code", "x = 1", line), seconds=line) for line in (1, 40)])
    assert 'data-line="1">' in made and 'data-line="40" data-seconds="40">' in made


def test_a_page_lists_its_concepts_with_their_code(tmp_path):
    lesson = next(path for path in lessons() if path.name.startswith("422"))
    page = read_text(write_page(lesson, [], ["softmax"], tmp_path))
    rows = [row for row in concepts() if row.lesson == lesson.name]
    assert len(rows) == 3
    for row in rows:
        for place in row.code:
            assert f"{place.path}:{place.line()}" in page
    assert '<span class="k">class</span> CausalSelfAttention' in page


# The notebook.


@pytest.mark.oracle("nbformat", "nbclient", "ipykernel")
def test_a_notebook_runs_and_shows_its_pictures(tmp_path):
    import nbclient
    import nbformat

    path = tmp_path / "999_title.ipynb"
    write_notebook(read_cells(write(tmp_path)), path)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells[:3]] == ["markdown", "code", "code"]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "<details><summary>Show the answer</summary>\n\nhidden." in text
    assert "Predict: what is" in text and "## A graph" in text
    nbclient.NotebookClient(notebook, timeout=120).execute()
    kinds = [kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert kinds.count("image/svg+xml") == 2 and "text/html" in kinds


@pytest.mark.oracle("nbformat")
def test_a_notebook_in_which_somebody_has_worked_is_kept(tmp_path):
    path = tmp_path / "999_title.ipynb"
    cells = read_cells(write(tmp_path))
    write_notebook(cells, path)
    write_notebook(cells, path)  # nobody has worked in it
    fresh = read_json(path)
    jupyter = json.loads(json.dumps(fresh))  # as Jupyter saves it: sources as lists of lines, more metadata
    for cell in jupyter["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    jupyter["metadata"]["language_info"] = {"name": "python"}
    write_text(path, json.dumps(jupyter))
    write_notebook(cells, path)

    changed = [json.loads(json.dumps(fresh)) for _ in range(2)]
    changed[0]["cells"][3]["source"] += "# mine"
    changed[1]["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x"}]
    for text in [*map(json.dumps, changed), "not json", "[]", "{}"]:
        write_text(path, text)
        with pytest.raises(FileExistsError, match="has been edited"):
            write_notebook(cells, path)
        assert read_text(path) == text


def test_without_nbformat_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbformat", None)
    with pytest.raises(RuntimeError, match="pip install nbformat"):
        write_notebook(read_cells(write(tmp_path)), tmp_path / "x.ipynb")
