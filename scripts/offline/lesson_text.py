"""Made-up instruction rows: what the small scorer of chapter 06 is pretrained on.

Most rows come from frames (data/lessons/frames.json) whose slots are filled from word lists (data/lessons/lexicon.json
and data/reading/lexicon.json). One frame, and a row that it gives:

    {"task": "反义词", "instruction": ["“{antonyms.0}”的反义词是什么？"], "input": [], "output": ["{antonyms.1}"]}
    {"task": "反义词", "instruction": "“热闹”的反义词是什么？", "input": "", "output": "冷清"}

The others (everyday knowledge, sentences, advice) were written one by one: data/lessons/texts.json. No row of data/sft
is among them.

A slot is `{list}`, `{list.0}` for a part of an entry that has parts, `{list#2}` for a second draw from the list;
`{name}` is a person, `{a}` and `{b}` are whole numbers with b < a, `{a+b}` and `{a-b}` what they add up to and leave.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict

from scripts.artifacts import read_json
from scripts.profiles import ROOT

FOLDER = ROOT / "data/lessons"
SLOT = re.compile(r"\{([^{}]+)\}")
SURNAMES = "王李张刘陈杨赵黄周吴徐孙马朱胡林郭何高罗"
GIVEN = "明华强伟军丽芳静敏红梅刚平东云峰雪琴玉兰春秋文安乐宁"
LABEL = 6  # characters: an output no longer than this is a label or a word, which many rows share
WORDINGS = (
    "用“{}”造一个句子。",
    "请用“{}”造句。",
    "用“{}”写一句话。",
    "以“{}”造句。",
    "用上“{}”，说一句完整的话。",
    "“{}”怎么造句？",
)


def material() -> dict:
    """Frames, word lists and texts, as they stand in data/, and what stands in data/sft, which must not stand here."""
    lexicon = read_json(ROOT / "data/reading/lexicon.json") | read_json(FOLDER / "lexicon.json")
    frames, texts = read_json(FOLDER / "frames.json"), read_json(FOLDER / "texts.json")
    held = [row for path in sorted((ROOT / "data/sft").glob("*.json")) for row in read_json(path)]
    questions = {row["instruction"] + row["input"] for row in held}
    sentences = {row[key] for row in held for key in ("input", "output") if len(row[key]) > LABEL}
    return {"lexicon": lexicon, "frames": frames, "texts": texts, "held": sorted(questions | sentences)}


def rows(count: int, seed: int) -> list[dict]:
    """`count` rows with task, instruction, input and output, tasks equally often; the same seed gives the same rows."""
    source, rng = material(), random.Random(seed)
    held = set(source["held"])
    of_task = defaultdict(list)
    for frame in source["frames"] + source["texts"]:
        of_task[frame["task"]].append(frame)
    made: list[dict] = []
    while len(made) < count:
        frame = rng.choice(of_task[rng.choice(list(of_task))])
        row = _filled(frame, source["lexicon"], rng) if isinstance(frame["output"], list) else _written(frame, rng)
        if not held & {row["instruction"] + row["input"], row["input"], row["output"]}:
            made.append(row)
    return made


def _written(text: dict, rng: random.Random) -> dict:
    """A row of texts.json; one with a word instead of an instruction asks for a sentence with it."""
    instruction = text.get("instruction") or rng.choice(WORDINGS).format(text["word"])
    return {"task": text["task"], "instruction": instruction, "input": "", "output": text["output"]}


def _filled(frame: dict, lexicon: dict, rng: random.Random) -> dict:
    """A row of `frame`: one of its wordings each, a slot the same word wherever it stands."""
    a, b = rng.randint(2, 20), rng.randint(1, 10)
    a, b = max(a, b + 1), min(a, b)
    drawn = {"name": _name(rng), "a": str(a), "b": str(b), "a+b": str(a + b), "a-b": str(a - b)}

    def word(slot: re.Match) -> str:
        which, _, part = slot[1].partition(".")
        if which not in drawn:
            drawn[which] = rng.choice(
                [entry for entry in lexicon[which.partition("#")[0]] if entry not in drawn.values()]
            )
        return drawn[which][int(part)] if part else drawn[which]

    texts = {key: rng.choice(frame[key] or [""]) for key in ("instruction", "input", "output")}
    return {"task": frame["task"], **{key: SLOT.sub(word, text) for key, text in texts.items()}}


def _name(rng: random.Random) -> str:
    surname, given, more = rng.choice(SURNAMES), rng.choice(GIVEN), rng.choice(GIVEN)
    full = surname + given
    return rng.choice(("小" + given, "小" + surname, "阿" + given, "老" + surname, full, full + more))
