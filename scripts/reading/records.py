"""What a reader's training leaves behind: a plot of its scores, and TensorBoard records of each question."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback

from scripts.profiles import shown


def plot_scores(log_history: list[dict], labels: dict[str, str], title: str = "") -> plt.Figure:
    """Scores of each evaluation against epoch, on a scale of 0 to 100. `labels`: key in Trainer's log -> name in the legend.

    Raises ValueError for a key that no evaluation logged.
    """
    logs = [log for log in log_history if "eval_loss" in log or labels.keys() & log.keys()]
    table = pd.DataFrame(logs, columns=["step", "epoch", *labels]).groupby("step", as_index=False).last()
    if missing := [key for key in labels if table[key].isna().all()]:
        logged = sorted({key for log in logs for key in log if key.startswith("eval_")})
        raise ValueError(f"labels: {missing} stand in no evaluation's log; logged were {logged}")
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for key, label in labels.items():
        points = table.dropna(subset=key)
        axis.plot(points["epoch"], points[key], label=label, marker="o")
    axis.set(xlabel="epoch", ylabel="score, percent", title=title, ylim=(0, 103))
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


class QARecords(TrainerCallback):
    """Write to TensorBoard, after each evaluation, how each question fares: rank and probability of its right answer, and the top.

    `table()` gives the evaluation's table, a row a question (not a window) with the columns

    id            of the question
    rank          place of the right answer among the n best, 1 is the top, 0 is not among them
    answer, score           the right answer as found, and its probability (not read where rank is 0)
    top_answer, top_score   the answer at rank 1 and its probability

    Scalars: qa_rank/<id>, qa_score/<id> (0 and 0 where it was not found), top1_rank/<id>, top1_score/<id>, and qa_topk_recall,
    the share of all questions of the table that have a rank. Texts: qa_debug/<id>, top1_debug/<id>: "Answer: ... (Rank: n)".
    `limit`: only the first so many questions get tags of their own. Only the main process calls `table` and writes.

    The event file lies in `qa/` below TensorBoard's folder (`tensorboard_folder`): TensorBoard shows it as the run "qa". On resume a
    mark in it hides what was written after the checkpoint, and such a mark hides all tags of its folder, Trainer's as well.
    """

    COLUMNS = ("id", "rank", "answer", "score", "top_answer", "top_score")

    def __init__(self, table: Callable[[], pd.DataFrame], limit: int | None = None):
        self.table, self.limit, self.writer = table, limit, None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            # What a killed run wrote of this step stays, unless it is written anew at once.
            anew = state.global_step == 0 or args.eval_on_start
            self._open(args, purge_step=state.global_step + (not anew))

    def on_evaluate(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        table = self._checked(self.table())
        if self.writer is None:  # evaluated by hand, before or after the training
            self._open(args, purge_step=state.global_step)
        for row in table.head(len(table) if self.limit is None else self.limit).itertuples():
            right = (row.rank, row.score, row.answer) if row.rank else (0, 0.0, "<>")
            self._write("qa", row.id, *right, state.global_step)
            self._write("top1", row.id, 1, row.top_score, row.top_answer, state.global_step)
        self.writer.add_scalar("qa_topk_recall", (table["rank"] > 0).mean(), state.global_step)
        self.writer.flush()

    def on_train_end(self, args, state, control, **kwargs):
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _open(self, args, purge_step: int) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = SummaryWriter(str(tensorboard_folder(args) / "qa"), purge_step=purge_step)
        self.writer.flush()  # so that the mark is there even if the first evaluation is not reached

    def _write(self, name: str, id: str, rank: int, score: float, answer: str, step: int) -> None:
        self.writer.add_scalar(f"{name}_rank/{id}", rank, step)
        self.writer.add_scalar(f"{name}_score/{id}", score, step)
        self.writer.add_text(f"{name}_debug/{id}", f"Answer: {answer} (Rank: {rank})", step)

    def _checked(self, table: pd.DataFrame) -> pd.DataFrame:
        if missing := [column for column in self.COLUMNS if column not in table.columns]:
            raise ValueError(f"QARecords' table: columns {missing} are missing; it has {list(table.columns)}")
        if table.empty:
            raise ValueError("QARecords' table has no rows: at least one question is needed")
        if not (twice := table.loc[table["id"].duplicated(), "id"]).empty:
            raise ValueError(
                f"QARecords' table: id {twice.iloc[0]!r} stands there more than once: a row a question, not a window"
            )
        return table


def tensorboard_folder(args) -> Path:
    """Where TensorBoard's files of a training lie: TENSORBOARD_LOGGING_DIR, else `runs` in its output folder.

    Trainer's own callback makes a new folder in `runs` at each start; with the variable set, all starts share one.
    """
    return Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(args.output_dir) / "runs").expanduser()


def scalars(folder: str | Path) -> pd.DataFrame:
    """All scalars in the event files of `folder` and the folders below it: DataFrame (tag, step, value), sorted by tag and step.

    Values are what TensorBoard draws, float32. A step written twice, as a resumed training does, counts as written last.
    Raises ValueError where there is no event file.
    """
    folders = sorted({path.parent for path in Path(folder).rglob("events.out.tfevents.*")})
    if not folders:
        raise ValueError(f"{shown(folder)}: no TensorBoard event file there or below")
    rows = []
    for path in folders:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()  # 0: all of them
        rows += [(tag, e.step, e.value, e.wall_time) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    table = pd.DataFrame(rows, columns=["tag", "step", "value", "time"]).sort_values("time", kind="stable")
    table = table.drop_duplicates(["tag", "step"], keep="last").sort_values(["tag", "step"], ignore_index=True)
    return table.drop(columns="time")
