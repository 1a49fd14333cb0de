"""QA metrics against the figures of the official scripts, values worked out by hand, slow oracles, and bad input."""

import math
import random

import numpy as np
import pytest

from scripts.reading.metrics import best_char_f1, best_exact, chinese_qa, cmrc_2018, squad_v2

QUESTIONS = {  # id: (accepted answers, prediction, probability that there is no answer)
    "钟离-1": (["璃月", "璃月港"], "璃月", 0.1),
    "钟离-2": (["岩元素"], "水元素", 0.2),
    "钟离-3": (["往生堂的客卿"], "往生堂客卿", 0.3),
    "胡桃-1": (["《神霄折戟录》"], "神霄折戟录。", 0.05),
    "胡桃-2": (["2020年9月28日", "9月28日"], "２０２０年9月28日", 0.4),
    "温迪-1": (["the Anemo Archon", "Barbatos"], "an anemo archon!", 0.15),
    "温迪-2": (["Mondstadt city", "the city of Mondstadt"], "in Mondstadt city", 0.25),
    "温迪-3": (["风神Barbatos（巴巴托斯）"], "Barbatos(巴巴托斯)", 0.35),
    "温迪-4": (["苹果酒"], "", 0.6),
    "无-1": ([], "", 0.9),
    "无-2": ([], "蒙德", 0.7),
    "无-3": ([], "the", 0.55),
}
ANSWERABLE = {id: question for id, question in QUESTIONS.items() if question[0]}


def records(questions=QUESTIONS, without=()):
    """A metric's arguments for {id: (answers, prediction, probability)}; ids in `without` get no prediction."""
    predictions = [
        {"id": id, "prediction_text": text, "no_answer_probability": probability}
        for id, (_, text, probability) in questions.items()
        if id not in without
    ]
    references = [{"id": id, "answers": {"text": answers}} for id, (answers, _, _) in questions.items()]
    return {"predictions": predictions, "references": references}


@pytest.mark.parametrize(
    ("threshold", "exact", "f1", "no_answer"),
    [(1.0, 33.333333333333336, 40.0, 66.66666666666667), (0.5, 41.666666666666664, 48.333333333333336, 100.0)],
)
def test_squad_v2_prints_what_evaluate_v2_py_prints(threshold, exact, f1, no_answer):
    """The figures are those of SQuAD's evaluate-v2.0.py (copy in github.com/qwang70/bert, b3797fb) with -n and -t."""
    both = {"total": 12, "HasAns_total": 9, "NoAns_total": 3}
    both |= {"HasAns_exact": 22.22222222222222, "HasAns_f1": 31.11111111111111}
    best = {"best_exact": 41.666666666666664, "best_f1": 48.333333333333336}
    best |= {"best_exact_thresh": 0.15, "best_f1_thresh": 0.25}
    own = {"exact": exact, "f1": f1, "NoAns_exact": no_answer, "NoAns_f1": no_answer}
    assert squad_v2(**records(), no_answer_threshold=threshold) == own | both | best


def test_cmrc_2018_gives_what_its_script_gives_and_refuses_questions_without_an_answer():
    """The figures are those of cmrc2018_evaluate.py v6 (github.com/ymcui/cmrc2018, baseline/, c0eb1b6), unrounded."""
    scores = cmrc_2018(**records(ANSWERABLE, without=["温迪-4"]))
    means = {"AVERAGE": 44.37950937950937, "F1": 66.53679653679653, "EM": 22.22222222222222}
    assert scores == means | {"TOTAL": 9, "SKIP": 1}
    with pytest.raises(ValueError, match="references: '无-1', '无-2', '无-3': no answer"):
        cmrc_2018(**records())


@pytest.mark.parametrize(
    ("answer", "prediction", "f1", "exact"),
    [
        ("往生堂的客卿", "往生堂客卿", 6 / 11, 0),  # the run 往生堂: 3 of 5 and 3 of 6
        ("2020年9月28日", "２０２０年9月28日", 10 / 12, 0),  # full-width digits are another token
        ("钟离：“契约”", "钟离契约", 1, 1),  # listed marks do not count
        ("钟离…", "钟离", 4 / 5, 0),  # … is not listed
        ("ω-Force", "ωforce", 1, 1),  # nor do - and case
        ("New York", "york", 2 / 3, 0),
        ("约37.5%", "37.5%", 4 / 5, 0),  # tokens 约, 37.5, %
        ("The cat can't", "can't", 4 / 6, 0),  # nltk: the, cat, ca, n't
        ("", "钟离", 0, 0),
    ],
)
def test_cmrc_2018_by_hand(answer, prediction, f1, exact):
    scores = cmrc_2018(**records({"1": ([answer], prediction, 0.0)}))
    assert (scores["F1"], scores["EM"]) == (pytest.approx(100 * f1), 100 * exact)


