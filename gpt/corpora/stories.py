"""Short children's stories, told from a small simulated world: a text from which a small model learns to write.

TinyStories (Eldan & Li 2023) showed that a model of a few million parameters writes fluent English if its text speaks
of a small world. Theirs were written by GPT-4; these are made by a program, so they need no download and no license.

A world is a set of facts: "x@a" means that person a has thing x. An event can happen if the facts allow it, and it
changes the facts, as in the planner STRIPS (Fikes & Nilsson 1971). A story starts with two people and a thing, and
possible events happen, drawn at random, until none is left. So nobody gives away what they do not have, and what was
lost is found where it was lost. Each event is told by one of many sentences.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

LENGTH = range(60, 101)  # words in a story: 95 tokens on average, and hardly ever more than a context of 128
FORMS = ("", "him", "his")
PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his"), "it": ("it", "it", "its")}

# The words for the slots of a text. Each story takes one of those between " | ", with the facts that follow it:
# Ruby climbs, the ball is a toy that rolls. One of (this|that) is taken each time it is told.
WORDS = """
she: Lily the girl | Mia the girl | Daisy the duck +swims | Ruby the cat +climbs | Molly the mouse | Nina the bear |
  Rosie the pig | Zoe the fox | Kate the sheep
he: Tom the boy | Ben the boy | Sam the frog +swims | Leo the monkey +climbs | Max the dog | Pip the rabbit |
  Oscar the owl | Hugo the pony | Teddy the hedgehog
thing: red ball +toy +rolls +floats | green kite +toy +light +breaks | pink balloon +toy +light | blue hat +light |
  little doll +toy +floats +breaks | white boat +toy +floats +breaks | big drum +toy +rolls | brown cup +breaks |
  yellow plane +toy +light +breaks | black car +toy +rolls +breaks | purple scarf +light +floats | golden ring +rolls |
  silver bell +rolls | old basket +floats +breaks | new train +toy +breaks | orange flag +light
look: brave | kind | clever | curious | cheerful | funny | quiet | happy | gentle | shy | lively | friendly
snack: apple | pear | cookie | sandwich | bun | peach | carrot | banana | muffin | cake | pie | plum
family: mom | dad | grandma | grandpa | aunt | uncle
in_place: in the park | in the garden | in the forest | in the meadow | in the field | in the woods | on the hill |
  on the farm | at the playground | by the river +wet | by the lake +wet | by the pond +wet | at the beach +wet
cause: the wind | an old owl | a big fish | a sleepy dog | a fat frog | a tiny mouse | a falling branch | a funny bird
day: One (sunny|warm|windy|cold|cloudy|fine) (morning|afternoon|day)
then: (Suddenly|But then|All at once)
soon: (Just then|Soon|After a while|A little later)
b:new: a {b:kind} (named|called) {b:name}
x: the ({color} |){noun}
x:noun: ({color} |){noun}
x:new: a {color} {noun}
"""

# Before the colon: fact `f` must hold and `!f` must not; `-f` must hold and ends; `+f` begins. Then what is told: one
# of the texts between " | ". After " = ": what somebody in trouble says about it.
EVENTS = """
-start +met: Once upon a time(,|) there (was|lived) a {look} (little |young |){a:kind} (named|called) {a:name}. | A
  {look} (little |young |){a:kind} (named|called) {a:name} lived (near|close to) {place}.
-met +calm +x@a: {a} (had|found) {x:new}( that {a} loved|). | {a:his} {family} gave {a:him} {x:new}( for {a:his}
  birthday|). | {a} (loved|liked) {a:his} {color} {noun}( very much| more than anything).
