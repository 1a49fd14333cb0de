"""Made-up reading passages with questions: what the tiny reading model is pretrained on.

A passage is a row of clause frames (data/reading/frames.json) whose slots are filled with made-up words and with
everyday ones (data/reading/lexicon.json). One frame, with some of its questions by the slot they ask for:

    {"clause": "{N}把{O}交给{B}", "questions": {"N": ["是谁交给{B}{O}？", ...], "O": ["{N}把什么交给{B}？", ...]}}

and a row that it may give, flat as in `squad_v2`: context 拈抠把一缸白菜交给凛爷园。 question 拈抠把什么交给凛爷园？ answer 一缸白菜.

Slots: N and B people, W a role before a name, P place, V verb, O its object, A activity, M mood, D a degree before it,
T time, K number with its measure word, R reason, 1 he or she (stands for N). "VO" asks for verb and object together.
People are always made-up words, so nothing is known of anybody; which word is a place or a mood, where a phrase ends
and who 他 is, can be learned.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import pairwise

from scripts.artifacts import read_json
from scripts.profiles import ROOT
from scripts.reading.augment import common_characters

FOLDER = ROOT / "data/reading"
PEOPLE = "NB"
DOING = "VOA"  # 做什么？ may be answered by any of these
LISTS = {"W": "roles", "D": "degrees", "T": "times", "K": "counts", "R": "reasons"}  # slot -> its list in the lexicon
SLOT = re.compile(r"\{(\w)\}")
COUNTED = re.compile("[一二两三四五六七八九十百几半]")
UNANSWERABLE = 0.2  # share of the questions, as in data/qa
EVERYDAY = 0.75  # share of the words that come from the lexicon


def material() -> dict:
    """Frames and lexicon, as they stand in data/reading."""
    return {"frames": read_json(FOLDER / "frames.json"), "lexicon": read_json(FOLDER / "lexicon.json")}


def rows(count: int, seed: int, clauses: tuple[int, int] = (2, 4)) -> list[dict]:
    """`count` questions on passages of so many `clauses`, about four a passage; the same seed gives the same rows."""
    writer, made = Writer(random.Random(seed)), []
    while len(made) < count:
        made += writer.questions(writer.passage(*clauses))
    return [{"id": f"made-up-{i}", **row} for i, row in enumerate(made[:count])]


@dataclass(frozen=True)
class Clause:
    """A clause: its frame's questions, what its slots were filled with, and where they stand in the passage."""

    text: str
    questions: dict[str, list[str]]
    words: dict[str, str]
    spans: dict[str, tuple[int, int]]
    is_pronoun: bool  # N stands as 他 or 她

    def span(self, asked: str) -> tuple[int, int] | None:
        """Where the asked slot stands ("VO": from verb to end of object); None where it isn't in one piece."""
        spans = [self.spans.get(slot) for slot in asked]
        if None in spans or (asked == "N" and self.is_pronoun):
            return None
        apart = any(left[1] != right[0] for left, right in pairwise(spans))
        return None if apart else (spans[0][0], spans[-1][1])


@dataclass(frozen=True)
class Passage:
    """A text, its clauses and the people in it."""

    text: str
    clauses: list[Clause]
    people: list[str]


