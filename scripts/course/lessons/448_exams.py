"""Lesson 4.4.8: exams, or what a benchmark number is

"43 % on this benchmark" sounds like a property of a model. It is also a property of the form in which the questions are
asked, of the score that picks an answer, of how many questions there are, and of what stood in the training data. In
this lesson a small model takes an exam, first by hand. Then it learns the exam by heart, and a real model takes it in
several forms.
Gao et al. (lm-evaluation-harness); Hendrycks et al. 2021, arXiv 2009.03300 (MMLU); Zheng et al. 2024, 2309.03882
(models prefer a letter); Miller 2024, 2411.00640 (error bars for exams).
"""

from typing import Any

import numpy as np

from finetune.evaluation.exam_questions import exam_questions, kinds
from finetune.evaluation.multiple_choice import Question, accuracy, exam_prompts, exam_scores
from gpt import Tokenizer
from gpt.training.loading import load_model
from minigrad import Tensor, no_grad, use_kernels
from scripts.course.lessons.small_gpt import new_gpt, train
from scripts.course.pictures import BLUE, Lesson

lesson = Lesson("448_exams", __doc__)

# %% [markdown]
# ## The limitation: a loss does not say what a model knows
#
# The loss on held-out text compares models (lesson 432), but nobody knows what a model with a loss of 2.9 can do. An
# exam asks. It needs no judge if the model only has to *choose*: it does not write, and the choice that it finds most
# probable is its answer.

# %%
every = exam_questions(322, lesson.seed)  # a program computed the right answers; four choices each
exam, fresh, others = every[:100], every[100:200], every[200:]


def solved(questions: list[Any]) -> str:
    """Questions with their right answers, as a text to learn from."""
    return "".join(f"Question: {q.question}\nAnswer: {q.choices[q.answer]}\n\n" for q in questions)


def learned(questions: list[Any]) -> Any:
    """A small GPT after 400 steps on the solutions of some questions."""
    model = new_gpt(len(tokenizer), lesson.seed, block_size=48)
    with use_kernels("fast"):
        train(model, np.array(tokenizer.encode(solved(questions))), 400, seed=lesson.seed)
    return model


tokenizer = Tokenizer.train([solved(every)], 400)

# %% One question by hand
# The score of a choice is the logarithm of its probability after the question: a sum over its tokens. The number `acc`
# counts the questions whose right choice has the largest sum, and `acc_norm` those whose right choice has the largest
# sum per character.
#
# Predict: each token makes the sum smaller. Which choices does `acc` prefer, compared to `acc_norm`?

# %%
honest = learned(others)  # it has seen questions of these kinds, but none of the exam
lengths = [np.array([len(choice) for choice in question.choices]) for question in exam]
number = np.argmax([length.max() - length.min() for length in lengths])  # the question with the clearest contrast
question = exam[number]
context = f"Question: {question.question}\nAnswer:"
start = len(tokenizer.encode(context))
by_hand = []  # the score of each choice
print(context)
for choice in question.choices:
    ids = tokenizer.encode(f"{context} {choice}")
    with no_grad():
        logits = honest([ids]).data[0]  # (T, V): row t predicts token t + 1
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    score = sum(logprobs[t - 1, ids[t]] for t in range(start, len(ids)))
    by_hand.append(score)
    print(f" {choice:11}{len(ids) - start} tokens, sum {score:6.2f}, per character {score / len(choice):6.2f}")

# %%
# The library computes the same for the whole exam, with many texts in a batch.
scores = exam_scores(honest, tokenizer, exam)
assert np.allclose(scores[number], by_hand, atol=1e-4), "a score must add up ln p of each token, from the row before it"
per_character = [score / length for score, length in zip(scores, lengths)]
characters = []
for normalized, found in ((False, scores), (True, per_character)):
    chosen = [np.argmax(score) for score in found]
    right = [place == question.answer for place, question in zip(chosen, exam)]
    share, error = accuracy(exam, scores, normalized)
    assert np.isclose(share, np.mean(right)), "the share of right answers is another one by hand"
    assert np.isclose(error, np.std(right, ddof=1) / np.sqrt(len(exam))), "the standard error must be std / sqrt(N)"
    characters.append(np.mean([length[i] for i, length in zip(chosen, lengths)]))
print("mean length of the choices that are taken, in characters:", np.array(characters))
assert characters[0] < characters[1], "acc must prefer shorter choices than acc_norm"

