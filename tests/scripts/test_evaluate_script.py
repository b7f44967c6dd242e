"""scripts/evaluate.py as its users meet it."""

import math
import re

import pytest

from finetune.evaluation.multiple_choice import accuracy, exam_scores, read_questions
from gpt.files import read_text
from gpt.training.evaluation import score_text
from gpt.training.loading import load_model
from scripts import evaluate
from tests.scripts.running import output_of, write_model, write_text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """It is surprised by some tokens more than by others."""
    return write_model(tmp_path_factory.mktemp("model"), scale=8)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat <b>on</b> a mat & 猫 \u202e dogs\nran\tpast \x1b[2J\n", encoding="utf-8", newline="")
    return path


def evaluated(model, path, *arguments, what="--data"):
    return output_of(evaluate.main, "--model", model, what, path, *arguments)


def test_the_figures_are_those_of_the_whole_text(model, text):
    gpt, tokenizer = load_model(model)
    for stride in (None, 1, 16):
        score = score_text(gpt, tokenizer, read_text(text), stride)
        out = evaluated(model, text, *([] if stride is None else ["--stride", stride]))
        found = re.findall(r"^(?:loss|perplexity|bits per byte) +([\d.,]+\d)", out, re.M)
        numbers = [float(number.replace(",", "")) for number in found]
        assert numbers == [pytest.approx(x, rel=1e-3) for x in (score.loss, score.perplexity, score.bits_per_byte)]
        assert f"{len(score.ids)}, all but the first predicted ({score.n_bytes} bytes)" in out
        assert f"a uniform guess: {math.log(280):.4f}" in out


def test_of_a_long_text_only_the_beginning_is_read(model, tmp_path):
    path = write_text(tmp_path / "long.txt", words=3000)
    out = evaluated(model, path, "--tokens", 500)
    assert "tokens          500, all but" in out and re.search(r"read +the first \d+% of the text \(--tokens 0", out)
    assert "--tokens 0" not in evaluated(model, path, "--tokens", 0)
    gpt, tokenizer = load_model(model)
    beginning = tokenizer.decode(tokenizer.encode(read_text(tmp_path / "long.txt"))[:500])
    assert f"{score_text(gpt, tokenizer, beginning).loss:.4f} nats per token, standard error 0." in out


def test_the_text_is_shown_with_marks(model, text):
    out = evaluated(model, text, "--show")
    shown = out.split("\n\n", 1)[1]
    assert "[" in shown and "10 or more: a surprise" in shown and "\x1b" not in out and "猫" in shown
    plain = shown.replace("[", "").replace("]", "")
    assert "the cat sat <b>on</b> a mat & 猫" in plain and "dogs\nran\tpast" in plain


def test_a_page_is_written(model, text, tmp_path):
    out = evaluated(model, text, "--html", tmp_path / "page.html")
    page = read_text(tmp_path / "page.html")
    assert "the page is in" in out and "<b>" not in page and "\x1b" not in page
    assert page.count("expected:&#10;") == page.count("probability") > 20
    assert "the first token is given" in page and "perplexity" in page
    for _, percent in re.findall(r"(probability|bits,) (\d+\.\d+)%", page):
        assert 0 <= float(percent) <= 100


def test_the_levels_of_surprise(model, text):
    gpt, tokenizer = load_model(model)
    score = score_text(gpt, tokenizer, read_text(text))
    for token in evaluate.marked(score, tokenizer):
        bits = sum(float(n) for n in re.findall(r"([\d.]+) bits", token.note))
        wanted = 0 if bits < 1 else 1 if bits < 3 else 2 if bits < 6 else 3 if bits < 10 else 4
        assert token.level == wanted or min(abs(bits - least) for least in evaluate.BITS) < 0.02


@pytest.mark.parametrize("shots, form", [(0, "cloze"), (2, "letters")])
def test_an_exam_is_scored_in_both_forms(shots, form, model, tmp_path):
    line = '{"question": "dogs?", "choices": ["a cat", "mat", "red"], "answer": "B"}\n'
    (tmp_path / "exam.jsonl").write_text(5 * line, encoding="utf-8")
    out = evaluated(model, tmp_path / "exam.jsonl", "--shots", shots, "--form", form, what="--choices")
    questions = read_questions(tmp_path / "exam.jsonl")
    scores = exam_scores(*load_model(model), questions, shots, form == "letters")
    assert f"5 in {form} form; solved examples before each: {shots}\nchance          33.3%\n" in out
    for name in ("acc", "acc_norm") if form == "cloze" else ("acc",):
        share, error = accuracy(questions, scores, name == "acc_norm")
        assert f"{name:15} {share:.1%}, standard error {error:.1%}: the most probable choice" in out
    assert ("acc_norm" in out) == (form == "cloze")
