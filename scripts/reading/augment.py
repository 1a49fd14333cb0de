"""Other words for the same reading: training rows whose names and answers change while what is asked of the reader doesn't.

A reader that sees the same 2,000 questions again and again learns their words by heart instead of reading. Train it on rows that are
reworded anew for each pass, and only the reading is left to learn.

A *passage* is one context with all its questions. A *person* is an accepted answer of a "who" question anywhere in the rows. A
*phrase* is the first answer of a question of one of the kinds in `PHRASES`. An *edit* puts a new text for an old one, all over a
passage. It is made only where every answer keeps both its edges, and where the questions go on meaning what they meant, as far as
that can be told from the characters: see `_stands_partly`.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from scripts.reading.squad import places_of

PHRASES = ("what", "where", "when", "mood", "how many")  # a "why" or "other" answer doesn't fit another question
ANSWERS = ("answers", "plausible_answers")
MADE_UP = 0.5  # share of the new names; the others are people of other passages


def reword(rows: Sequence[dict], seed: int, names: float = 0.6, phrases: float = 0.5) -> list[dict]:
    """The rows (a Dataset or a list) with other people and other answers; the same seed gives the same ones.

    In each passage, over the context, the questions and the answers alike,
    names      is the chance of each person in the context to become another one, half of the time with a made-up name;
    phrases    is the chance of each phrase that stands once in the context to become one of another row of its kind.
    A name or a phrase of one character stays, and so does one whose edit would make a row wrong.

    Number, order, ids, titles and numbers of answers stay, and each answer stands at its `answer_start`. Rows with the same title and
    context are one passage, wherever they are in the list. `rows` itself isn't changed. 2,000 rows take about 0.1 s.

    >>> def row(context, question, *answers):
    ...     answers = {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]}
    ...     return {"id": question, "context": context, "question": question, "answers": answers}
    >>> fair, tower = "画师川岛在集市买伞。川岛很高兴。", "北斗在灯塔下睡觉。"
    >>> rows = [row(fair, "川岛在哪里买伞？", "集市"), row(fair, "是谁很高兴？", "川岛", "画师川岛"),
    ...         row(tower, "北斗在哪里？", "灯塔下"), row(tower, "谁在睡觉？", "北斗")]
    >>> for row in reword(rows, seed=12, names=1, phrases=1)[:2]:
    ...     print(row["context"], row["question"], *row["answers"].values())
    画师北斗在灯塔下买伞。北斗很高兴。 北斗在哪里买伞？ ['灯塔下'] [5]
    画师北斗在灯塔下买伞。北斗很高兴。 是谁很高兴？ ['北斗', '画师北斗'] [2, 0]

    Raises ValueError, naming the row's id, where an answer doesn't stand at its answer_start; `squad.load` gives none such.
    """
    rows, rng = list(rows), random.Random(seed)
    writer = _Writer.of(rows, rng)
    reworded = list(rows)
    for indices in _passages(rows):
        chosen = [rows[i] for i in indices]
        passage = writer.other_names(_Passage.of(chosen), names)
        passage = writer.other_phrases(passage, chosen, phrases)
        for i, row in zip(indices, passage.rows(chosen), strict=True):
            reworded[i] = row
    return reworded


def _passages(rows: Sequence[dict]) -> list[list[int]]:
    """The indices of the rows of each passage, in the order of its first row."""
    passages = defaultdict(list)
    for i, row in enumerate(rows):
        passages[row.get("title"), row["context"]].append(i)
    return list(passages.values())


# ---------------------------------------------------------------- a passage


class _Passage(NamedTuple):
    """A context, its questions, and where their answers stand: the spans (start, end) of each row, the accepted ones first."""

    context: str
    questions: list[str]
    spans: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, rows: Sequence[dict]) -> _Passage:
        return cls(rows[0]["context"], [row["question"] for row in rows], [list(_spans(row)) for row in rows])

    def rows(self, originals: Sequence[dict]) -> Iterator[dict]:
        """The original rows with the texts and answers of this passage."""
        for row, question, spans in zip(originals, self.questions, self.spans, strict=True):
            left = iter(spans)
            answers = {field: self._answers(row[field], left) for field in ANSWERS if field in row}
            yield {**row, "context": self.context, "question": question, **answers}

    def _answers(self, original: dict, left: Iterator[tuple[int, int]]) -> dict:
        """As many answers as the original has, taken from the spans that are left."""
        spans = [next(left) for _ in original["text"]]
        return {
            "text": [self.context[start:end] for start, end in spans],
            "answer_start": [start for start, _ in spans],
        }

    def edited(self, old: str, new: str) -> _Passage | None:
        """With `new` for each `old`; None where one cuts through an edge of an answer, or where two overlap (哈哈 in 哈哈哈).

        川岛 -> 空 in 画师川岛来了: the answer 画师川岛, (0, 4), becomes 画师空, (0, 3). The answer 画师川 would be cut through.
        """
        found = places_of(self.context, old)
        cut = {place + i for place in found for i in range(1, len(old))}  # the positions inside an `old`
        if not cut.isdisjoint(found) or any(not cut.isdisjoint(span) for spans in self.spans for span in spans):
            return None
        growth = len(new) - len(old)

        def moved(position: int) -> int:
            return position + growth * sum(place < position for place in found)  # no position is inside an `old`

        spans = [[(moved(start), moved(end)) for start, end in spans] for spans in self.spans]
        return _Passage(self.context.replace(old, new), [one.replace(old, new) for one in self.questions], spans)


def _spans(row: dict) -> Iterator[tuple[int, int]]:
    """Where the row's answers stand, then its plausible ones."""
    for field in ANSWERS:
        answers = row.get(field, {"text": [], "answer_start": []})
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            if not row["context"].startswith(text, start):
                raise ValueError(
                    f"row {row['id']!r:.60}: {text!r:.60} doesn't stand at answer_start {start}; squad.load repairs this"
                )
            yield start, start + len(text)