class Writer:
    """Writes passages and questions; all chance comes from `rng`."""

    def __init__(self, rng: random.Random):
        self.rng, self.characters = rng, common_characters()
        found = material()
        self.frames, self.lexicon = found["frames"], found["lexicon"]

    def made_up(self, *lengths: int) -> str:
        """A word of random characters, of one of these lengths."""
        return "".join(self.rng.choice(self.characters) for _ in range(self.rng.choice(lengths)))

    def word(self, slot: str) -> str:
        """Something to fill a slot with."""
        everyday, pick = self.rng.random() < EVERYDAY, self.rng.choice
        match slot:
            case "N" | "B":
                return self.made_up(2, 2, 2, 3, 3, 4)
            case "P" if everyday:
                before = pick(["", "", "", self.made_up(2, 3), self.made_up(2, 3) + "的"])
                return before + pick(self.lexicon["places"])
            case "P":
                return self.made_up(2, 2, 3, 4) + pick(["", "", "里", "旁", "上", "门口", "附近"])
            case "V" | "O":
                return self.act()["VO".index(slot)]
            case "A" | "M":
                known = self.lexicon["activities" if slot == "A" else "moods"]
                return pick(known) if everyday else self.made_up(2, 2, 3, 4)
            case "1":
                return pick("他她")
            case _:
                return pick(self.lexicon[LISTS[slot]])

    def act(self) -> list[str]:
        """A verb and an object that go together."""
        if self.rng.random() < EVERYDAY:
            return self.rng.choice(self.lexicon["acts"])
        modifier = self.rng.choice(["", "", "", self.made_up(2, 3) + "的", self.rng.choice(self.lexicon["counts"])])
        return [self.made_up(1, 1, 2), modifier + self.made_up(1, 2, 2, 3, 4)]

    def passage(self, fewest: int, most: int) -> Passage:
        """A passage of `fewest` to `most` clauses about two to four people, with a clause of scenery here and there."""
        people = {self.word("N"): self.word("1") for _ in range(self.rng.randint(2, 4))}  # name -> 他 or 她
        text, clauses, before = "", [], None
        if self.rng.random() < 0.25:
            text = self.rng.choice(self.lexicon["fillers"]) + self.rng.choice("，。")
        count = self.rng.randint(fewest, most)
        for i in range(count):
            frame, person = self.rng.choice(self.frames), self.rng.choice(list(people))
            clauses.append(self._clause(frame, person, people, len(text), again=person == before))
            text += clauses[-1].text + (self.rng.choice("。。。，；") if i < count - 1 else "。")
            if self.rng.random() < 0.12:
                text += self.rng.choice(self.lexicon["fillers"]) + "。"
            before = person
        return Passage(text, clauses, list(people))

    def _clause(self, frame: dict, person: str, people: dict[str, str], offset: int, again: bool) -> Clause:
        """A frame with its slots filled; a person who was the last one's too is now and then only 他 or 她."""
        words = {slot: self.word(slot) for slot in "WPAMDTKR"} | dict(zip("VO", self.act(), strict=True))
        words |= {"N": person, "B": self.rng.choice([name for name in people if name != person]), "1": people[person]}
        while "{K}" in frame["clause"] and COUNTED.match(words["O"]):
            words["O"] = self.word("O")  # 三个 and 一封信 don't go together
        if len(words["M"]) > 2:
            words["D"] = ""  # nor do 很 and 心事重重
        is_pronoun = again and frame["clause"].startswith("{N}") and self.rng.random() < 0.5
        shown = words | ({"N": words["1"]} if is_pronoun else {})
        written, spans = "", {}
        for part in re.split(r"(\{\w\})", frame["clause"]):
            if slot := SLOT.fullmatch(part):
                part = shown[slot[1]]
                spans.setdefault(slot[1], (offset + len(written), offset + len(written) + len(part)))
            written += part
        return Clause(written, frame["questions"], words, spans, is_pronoun)

    def questions(self, passage: Passage) -> list[dict]:
        """Up to four different questions on a passage, each with exactly one answer or, one in five, with none."""
        tried = (self._question(passage, self.rng.choice(passage.clauses)) for _ in range(4))
        return list({row["question"]: row for row in tried if row}.values())

    def _question(self, passage: Passage, clause: Clause) -> dict | None:
        """A question on one clause; None where it would have two answers."""
        asked = self.rng.choice(sorted(clause.questions))
        form, span = self.rng.choice(clause.questions[asked]), clause.span(asked)
        if span is None or self._is_ambiguous(passage, clause, asked, form):
            return None
        words = clause.words
        if self.rng.random() < UNANSWERABLE:
            swapped = self._swapped(passage, clause, asked, form)
            if swapped is None:
                return None
            words, span = words | swapped, None
        answers = {"text": [], "answer_start": []}
        if span:
            answers = {"text": [passage.text[slice(*span)]], "answer_start": [span[0]]}
        question = SLOT.sub(lambda slot: words[slot[1]], form)
        return {"context": passage.text, "question": question, "answers": answers, "is_impossible": span is None}

    def _is_ambiguous(self, passage: Passage, clause: Clause, asked: str, form: str) -> bool:
        """Whether the form names nothing, or another clause tells the same kind of thing of all that it names."""
        named = set(SLOT.findall(form))
        people = {clause.words[slot] for slot in named & set(PEOPLE)}
        words = [clause.words[slot] for slot in named - set(PEOPLE)]

        def fits(other: Clause) -> bool:
            told = _told(other, asked)
            is_told = told - people if asked in PEOPLE else told
            return bool(is_told and (told & people or not people)) and all(word in other.text for word in words)

        return not named or any(fits(other) for other in passage.clauses if other is not clause)

    def _swapped(self, passage: Passage, clause: Clause, asked: str, form: str) -> dict[str, str] | None:
        """Another word for one slot that the form names, so that the passage has no answer; None where that fails."""
        slot = self.rng.choice(sorted(set(SLOT.findall(form)) - {"1"}))
        word = self.word(slot)
        if slot in PEOPLE and asked not in PEOPLE and self.rng.random() < 0.85:
            # the better trap is somebody who is in the passage, but of whom this is not told
            told = set().union(*(_told(other, asked) for other in passage.clauses))
            word = self.rng.choice(sorted(set(passage.people) - told) or [word])
        return None if word in passage.text and slot not in PEOPLE else {slot: word}


def _told(clause: Clause, asked: str) -> set[str]:
    """The people of whom a clause tells what `asked` asks for: who, what somebody does, where, when, ..."""
    kind = next((group for group in (PEOPLE, DOING) if set(asked) <= set(group)), asked)
    return {clause.words[slot] for slot in PEOPLE if slot in clause.spans} if set(kind) & set(clause.spans) else set()