def test_cmrc_2018_against_an_oracle_that_tries_every_run():
    draw, questions = random.Random(0), {}
    for number in range(200):
        answers = ["".join(draw.choices("岩元素钟", k=draw.randint(1, 8))) for _ in range(draw.randint(1, 3))]
        questions[str(number)] = (answers, "".join(draw.choices("岩元素钟", k=draw.randint(0, 8))), 0.0)

    def runs(text):
        return {text[i:j] for i in range(len(text)) for j in range(i, len(text) + 1)} | {""}

    def f1(text, answer):
        return 2 * max(map(len, runs(text) & runs(answer))) / (len(text) + len(answer))

    expected = np.mean([max(f1(text, a) for a in answers) for answers, text, _ in questions.values()])
    assert cmrc_2018(**records(questions))["F1"] == pytest.approx(100 * expected)


def test_squad_v2s_best_is_that_of_every_threshold_tried():
    draw = random.Random(1)
    for _ in range(5):
        questions = {}
        for number in range(12):
            answers = [" ".join(draw.choices(["red", "blue", "sea"], k=2)) for _ in range(draw.randint(0, 2))]
            text = draw.choice([*answers, "", "red sea", "blue"])
            questions[str(number)] = (answers, text, round(draw.random(), 6))
        tried = {
            threshold: squad_v2(**records(questions), no_answer_threshold=threshold)
            for threshold in [-1.0, *(q[2] for q in questions.values())]
        }
        scores = squad_v2(**records(questions))
        for name in ("exact", "f1"):
            assert scores[f"best_{name}"] == pytest.approx(max(scores[name] for scores in tried.values()))
            reached = tried.get(scores[f"best_{name}_thresh"], tried[-1.0])
            assert reached[name] == pytest.approx(scores[f"best_{name}"])


def test_chinese_qa_by_hand():
    exact = [1, 0, 0, 1, 1, 0, 0, 0, 0]  # 胡桃-1 without book marks and full stop, 胡桃-2 in half width
    f1 = [1, 4 / 6, 10 / 11, 1, 1, 0, 4 / 5, 14 / 16, 0]  # 温迪-1: case counts
    assert chinese_qa(**records()) == {
        "exact": pytest.approx(100 * (sum(exact) + 1) / 12),
        "f1": pytest.approx(100 * (sum(f1) + 1) / 12),
        "total": 12,
        "missing": 0,
        "HasAns_exact": pytest.approx(100 * sum(exact) / 9),
        "HasAns_f1": pytest.approx(100 * sum(f1) / 9),
        "HasAns_total": 9,
        "NoAns_accuracy": pytest.approx(100 / 3),
        "NoAns_total": 3,
    }


@pytest.mark.parametrize(
    ("prediction", "answer", "same"),
    [
        ("《原神", "《原神》", True),
        ("「契约。」", "契约", True),
        ("，璃月", ",璃月", True),  # full width
        ("璃月，", "璃月", False),  # other marks count
        ("《原神》与《崩坏》", "原神与崩坏", False),  # inside they count
        ("3.5", "35", False),
        ("Yes", "yes", False),
    ],
)
def test_what_counts_as_the_same_answer(prediction, answer, same):
    assert best_exact([prediction], [[answer]]).tolist() == [same]
    assert best_exact([answer], [[prediction]]).tolist() == [same]
    assert (best_char_f1([prediction], [[answer]])[0] == 1) == same


