"""How well a model tells stories, beside new ones of the generator: python -m tests.gpt.measure_stories RUN [SEED].

Makes sense: without a mistake that the checker of test_stories.py finds. Known: eight words in a row, or a whole story,
that occur in the training text.
"""

import sys

from gpt.corpora.corpus import load_corpus
from gpt.corpora.stories import stories
from gpt.training.loading import load_model
from minigrad import use_kernels
from tests.gpt.test_stories import mistakes

PROMPT, SAMPLES = "Once upon a time", 100


def runs_of_eight(story):
    words = story.split()
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


def main(folder, seed="0"):
    use_kernels("fast")
    model, tokenizer = load_model(folder)
    told = model.generate([tokenizer.encode(PROMPT)] * SAMPLES, 120, temperature=0.8, seed=int(seed))
    written = [(PROMPT + tokenizer.decode(ids)).split("\n\n")[0].strip() for ids in told]
    text = load_corpus("stories").text.strip().split("\n\n")
    known = text[: len(text) * 9 // 10]
    eights = set().union(*map(runs_of_eight, known))
    new = [story for story in stories(int(seed), 100_000).strip().split("\n\n") if story not in known]
    for name, group in {"the model": written, "the generator": new}.items():
        sound = sum(not mistakes(story) for story in group) / len(group)
        found = [eight in eights for story in group for eight in runs_of_eight(story)]
        copied = sum(story in known for story in group)
        print(f"{name:13}: {len(group)} stories, {sound:.0%} make sense; known are {copied} of them, ", end="")
        print(f"and {sum(found) / len(found):.0%} of eight words in a row")


if __name__ == "__main__":
    main(*sys.argv[1:])
