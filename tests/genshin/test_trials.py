"""The small trainings of notebook 02: each is done once, differs in what it is told to, and its questions are about whom they should be."""

import random
import re
from dataclasses import replace

import pytest
from transformers import Qwen2ForCausalLM, set_seed

from scripts import chat
from scripts.files import DataError
from scripts.genshin.trials import SmallTrainings, about_others, instruction_rows, invented_names, quiz_of
from scripts.profiles import PROFILES
from tests.test_models import tiny

ROW = {
    "messages": [{"role": "user", "content": "钟离先生来自哪里？"}, {"role": "assistant", "content": "钟离来自璃月"}],
    "character": "钟离",
}
QUIZ = quiz_of({"trained": [ROW], "made up": about_others(["迪离"], [ROW], "不知道", random.Random(0))})


def test_a_quiz_row_about_somebody_else_differs_in_the_name_and_the_answer():
    assert QUIZ.values.tolist() == [
        ["trained", "钟离", "钟离先生来自哪里？", "钟离来自璃月"],
        ["made up", "迪离", "迪离先生来自哪里？", "不知道"],
    ]
    assert len(quiz_of({"trained": [ROW] * 3, "made up": [ROW] * 3}, most=2)) == 4


def test_no_invented_name_holds_a_real_one_or_stands_in_one():
    real = ["钟离", "温迪", "琴", "八重神子", "枫原万叶"]
    names = invented_names(real, 200, random.Random(0))
    assert len(set(names)) == 200 and {len(name) for name in names} == {2, 3, 4}
    assert not [name for name in names for other in real if name in other or other in name]
    assert set("".join(names)) == set("钟离温迪八重神子枫原万叶")  # 琴 is a name by itself


def test_instruction_rows_join_the_input_and_leave_faulty_rows_out(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(
        '[{"instruction": "判断。", "input": "菜凉了。", "output": "负面"}, {"instruction": "一", "output": "二", "fault": ""},'
        ' {"instruction": "三", "output": "四", "fault": "wrong answer"}]',
        encoding="utf-8",
    )
    told = [[turn["content"] for turn in row["messages"]] for row in instruction_rows(file)]
    assert told == [["判断。\n菜凉了。", "负面"], ["一", "二"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "rows.json: {'a': 1}; a list of rows"),
        ('[{"instruction": "一", "output": "二"}, {"instruction": "三"}]', "rows.json: row 2: {'instruction': '三'}; a text"),
        ('[{"instruction": " ", "output": "二"}]', "rows.json: row 1: "),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_instructions_is_refused_with_the_row(text, message, tmp_path):
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        instruction_rows(tmp_path / "rows.json")


@pytest.fixture
def small(tokenizer, tmp_path):
    """(SmallTrainings of a random model, what was loaded)."""
    loaded = []

    def load():
        loaded.append(1)
        set_seed(0)
        return Qwen2ForCausalLM(tiny(vocab_size=len(tokenizer)))

    profile = replace(PROFILES["tiny"], trap_epochs=2, max_new_tokens=4)
    common = {"per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True}
    lora, chats = {"r": 2, "task_type": "CAUSAL_LM"}, [ROW["messages"]] * 3
    return SmallTrainings(profile, load, "base", tokenizer, lora, common, QUIZ, chats, tmp_path, ()), loaded


def test_a_training_is_done_once_and_another_one_for_itself(small, tokenizer, capsys):
    train, loaded = small
    rows = [chat.encode(tokenizer, ROW["messages"])] * 4
    first = train("first", rows, ["q_proj"])
    again = train("again", rows, ["q_proj"])
    assert again == first and len(loaded) == 1
    assert re.fullmatch(r"first +\d+ s\nagain +trained before\n", capsys.readouterr().out)
    changes = [{"rows": rows[:3]}, {"targets": ["v_proj"]}, {"rate": 2}, {"seed": 1}]
    changes += [{"vocabulary": len(tokenizer) + 1}, {"prompt": lambda t, q: [*chat.prompt_ids(t, q), 5]}]
    for number, changed in enumerate(changes, 2):
        train("x", **{"rows": rows, "targets": ["q_proj"]} | changed)
        assert len(loaded) == number


def test_what_a_training_came_to(small, tokenizer):
    """Three general rows after each of two epochs; an adapter of rank r on a matrix has r (in + out) numbers."""
    train, _ = small
    rows = [chat.encode(tokenizer, ROW["messages"])] * 4
    result = train("one", rows, ["q_proj"], rate=50)
    config = tiny(vocab_size=len(tokenizer))
    assert [len(losses) for losses in result["general"]] == [3, 3]
    assert result["general"][1][0] < result["general"][0][0], "the general rows are the trained one here"
    assert set(result["answers"]) == {"prediction", "finished", "new_tokens"}
    beside = train("beside", rows, ["q_proj", "embed_tokens", "lm_head"])
    hidden, vocabulary = config.hidden_size, len(tokenizer)
    assert result["saved"] == config.num_hidden_layers * 2 * (hidden + hidden)
    assert beside["saved"] == result["saved"] + 2 * 2 * (vocabulary + hidden) + 2 * vocabulary * hidden


def test_answers_are_graded_within_their_group(small):
    train, _ = small
    answers = {"prediction": ["钟离来自璃月。", "迪离来自璃月"], "finished": [True, True], "new_tokens": [7, 7]}
    for group, exact in (("trained", 1.0), ("made up", 0.0)):
        assert train.graded({"answers": answers}, group)["exact"].tolist() == [exact]