# %%
# By hand once more: "ice" has the sum -3, and "flame" -4. Per character, these are -1 and -0.8.
hot = [Question("What is hot?", ["ice", "flame"], answer=1)]
acc, acc_norm = (accuracy(hot, [np.array([-3.0, -4.0])], normalized)[0] for normalized in (False, True))
print(f"What is hot? acc {acc:.0f}, acc_norm {acc_norm:.0f}")
assert acc == 0, "acc must take ice, whose sum is larger"
assert acc_norm == 1, "acc_norm must take flame: it divides a sum by the choice's number of characters"

# %% [markdown]
# Answer: short ones, and dividing by the length favors long ones. Neither is the right way. They are two exams with the
# same questions, and a number can only be compared if one knows which of them it is.

# %% The exam in the training data
# Two models learn 122 questions each, in the same number of steps. One learns other questions than those of the exam.
# For the other, 100 of the 122 are the exam.
#
# Predict: how much better is the second one in the exam? And on fresh questions of the same generator?

# %%
cheat = learned(exam + others[:22])
grades = []
for name, model in (("learned other questions", honest), ("learned the exam", cheat)):
    grades.append([accuracy(questions, exam_scores(model, tokenizer, questions)) for questions in (exam, fresh)])
    (on_exam, _), (on_fresh, _) = grades[-1]
    print(f"{name:24} the exam {on_exam:4.0%}, fresh questions {on_fresh:4.0%}")
with lesson.picture("contamination", "Right answers, and their standard error", size=(6, 3.4)) as axes:
    for place, name, graded in ((0, "learned other questions", grades[0]), (0.3, "learned the exam", grades[1])):
        shares, errors = zip(*graded)
        axes.bar([place, place + 1], shares, 0.28, yerr=errors, capsize=3, alpha=0.65, label=name)
    axes.axhline(0.25, color="0.5", linestyle=":", label="guessing")
    axes.set_xticks([0.15, 1.15], ["the exam", "fresh questions"])
    axes.set(ylabel="acc", ylim=(0, 1))
((honest_exam, _), (honest_fresh, _)), ((cheat_exam, _), (cheat_fresh, _)) = grades
assert cheat_exam > honest_exam + 0.15, "who has learned the exam must be better in it"
assert cheat_exam > cheat_fresh + 0.15, "and better than on fresh questions"
assert abs(cheat_fresh - honest_fresh) < 0.18, "on fresh questions both must be about equal"
assert max(cheat_fresh, honest_fresh) < 0.42, "and near guessing"

# %% [markdown]
# Answer: far better, and not better. **Contamination** raises the number without the ability: on fresh questions both
# are near guessing, which has 25 %. Nothing in the number shows this. Fresh questions do, because nobody can have
# learned them; here a program makes them.

# %% One question in two forms
# In *cloze* form a model sees the question, and the text of each choice is scored. In the *letters* form of MMLU it
# sees the choices as A, B, C, D, and the letters are scored. *Few-shot* prompts have some solved questions before it.
#
# Predict: the small model that has learned the exam does well in it, in cloze form. How well does it do with letters?

# %%
title = f"One question in two forms; the right answer is {question.choices[question.answer]}"
with lesson.picture("forms", title, 2, size=(8, 3.2)) as panels:
    for axes, letters in zip(panels, (False, True)):
        ((context, choices),) = exam_prompts([question], 0, letters)
        (score,) = exam_scores(cheat, tokenizer, [question], letters=letters)
        axes.barh(choices, Tensor(score).softmax(-1).data, color=BLUE, alpha=0.65)
        axes.invert_yaxis()
        axes.set_title(context, loc="left", family="monospace", fontsize=9)
        axes.set(xlim=(0, 1), xlabel="share of the four choices")
by_letter = exam_scores(cheat, tokenizer, exam, letters=True)
lettered, _ = accuracy(exam, by_letter)
print(f"the small model that learned the exam, in cloze form: {cheat_exam:.0%}; with letters: {lettered:.0%}")
assert cheat_exam > lettered + 0.1, "what it knows in one form, it must not know in another"
for item, (context, _) in zip(exam, exam_prompts(exam, shots=5, letters=False)):
    solution = f"{item.question}\nAnswer: {item.choices[item.answer]}"
    assert solution not in context, "the examples before a question must not have its own solution"

# %% [markdown]
# Answer: about as many as by guessing. It knows the answers, but only in the form in which it has learned them. (And
# the solved questions of a few-shot prompt are others: with its own solution in sight, anyone passes an exam.)

# %% One model, several numbers
# SmolLM2 takes five exams of 40 questions, none twice, each in six ways: in both forms, without examples and after five
# of them; with the letters from D to A, so that place and letter can be told apart; and as a control without the
# question, with the same choices.
#
# Predict: which form gives the larger number? What is left without the question?