def test_the_best_of_several_references_counts_without_one_the_empty_answer_and_bad_rows_are_refused():
    predictions, references = ["璃月", "在璃月", "", "璃月", "。"], [["蒙德", "璃月"], ["璃月港", "璃月"], [], [], []]
    assert best_exact(predictions, references).tolist() == [True, False, True, False, True]
    assert best_char_f1(predictions, references).tolist() == pytest.approx([1, 4 / 5, 1, 0, 1])
    for predictions, references, message in (
        (["岩", None], [["岩"], ["水"]], "predictions, row 1: a text is needed"),
        (["岩", "水"], [["岩"], "水"], "references, row 1: a sequence of texts is needed"),
        (["岩"], [["岩", "。"]], r"references, row 0: \['岩', '。'\] holds an answer of marks alone"),
    ):
        with pytest.raises(ValueError, match=message):
            best_exact(predictions, references)


def test_a_mean_over_no_question_is_nan_and_the_official_keys_are_left_out():
    without = records({id: q for id, q in QUESTIONS.items() if not q[0]})
    assert math.isnan(chinese_qa(**without)["HasAns_f1"])
    assert math.isnan(chinese_qa(**records(ANSWERABLE))["NoAns_accuracy"])
    assert not any(key.startswith("HasAns") for key in squad_v2(**without))
    assert not any(key.startswith("NoAns") for key in squad_v2(**records(ANSWERABLE)))


def test_missing_predictions_count_as_0():
    without = ["钟离-1", "无-1"]  # both are right in the full set
    scores = squad_v2(**records(without=without))
    assert (scores["missing"], scores["total"], scores["NoAns_total"]) == (2, 12, 3)
    assert scores["exact"] == pytest.approx(100 * (4 - 2) / 12)
    assert scores["best_exact"] == pytest.approx(100 * (5 - 2) / 12)
    scores = chinese_qa(**records(without=without))
    assert (scores["missing"], scores["total"], scores["NoAns_accuracy"]) == (2, 12, 0)
    assert scores["exact"] == pytest.approx(100 * (4 - 2) / 12)
    scores = cmrc_2018(**records(ANSWERABLE, without=without))
    assert (scores["SKIP"], scores["TOTAL"]) == (1, 9) and scores["EM"] == pytest.approx(100 * (2 - 1) / 9)
    assert cmrc_2018(**records(ANSWERABLE, without=ANSWERABLE))["F1"] == 0  # no prediction at all


@pytest.mark.parametrize("metric", [squad_v2, chinese_qa, cmrc_2018])
def test_order_and_form_of_the_records_are_free(metric):
    questions = {id: (answers, text, 0.0) for id, (answers, text, _) in ANSWERABLE.items()}
    expected = pytest.approx(metric(**records(questions)), rel=1e-12, nan_ok=True)
    predictions = [{"id": id, "prediction_text": text} for id, (_, text, _) in questions.items()]
    as_squad = [{"id": id, "answers": [{"text": one} for one in answers]} for id, (answers, _, _) in questions.items()]
    assert metric(predictions, as_squad) == expected
    assert metric(iter(predictions[::-1]), as_squad[::-1]) == expected


GOOD = {"id": "1", "prediction_text": "岩"}, {"id": "1", "answers": {"text": ["岩"]}}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([GOOD[0], GOOD[0] | {"id": "7"}], [GOOD[1]], "predictions: '7': no such id among the 1 references"),
        ([GOOD[0] | {"id": i} for i in "abcdefg"], [GOOD[1]], "'a', 'b', 'c', 'd', 'e' and 2 more: no such id"),
        ([GOOD[0], GOOD[0]], [GOOD[1]], "predictions: '1': each id can stand there once"),
        ([GOOD[0]], [GOOD[1], GOOD[1]], "references: '1': each id can stand there once"),
        (["岩"], [GOOD[1]], r"predictions, row 0: \{\"id\": text.* got '岩'"),
        ([GOOD[0], {"id": "1"}], [GOOD[1]], "predictions, row 1: .* is needed"),
        *(
            ([GOOD[0] | {key: wrong}], [GOOD[1]], "predictions, row 0: .* not empty.* finite number")
            for key, wrong in (("id", ""), ("prediction_text", None), ("no_answer_probability", math.nan))
        ),
        ([GOOD[0]], [{"id": "1", "answers": ["岩"]}], "references, row 0: .* is needed"),
        ([GOOD[0]], [GOOD[1] | {"id": ""}], "references, row 0: .* not empty"),
        ([GOOD[0]], [{"id": "1", "answers": {"text": [None]}}], "references, row 0, answers, row 0: a text is needed"),
        ([], [], "references are empty"),
    ],
)
def test_bad_records_are_named(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        squad_v2(predictions, references)