# ---------------------------------------------------------------- other words


class _Writer(NamedTuple):
    """What can be put in: all people (the longest first), and the phrases of each kind. All chance comes from `rng`."""

    people: list[str]
    phrases: dict[str, list[str]]
    any_person: re.Pattern
    characters: list[str]
    rng: random.Random

    @classmethod
    def of(cls, rows: Iterable[dict], rng: random.Random) -> _Writer:
        people, phrases = {}, {kind: {} for kind in PHRASES}  # dicts as sets with an order
        for row in rows:
            kind, texts = question_kind(row["question"]), row["answers"]["text"]
            if kind == "who":
                people.update(dict.fromkeys(texts))
            elif kind in phrases:
                phrases[kind].update(dict.fromkeys(texts[:1]))
        longest_first = sorted(people, key=len, reverse=True)
        any_person = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        phrases = {kind: list(texts) for kind, texts in phrases.items()}
        return cls([name for name in longest_first if len(name) > 1], phrases, any_person, common_characters(), rng)

    def other_names(self, passage: _Passage, share: float) -> _Passage:
        """Each person of the context replaced with this chance.

        A name that holds another one isn't replaced but follows: 川岛 -> 空 makes 画师空 of 画师川岛, so both stay one person.
        """
        known = self._people(passage)
        for name in _innermost(known):
            if len(name) < 2 or name not in passage.context or self.rng.random() >= share:
                continue
            new, texts = self._name(), [passage.context, *passage.questions]
            # a new name with two characters of anything here is risky; one with a whole name of one character is too
            if not any(other in new for other in known) and not _is_risky(name, new, texts):
                passage = passage.edited(name, new) or passage
        return passage

    def _people(self, passage: _Passage) -> list[str]:
        """Everybody who stands anywhere in the passage other than inside a longer name."""
        answers = [passage.context[start:end] for spans in passage.spans for start, end in spans]
        texts = "\n".join([passage.context, *passage.questions, *answers])
        return list(dict.fromkeys(self.any_person.findall(texts)))

    def _name(self) -> str:
        if self.rng.random() < MADE_UP:
            return "".join(self.rng.choice(self.characters) for _ in range(self.rng.randint(2, 4)))
        return self.rng.choice(self.people)

    def other_phrases(self, passage: _Passage, rows: Sequence[dict], share: float) -> _Passage:
        """The first answer of each of these rows replaced with this chance, where it is a phrase that stands once."""
        for i, row in enumerate(rows):
            kind = question_kind(row["question"])
            if kind not in PHRASES or not row["answers"]["text"] or self.rng.random() >= share:
                continue
            start, end = passage.spans[i][0]
            old, new = passage.context[start:end], self.rng.choice(self.phrases[kind])
            if len(old) < 2 or len(places_of(passage.context, old)) > 1 or new in passage.context:
                continue
            if not _is_risky(old, new, passage.questions):
                passage = passage.edited(old, new) or passage
        return passage


def _innermost(names: list[str]) -> list[str]:
    """The names that hold no other one."""
    return [name for name in names if not any(other != name and other in name for other in names)]


def _is_risky(old: str, new: str, texts: list[str]) -> bool:
    """Whether the texts speak of the new one already, or of the old one in other words, which would not be replaced."""
    text = "\n".join(texts)
    return _stands_partly(new, text) or _stands_partly(old, text.replace(old, "\n"))


def _stands_partly(words: str, text: str) -> bool:
    """Whether two neighbouring characters of the words stand in the text.

    一只青蛙 does in 青蛙跳到哪里？ With another animal in the context, nothing would answer that; and put into the context of a
    question on a frog that isn't there, it would answer it.
    """
    return any(words[i : i + 2] in text for i in range(max(1, len(words) - 1)))


KINDS = {  # the first that is found in the question, so 什么时候 comes before 什么
    "who": "谁|哪位|何人|什么人|哪个人|哪些人|哪几位",
    "why": "为什么|为何|为啥|什么原因|因何|何以",
    "when": "什么时候|啥时候|何时|几时|几点|哪年|哪一年|哪天|哪一天|哪月|几月|几号|什么时间|什么年代|何年|何日",
    "where": "哪里|哪儿|何处|何地|什么地方|啥地方|在哪|到哪|去哪|从哪|哪座|哪个地方|哪个城|哪个国家|何方",
    "how many": "多少|几|多大|多久|多长|多高|多远|多重",
    "mood": "心情|怎么样|怎样|如何|什么感受|什么感觉|情绪",
    "what": "什么|啥|哪|何",
}


def common_characters() -> list[str]:
    """The 6,763 Chinese characters of GB 2312, in its order: the common ones (level 1) by sound, then the others by radical."""
    pairs = (bytes((row, cell)) for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF))
    return [pair.decode("gb2312") for pair in pairs if not b"\xd7\xfa" <= pair <= b"\xd7\xfe"]  # 5 cells are empty


def question_kind(question: str) -> str:
    """What a Chinese question asks for, by its interrogative: who, where, what, when, why, how many, mood (or manner) or other.

    >>> [question_kind(q) for q in ("谁在冒险？", "什么时候出发？", "她买了什么？", "他在哪里？", "刻晴开心吗？")]
    ['who', 'when', 'what', 'where', 'other']
    """
    return next((kind for kind, words in KINDS.items() if re.search(words, question)), "other")
