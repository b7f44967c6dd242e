"""The built-in Python code: code only, the same each time, and a corpus like the others."""

import ast

import pytest

from gpt.corpora import python_corpus
from gpt.corpora.corpus import load_corpus
from gpt.corpora.python_corpus import _code_only, python_code
from gpt.files import write_text


@pytest.fixture(autouse=True)
def read_again():
    yield
    python_code.cache_clear()


def test_it_is_code_without_words_about_it():
    text = python_code(30_000)
    assert len(text) == 30_000
    whole = text[: text.rindex("\n\n\n")] if "\n\n\n" in text else text[: text.rindex("\ndef ")]
    assert '"""' not in text and "\n    #" not in text and "def " in whole


def test_docstrings_and_comments_go_and_the_rest_stays():
    source = (
        '"""A module."""\nx = 1  # one\nclass C:\n    """Nothing else."""\nasync def f():\n    "Doc."\n    return "#"\n'
    )
    code = _code_only(source)
    assert code == "x = 1\n\nclass C:\n    pass\n\nasync def f():\n    return '#'"
    ast.parse(code)
    assert _code_only("not python at all") == _code_only("\0") == ""


def test_the_order_does_not_depend_on_where_python_is_installed(tmp_path, monkeypatch):
    texts = []
    for place in ("here", "there/deeper"):
        for i in range(20):
            write_text(tmp_path / place / "lib" / f"module{i}.py", f"value = {i}")
        paths = sorted((tmp_path / place / "lib").iterdir())
        monkeypatch.setattr(python_corpus, "library_sources", lambda paths=paths: paths)
        python_code.cache_clear()
        texts.append(python_code(100))
    assert texts[0] == texts[1] and texts[0] != "\n\n".join(sorted(texts[0].split("\n\n")))


def test_without_sources_it_comes_from_a_file_or_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(python_corpus, "library_sources", lambda: [])
    monkeypatch.setattr(python_corpus, "BUNDLED_CODE", tmp_path / "code.txt")
    write_text(tmp_path / "code.txt", "x = 1\n" * 10)
    assert python_code(50) == ("x = 1\n" * 10)[:50]
    with pytest.raises(FileNotFoundError, match="sources of Python's standard library are not installed"):
        python_code(100)


def test_as_a_corpus(monkeypatch):
    monkeypatch.setattr("gpt.corpora.corpus.python_code", lambda: "x = 1")
    corpus = load_corpus("python")
    assert corpus.text == "x = 1" and "code of the standard library of Python 3" in str(corpus)
