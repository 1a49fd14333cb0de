"""A reader's scores as a plot, and TensorBoard records of each question, also across a resume."""

import os
from types import SimpleNamespace

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from scripts.reading.records import QARecords, plot_scores, scalars
from tests.test_callbacks import LOG, NAN, state, tiny_model, trainer


def test_scores_are_drawn_at_their_epochs_an_evaluation_again_at_its_step_once():
    log = [
        *LOG,
        {"eval_loss": 2.0, "eval_exact": 50.0, "eval_f1": 60.0, "epoch": 1.0, "step": 2},
        {"eval_loss": 1.0, "eval_exact": 70.0, "epoch": 2.0, "step": 4},
        {"eval_loss": 1.0, "eval_exact": 75.0, "epoch": 2.0, "step": 4},
    ]
    axis = plot_scores(log, {"eval_exact": "exact match", "eval_f1": "F1"}, "title").axes[0]
    assert [line.get_xydata().tolist() for line in axis.lines] == [[[1.0, 50.0], [2.0, 75.0]], [[1.0, 60.0]]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["exact match", "F1"]
    with pytest.raises(ValueError, match=r"\['eval_em'\] stand in no .* log; logged were \['eval_exact', 'eval_f1'"):
        plot_scores(log, {"eval_em": "exact match"})


QUESTIONS = pd.DataFrame(
    [
        ["甲-1", 1, "璃月", 0.75, "璃月", 0.75],
        ["甲-2", 3, "岩元素", 0.125, "水元素", 0.5],
        ["乙-1", 0, "", NAN, "蒙德", 0.25],
    ],
    columns=["id", "rank", "answer", "score", "top_answer", "top_score"],
)


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """TensorBoard's folder."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    # Event files are read by name: second, host, process, counter. Starts within a second, as here, would go 10 before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    return tmp_path / "logs"


def evaluated(records, *steps, start=0, eval_on_start=False):
    """A training that starts at step `start` and evaluates at `steps`; it is not ended, as if killed."""
    args = SimpleNamespace(output_dir="unused", eval_on_start=eval_on_start)
    records.on_train_begin(args, state(start), None)
    for step in steps:
        records.on_evaluate(args, state(step), None)
    return records


def values(folder):
    return {(row.tag, row.step): row.value for row in scalars(folder).itertuples()}


def points(logs, tag):
    """(step, value) of each point in our event file, hidden ones left out."""
    return [(event.step, event.value) for event in EventAccumulator(str(logs / "qa")).Reload().Scalars(tag)]


def test_each_evaluation_writes_the_articles_tags_and_they_are_read_back(logs):
    with pytest.raises(ValueError, match="no TensorBoard event file"):
        scalars(logs)
    evaluated(QARecords(lambda: QUESTIONS), 5, 10)
    table = scalars(logs)
    assert list(table) == ["tag", "step", "value"] and len(table) == 2 * (3 * 4 + 1)
    second = {tag: value for (tag, step), value in values(logs).items() if step == 10}
    assert second == {
        "qa_rank/甲-1": 1, "qa_rank/甲-2": 3, "qa_rank/乙-1": 0,
        "qa_score/甲-1": 0.75, "qa_score/甲-2": 0.125, "qa_score/乙-1": 0,
        "top1_rank/甲-1": 1, "top1_rank/甲-2": 1, "top1_rank/乙-1": 1,
        "top1_score/甲-1": 0.75, "top1_score/甲-2": 0.5, "top1_score/乙-1": 0.25,
        "qa_topk_recall": pytest.approx(2 / 3),
    }  # fmt: skip
    events = EventAccumulator(str(logs / "qa")).Reload()
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert texts == {
        f"{name}_debug/{id}/text_summary": f"Answer: {answer} (Rank: {rank})"
        for name, id, answer, rank in (
            ("qa", "甲-1", "璃月", 1), ("qa", "甲-2", "岩元素", 3), ("qa", "乙-1", "<>", 0),
            ("top1", "甲-1", "璃月", 1), ("top1", "甲-2", "水元素", 1), ("top1", "乙-1", "蒙德", 1),
        )
    }  # fmt: skip


def test_resumed_records_have_no_point_twice_and_keep_those_of_before_the_checkpoint(logs):
    """Killed at step 11 with evaluations at 5 and 10 written, but only checkpoint 5 saved."""
    now = {"table": QUESTIONS}
    evaluated(QARecords(lambda: now["table"]), 5, 10)
    now["table"] = QUESTIONS.assign(rank=1)
    evaluated(QARecords(lambda: now["table"]), start=5)  # killed again, before it wrote
    assert {step for _, step in values(logs)} == {5}  # the point of step 10 is hidden until it is reached again
    evaluated(QARecords(lambda: now["table"]), 10, 15, start=5)
    assert points(logs, "qa_rank/乙-1") == [(5, 0), (10, 1), (15, 1)]


def test_a_training_from_the_start_and_one_that_evaluates_at_its_start_replace_too(logs):
    for steps, start in (((0, 5), 0), ((0, 5), 0), ((5, 10), 5)):
        evaluated(QARecords(lambda: QUESTIONS), *steps, start=start, eval_on_start=True)
    assert [step for step, _ in points(logs, "qa_topk_recall")] == [0, 5, 10]


def test_beside_trainers_own_event_file_nothing_of_it_is_hidden(logs, tmp_path):
    """A real training: losses and scores by Trainer's callback, the records by ours, resumed at step 5."""
    settings = {"report_to": "tensorboard", "use_cpu": True}
    records = QARecords(lambda: QUESTIONS)
    trainer(tiny_model(), tmp_path, [records], num_train_epochs=1, **settings).train()
    assert records.writer is None
    resumed = trainer(tiny_model(), tmp_path, [records], **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-5"))
    table = scalars(logs)
    assert not table.duplicated(["tag", "step"]).any()
    steps = {tag: rows["step"].tolist() for tag, rows in table.groupby("tag")}
    assert steps["eval/loss"] == steps["qa_topk_recall"] == steps["qa_rank/甲-1"] == [5, 10]
    assert steps["train/loss"] == [2, 4, 6, 8, 10]
    logged = [log["eval_loss"] for log in resumed.state.log_history if "eval_loss" in log]
    assert table.loc[table["tag"] == "eval/loss", "value"].tolist() == pytest.approx(logged)

    resumed.evaluate()  # by hand, after the end
    assert [step for step, _ in points(logs, "qa_topk_recall")] == [5, 10]


def test_without_the_variable_the_records_lie_in_the_output_folder_and_a_limit_spares_tags(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    records = QARecords(lambda: QUESTIONS, limit=1)
    records.on_evaluate(SimpleNamespace(output_dir=tmp_path), state(3), None)
    found = values(tmp_path / "runs")
    assert os.listdir(tmp_path / "runs") == ["qa"] and {step for _, step in found} == {3}
    assert {tag.split("/")[-1] for tag, _ in found} == {"甲-1", "qa_topk_recall"}
    assert found["qa_topk_recall", 3] == pytest.approx(2 / 3)  # of all


def test_only_the_main_process_asks_for_the_table_and_writes(logs):
    records = QARecords(lambda: pytest.fail("the table was asked for"))
    records.on_train_begin(None, state(main=False), None)
    records.on_evaluate(None, state(main=False), None)
    records.on_train_end(None, state(main=False), None)
    assert not logs.exists()
