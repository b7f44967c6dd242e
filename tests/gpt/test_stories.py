"""The stories: the same in every Python, none twice, and each makes sense to a checker that reads only its text."""

import dataclasses
import hashlib
import re

from gpt import save_checkpoint
from gpt.corpora import stories
from gpt.corpora.corpus import load_corpus
from scripts.demo import demo_config
from tests.gpt.small import small_gpt

TEXT = stories.stories(characters=60_000)


def words(slot, place):
    """The words at a place of the choices for a slot: of "Ruby the cat +climbs", the first is "Ruby"."""
    return [choice.split()[place] for choice in stories._WORDS[slot]]


NAMES = {name: pronoun for pronoun in ("she", "he") for name in words(pronoun, 0)}
KINDS = {name: kind for pronoun in ("she", "he") for name, kind in zip(words(pronoun, 0), words(pronoun, 2))}
PRONOUNS = {"she": "she", "her": "she", "he": "he", "him": "he", "his": "he"}
THING = f"(?:({'|'.join(words('thing', 0))}) )?({'|'.join(words('thing', 1))})"
X = f"(?:the {THING}|it)"
A = f"({'|'.join(NAMES)}|[Ss]?[Hh]e)"  # who acts: "Tom", "he", "She"
B = f"({'|'.join(NAMES)}|him|her)"


def mistakes(story):
    """The mistakes of a story: somebody or something appears from nowhere, or a person gives away another's thing."""
    found = []
    people = {}  # the one who is "she", and the one who is "he"
    tokens = re.findall(r"\w+", story)
    for before, token in zip(["", *tokens], tokens):
        if token in NAMES and people.get(NAMES[token]) != token:
            if before not in ("called", "named") or NAMES[token] in people:
                found.append(f"{token} was not there")
            people[NAMES[token]] = token
        if token.lower() in PRONOUNS and PRONOUNS[token.lower()] not in people:
            found.append(f"{token} is nobody")
    found += [
        f"{name} is not a {kind}"
        for kind, name in re.findall(r"(\w+) (?:named|called) (\w+)", story)
        if KINDS.get(name) != kind
    ]
    things = [thing for _, thing in re.findall(rf"\b{THING}\b", story)]
    colors = [color for color, _ in re.findall(rf"\b{THING}\b", story) if color]
    found += [f"{new} was {old}" for list_ in (things, colors) for new in list_ for old in list_[:1] if new != old]

    def who(word):
        return people.get(PRONOUNS.get(word.lower()), word)

    holder = hero = next(iter(people.values()), "nobody")
    for sentence in re.split(r'(?<=[.!?]) (?=[A-Z"])', story):
        if has := re.search(rf"{A} (?:had|found) an? {THING}\b", sentence):
            holder = who(has[1])
        elif takes := re.search(rf"When {A} was not looking, {A} took", sentence):
            found += ["takes it from nobody"] * (who(takes[1]) != holder)
            holder = who(takes[2])
        elif gives := re.search(rf"{A} (?:felt \w+ |said )?(?:and )?gave (?:{X} (?:back|to {B})|{B} {X})", sentence):
            found += ["gives what another has"] * (who(gives[1]) != holder)
            others = [name for name in people.values() if name != holder]
            found += ["gives it to nobody"] * (not others)
            holder = next(iter(others), holder)
        elif new := re.search(rf"{A} gave {B} an? {THING}", sentence):
            holder = hero
            found += ["thanks the wrong one"] * (who(new[2]) != hero)
        elif keeps := re.search(rf"{A} (?:dropped|slept with|fell asleep with|went to sleep with)", sentence):
            found += ["holds what another has"] * (who(keeps[1]) != holder)
    before = [(" mended ", r" broke\."), (rf"got {X} back", "into a|into the"), ("There .* was, ", "was gone!")]
    for later, earlier in before:
        found += [f"{later}, but not {earlier}"] * bool(re.search(later, story) and not re.search(earlier, story))
    return found


def test_a_seed_gives_the_same_text_everywhere():
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    assert sha256 == "73ba0e13da33cf84c12b7dee391604659a9460a1aa1dc649d7ff02a3042b24f0"
    assert stories.stories(7, 2000) != stories.stories(8, 2000)
    corpus = load_corpus("stories")
    assert corpus.text.startswith(TEXT.rsplit("\n\n", 1)[0])
    assert 1_800_000 < len(corpus.text.encode()) < 2_000_000
    paragraphs = corpus.text.strip().split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs) > 4_000
    assert all(60 <= len(paragraph.split()) <= 100 for paragraph in paragraphs)


def test_stories_make_sense():
    assert {story: mistakes(story) for story in TEXT.strip().split("\n\n") if mistakes(story)} == {}
    assert not re.search(r"[(){}|]|  | [.,!?]|\b(\w+) \1\b|\ba [aeiou]|[.!?] [a-z]", TEXT)


def test_the_demo_learns_stories_or_another_text():
    demo, english = demo_config(False, "out", 1), demo_config(False, "out", 1, data="english")
    assert (demo.data, demo.sample_prompt) == ("stories", "Once upon a time")
    assert (english.data, english.sample_prompt) == ("english", "The")


def test_a_run_names_the_text_it_learned_from(tmp_path):
    from scripts.shared.stage_options import corpus_of

    settings = dataclasses.asdict(demo_config(True, str(tmp_path / "run"), 0))
    save_checkpoint(tmp_path / "run", small_gpt(), state={"stage": None, "settings": settings})
    assert corpus_of(str(tmp_path / "run")) == "stories"
    assert corpus_of(str(tmp_path)) == corpus_of("smollm2") == "english"