# %%
WAYS = {  # shots, letters (none: cloze), and whether it sees the question
    "cloze": (0, "", True),
    "cloze, 5 shots": (5, "", True),
    "letters": (0, "ABCD", True),
    "letters, 5 shots": (5, "ABCD", True),
    "letters, D to A": (0, "DCBA", True),
    "cloze, no question": (0, "", False),
}


def asked(question: Question, letters: str, sees: bool) -> Question:
    """The question as it is asked. With letters, the choices are a part of it, and the letters are what is scored."""
    text = question.question if sees else ""
    if not letters:
        return question._replace(question=text)
    shown = [f"{letter}. {choice}" for letter, choice in zip(letters, question.choices)]
    return Question("\n".join([text, *shown]), list(letters), question.answer)


def results(model: Any, words: Tokenizer, questions: list[Question], way: str) -> list[list[int]]:
    """For each question the places of the right choice, of the chosen one, and of the one chosen per character."""
    shots, letters, sees = WAYS[way]
    shown = [asked(question, letters, sees) for question in questions]
    scores = exam_scores(model, words, shown, shots)
    found = []
    for question, score in zip(shown, scores):
        lengths = [len(choice) for choice in question.choices]
        found.append([question.answer, int(np.argmax(score)), int(np.argmax(score / lengths))])
    return found


def smollm2_exams() -> dict[str, list[Any]]:
    """The results of each way in five exams: the 200 questions of `--choices builtin`, cut into five."""
    model, words = load_model("smollm2")
    questions = exam_questions(200)
    return {way: [results(model, words, questions[n : n + 40], way) for n in range(0, 200, 40)] for way in WAYS}


N = 200  # questions


def difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """By how much the share of right answers is larger in one than in the other, and its standard error. Both answer
    the same questions, so what counts is in how many of these only one of them is right.
    """
    pairs = one.astype(int) - other
    return pairs.mean(), pairs.std(ddof=1) / np.sqrt(N)


measured = {way: np.array(exams) for way, exams in lesson.measured("smollm2", smollm2_exams, asked, results).items()}
right, error = {}, {}
for way, exams in measured.items():
    answer, chosen, by_length = np.moveaxis(exams, 2, 0)  # (exams, questions) each
    right[way] = chosen == answer
    right_by_length = by_length == answer
    acc, acc_norm = right[way].mean(), right_by_length.mean()
    error[way] = np.sqrt(acc * (1 - acc) / (N - 1))
    places = np.bincount(chosen.ravel(), minlength=4) / N
    each = " ".join(f"{share:.0%}" for share in right[way].mean(axis=1))
    print(f"{way:19} acc {acc:.1%} ± {error[way]:.1%} ({each}), acc_norm {acc_norm:.1%}; chosen places {places}")
    more, its_error = difference(right[way], right_by_length)
    assert abs(more) <= 2 * its_error, "acc and acc_norm must not differ by more than twice the error"
for more, less in (("cloze", "letters"), ("cloze, 5 shots", "cloze"), ("cloze", "cloze, no question")):
    gain, its_error = difference(right[more], right[less])
    print(f"{more} against {less}: {gain:.1%} ± {its_error:.1%}")
    assert gain > 2 * its_error, f"{more} must be better than {less} by more than twice the error"

# %%
with lesson.picture("ways", "SmolLM2: 200 questions in six ways, and each exam of 40", size=(7, 3.6)) as axes:
    for i, (way, answers) in enumerate(right.items()):
        axes.barh(i, answers.mean(), xerr=error[way], capsize=3, color=BLUE, alpha=0.65)
        axes.plot(answers.mean(axis=1), [i] * 5, ".", color="C1", label="an exam of 40" if i == 0 else None)
    axes.axvline(0.25, color="0.5", linestyle=":", label="guessing")
    axes.set_yticks(range(len(right)), list(right))
    axes.invert_yaxis()
    axes.set(xlabel="acc, with its standard error", xlim=(0, 0.8))

# %%
# With letters: which place is chosen?
place = {way: exams[:, :, 1] for way, exams in measured.items()}
assert (place["letters"] == 0).all(), "with letters it must choose A"
assert (place["letters, D to A"] == 3).all(), "and A wherever it stands"
assert np.bincount(place["letters, 5 shots"].ravel()).max() > 0.6 * N, "after five shots it must prefer another letter"
assert np.bincount(place["cloze"].ravel()).max() < 0.4 * N, "in cloze form it must prefer no place"
for way in ("letters", "letters, 5 shots", "letters, D to A"):
    assert right[way].mean() < 0.25 + 2 * error[way], f"{way}: no better than guessing"