-met +calm +x@a +b +friends: {a:his} best friend was {b:new}. {a} (had|found) {x:new} and showed it to {b:him}.
-met +calm +x@b +b +friends: {a:his} (best |good |)friend was {b:new}. {b} (had|found) {x:new}( that {b} loved|).
-met +calm +walk: {a} (loved|liked) to (walk|run|sing) (in the sun|all day). | {a} had no friends, and {a} felt alone.
-met +calm +food@a: {a:his} {family} gave {a:him} a {snack}( to eat| for lunch). | {a} put a {snack} into {a:his} bag.
-calm x@a !b +out: {day}, {a} (went to {place} with {x}|took {x} (with {a:him} |)to {place}).
-calm b +out +knows: {day}, {a:name} and {b:name} (went to {place}|played {in_place}|met {in_place}).
-calm !b !x@a +out: {day}, {a} (walked to {place}|went for a walk {in_place}|was all alone {in_place}).
-out toy !b -x@a +x@place +upset: {a} played all day. But when {a} (came|got) home, {x} was gone! = I lost my {x:noun}
x@place !try +try: {a} looked (under the bed|behind the door|in the kitchen|in every room), but {x} was not there.
x@place knows !back +back: "Where did you play?" asked {b:name}. "{in_place}," {a} said. They (ran|went) to {place}.
x@place try !b !back +back: {a} (had an idea|thought hard). {a} (ran|went|hurried) back to {place}.
-x@place -back +x@a +ok: There {x} was, (under a tree|in the tall grass|behind a big stone)! {a} (picked|took) it up.
-out light -x@a !a.climbs +x@away +upset +tree: {then}, the wind blew {x} into a tree. = My {x:noun} is in that tree
-out wet floats -x@a !a.swims +x@away +upset +water: {then}, {x} fell into the water. = My {x:noun} is in the water
-out rolls -x@a +x@away +upset: {a} slipped, and {x} rolled into a hole. = My {x:noun} is in that hole
x@away !try !offer +try: {a} tried (again and again|as hard as {a} could), but {a} could not (reach|get) {x}.
-x@away tree knows b.climbs +x@a +ok: {b} climbed up (quickly |slowly |)and (threw|brought) {x} down to {a:him}.
-x@away water knows b.swims +x@a +ok: {b} (jumped|dived) into the water and (soon |)brought {x} back to {a:him}.
-x@away knows +x@a +ok: {b} found a long (stick|branch|string), and (together|with it) they got {x} back.
-x@away try !b +x@a +ok: {a} had an idea. {a} found a long (stick|branch), and with it {a} pulled {x:name} (out|back).
-out breaks x@a +upset +broken: {a} (fell over a stone|dropped {x}|ran too fast), and {x} broke. = I broke my {x:noun}
-broken knows +ok: {b} (had|found|brought) (some glue|some tape|a piece of string), and (soon|together) they mended {x}.
-out x@b +asked: {a} (looked at|liked|saw|loved) {x}. "(May|Can) I (hold|try|have|see) it?" {a} asked.
-asked -x@b +x@a +ok: "(Yes|Of course)(, be careful|, here you are|)," said {b:name} and gave {x} to {a:him}.
-asked +refused +upset: "No! It is (mine|my {x:noun})," said {b:name}( and turned away|).
-refused -x@b +x@a +ok: But then {b} felt sorry. "Let us (share|play together)," {b} said and gave {a:him} {x:name}.
-out -x@b +x@a +upset +stolen: When {b} was not looking, {a} took {x} and hid it (under a bush|behind a tree).
stolen !search +search: {b} (looked|searched) for {x} (everywhere|all day long) and (began to cry|was very sad).
-stolen search -x@a +x@b +ok +truth: {a} felt (bad|sorry) and gave {x} back. "I took it. I am (so |)sorry," {a} said.
-out -food@a +food@b +b +kind +ok: {in_place}, {a} met {b:new}. "I am hungry," {b} said. {a} gave {b:him} the {snack}.
-out walk !b +b +caught: {then}, {a} heard a (small|sad) voice. It was {b:new}, (stuck in the mud|caught in a net).
-caught +kind +ok: {a} pulled (and pulled|as hard as {a} could) until {b} was free.
kind ok !end !x@a +x@a: To (thank {a:him}|say thank you), {b} gave {a:him} {x:new}.
-kind -ok !end x@a +friends +out +knows: (The next day|A week later), {a:name} and {b:name} (met again|played together).
-out walk +upset +scare: {then}, {a} heard a (loud|strange) sound. {a} was (very |)afraid. = I heard a sound
-scare knows +ok +brave: {b} took {a:his} hand, and they looked (together|carefully). It was only {cause}!
-scare !b +ok +brave: {a} (took a deep breath|waited for a while) and looked( again|). It was only {cause}!
upset !sad !scare !knows !ok +sad: {a} was (so |very |)sad(| and began to cry). | "Oh no!" {a} cried.
upset !b !ok +b: {soon}, {b:new} (came|walked|ran) by.
upset b !knows !ok +knows: "(What is wrong|What happened|Can I help you)?" asked {b:name}. "{says}," {a} said.
upset knows !stolen !refused !offer !ok +offer: "(Do not worry|I have an idea|I can help|Let us try)," said {b:name}.
ok !end knows !truth !thanked +thanked: "Thank you(| so much|, {b:name})!" {a} said( and hugged {b:him}|).
ok !end !truth !joy +joy: {a} was so happy that {a} (danced|sang|jumped up and down). | {a} (smiled|laughed|was happy).
ok !end b x@a toy !played +played: (Then|After that,) they played with {x} (together|until it got dark|all day).
ok !end b !friends +end: From (that day on|then on), {a:name} and {b:name} were (best|good|the best of) friends.
ok !end b friends +end: {a} was (glad|happy) to have (such a good friend|a friend like {b:name}).
ok !end upset x@a +end: From then on, {a} (always took good care of|was always careful with) {x}.
ok !end x@a +end: That night, {a} (fell asleep|went to sleep|slept) with {x} (beside {a:him}|by {a:his} bed).
ok !end truth +end: {b} (smiled|was not angry), and {a} never (took anything|played with it) without asking again.
ok !end brave +end: {a} was (proud|glad) and not afraid (any more|of the sound any more).
"""


def stories(seed: int = 1337, characters: int = 1_900_000) -> str:
    """Return different stories, an empty line between two. A seed gives the same text in every version of Python."""
    number = random.Random(seed).random  # choice() and shuffle() may change from one version to the next
    told: dict[str, None] = {}  # a set that keeps the order
    while characters > 0:
        book = Book(lambda choices: choices[int(number() * len(choices))])
        for text in (book.tell() for _ in range(6)):  # words that return teach a model to look back (Chan et al. 2022)
            if len(text.split()) in LENGTH and text not in told:
                told[text] = None
                characters -= len(text) + 2
    return "\n\n".join(told) + "\n"


def _rows(table: str) -> dict[str, list[str]]:
    """The lines of a table: what is before the first colon, and the list of texts after it."""
    rows = (line.split(": ", 1) for line in table.replace("\n  ", " ").strip().splitlines())
    return {name: texts.split(" | ") for name, texts in rows}


_WORDS = _rows(WORDS)
# Of each event: the facts that it needs, excludes, ends and begins, and its texts.
_EVENTS: list[tuple[Any, ...]] = [
    (*(set(re.findall(rf"(?<!\S){sign}([\w.@]+)", facts)) for sign in ("-?", "!", "-", "[+]")), texts)
    for facts, texts in _rows(EVENTS).items()
]


class Book:
    """Two people, a thing and a place, with stories about them. draw(choices) takes one of the choices.

    facts: what is true of them when a story starts. words: what a slot of a text may stand for. pronouns: of the two
    people, a and b, and the thing, x. {a} becomes "Tom" or "he", {a:him} "Tom" or "him", {a:his} "Tom's" or "his".
    """

    def __init__(self, draw: Callable[[Any], Any]):
        self.draw = draw
        self.words = {"says": ""}
        self.facts = {"start"}
        roles = draw([{"she": "a", "he": "b"}, {"he": "a", "she": "b"}])
        for slot, choices in _WORDS.items():
            self.words[slot], *facts = draw(choices).split(" +")
            self.facts |= {f"{roles[slot]}.{fact}" if slot in roles else fact for fact in facts}
        self.words["color"], self.words["noun"] = self.words["thing"].split()
        self.words["place"] = self.words["in_place"].partition(" ")[2]
        self.pronouns = {"x": "it"} | {role: pronoun for pronoun, role in roles.items()}
        for pronoun, role in roles.items():
            self.words[role], self.words[f"{role}:kind"] = self.words[pronoun].split(" the ")

    def tell(self) -> str:
        """Let events happen while any is possible, and tell them."""
        told = []
        facts = self.facts
        self.now = set[str]()  # the people and things in the text of an event; `before`: of the previous one
        while possible := [event for event in _EVENTS if event[0] <= facts and not event[1] & facts]:
            _, _, ends, begins, texts = self.draw(possible)
            facts = facts - ends | begins
            self.before = self.now
            self.now = set[str]()
            text, _, says = self.draw(texts).partition(" = ")
            self.words["says"] = says or self.words["says"]
            told.append(self._write(text))
        story = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", " ".join(told))
        return re.sub(r'(^|[.!?] )("?[a-z])', lambda match: match[1] + match[2].upper(), story)

    def _write(self, text: str) -> str:
        """Take one of each (this|that), and write words for the slots."""
        while "(" in text:
            text = re.sub(r"\(([^()]*)\)", lambda match: self.draw(match[1].split("|")), text)
        return re.sub(r"\{([\w:]+)\}", lambda match: self._word(match[1]), text)

    def _word(self, slot: str) -> str:
        """The word for a slot: a pronoun if it is clear, because no other one named just now has the same pronoun."""
        role, _, form = slot.partition(":")
        if role in self.pronouns and slot not in ("a:kind", "b:kind"):
            near = self.before | self.now
            here = role in self.now
            pronoun = self.pronouns[role]
            self.now.add(role)
            clear = role in near and all(self.pronouns[other] != pronoun for other in near - {role})
            if clear and form in FORMS and (here or self.draw([True, True, False])):
                return PRONOUNS[pronoun][FORMS.index(form)]
        word = self._write(self.words.get(slot, self.words.get(role, "")))
        return f"{word}'s" if form == "his" else word