small = np.array(results(cheat, tokenizer, exam, "letters"))[:, 1]
by_library = [np.argmax(score) for score in by_letter]
assert small.tolist() == by_library, "the letters form of the library must be the one written above"

# %%
# Is there something to gain without the question? A choice may be the right answer to many other questions.
answers = [answer for kind in kinds() for answer in kind.values()]
drawn = [question for seed in range(5) for question in exam_questions(322, lesson.seed + seed)]


def frequency(question: Question, choice: str) -> int:
    """How many other questions have this answer."""
    return answers.count(choice) - (choice == question.choices[question.answer])


def guessed(questions: list[Question]) -> float:
    """The share of questions whose right choice is the one that is right most often elsewhere."""
    return np.mean([np.argmax([frequency(q, choice) for choice in q.choices]) == q.answer for q in questions])


by_kind = [guessed([question for question in drawn if question.question in kind]) for kind in kinds()]
print(f"who takes the choice that is right most often elsewhere, without reading: {guessed(drawn):.0%}")
print("by kind of question:", np.array(by_kind))
assert guessed(drawn) < 0.27, "without reading, no more than by guessing"
assert min(by_kind[-2:]) > 0.35, "but more where it is asked for a number of letters, or a last letter"

# %% [markdown]
# Answer: the same model has 57 %, 43 % or 27 % of the same questions right. With letters it answers A, every time, at
# the first place and at the last. So this is a bias for a **letter**, not for a place, and it is right where the answer
# happens to stand there. After five shots it is another letter, C in three of four cases, and still 27 %. MMLU's form
# asks for naming a letter before it asks for knowledge, and this model of 135 million parameters cannot do that. In
# cloze form five shots help. In the picture, the five exams of 40 scatter by more than the standard error of all 200.
#
# Without the question, SmolLM2 has 32 %. This is two standard errors above 25 %, so it may know which answers are
# likely. How much can be known? Who takes the choice that is right most often for *other* questions has 23 % in all, no
# more than by guessing, but 40 to 50 % of the two kinds about letters: many words have four letters, or end in the same
# one. (Count the question's own answer as well, and it seems to be 34 % in all: a leak, as in the training data above.)
# Between acc and acc_norm, no difference here is larger than twice its error.

# %% What 200 questions can tell
# Predict: two models know equally much: each answers half of all possible questions right. Both take an exam of 200
# questions, but not the same ones. How far apart may their numbers be?

# %%
pairs = np.random.default_rng(lesson.seed).binomial(N, 0.5, (10_000, 2)) / N
apart, limit = np.abs(pairs[:, 0] - pairs[:, 1]), 2 * np.sqrt(2 * 0.5 * 0.5 / N)
title = "Difference of two equal models (dashed: twice its standard error)"
with lesson.picture("equal", title, size=(7, 3)) as axes:
    axes.hist(pairs[:, 0] - pairs[:, 1], np.arange(-0.1975, 0.2, 0.005), color=BLUE, alpha=0.65)
    for edge in (-limit, limit):
        axes.axvline(edge, color="C1", linestyle="--")
    axes.set(xlabel="difference in 200 questions each", ylabel="of 10,000 pairs")
print(f"more than {limit:.0%} apart: {np.mean(apart > limit):.1%} of all pairs of equal models")
enough = 2 * 0.5 * 0.5 * (2 / 0.02) ** 2
print(f"questions that tell models apart, half of the time, that differ by 2 points: {enough:,.0f}")
assert 0.03 < np.mean(apart > limit) < 0.07, "one pair in twenty must be more than twice the error apart"

# %% [markdown]
# Answer: up to 10 points in 19 of 20 cases. The standard error of a share p of N questions is sqrt(p (1 - p) / N), or
# with N - 1 where p itself is from the exam: 3 to 3.5 points here. That of a difference is larger by sqrt(2). SmolLM2's
# five exams of 40 are an example: 32.5 to 50 % of the same model in the same form. If both models answer the same
# questions, compare question by question, as was done above: what is hard for both cancels, so the error of the
# difference is usually smaller (Miller 2024).

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start choice_score`
# - read: finetune/evaluation/multiple_choice.py, a page; finetune/evaluation/exam_questions.py
# - try: `python scripts/evaluate.py --model smollm2 --choices builtin`, then with `--form letters`. Expect: 43 % and
#   26.5 %, where guessing has 25 %.
# - lesson: `python scripts/lesson.py 451`
