"""Several processes, as `accelerate launch` starts them: only the main one writes, and all of them get what one alone would get."""

import json
import os
import subprocess

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts import generation
from scripts.artifacts import read_json, read_jsonl
from scripts.models import checkpoint
from scripts.profiles import ROOT
from tools.launcher import DEFAULT, command

QUESTIONS = ["钟离来自哪里？", "请问，温迪先生，他使用的是什么元素？", "刻晴的性格", "魈是男是女？", "凝光的职务是什么"]
WORKER = """
import json, sys
from pathlib import Path
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
from scripts import artifacts, generation, profiles
from scripts.models import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

profile = profiles.start("torch")
from accelerate import PartialState
rank, out = PartialState().process_index, Path(sys.argv[1])
print(f"printed by {rank}")
artifacts.write_json(out / "text.json", {"by": rank})
with artifacts.atomic_folder(out / "folder") as folder:
    (folder / f"of {rank}").touch()
artifacts.save_figure(out / "figure.png", plt.figure())
calls = []
values = [artifacts.remembered(out / "remembered.json", lambda: calls.append(1) or {"by": rank}) for _ in range(2)]
llm = checkpoint("tiny-causal-lm")
model, tokenizer = AutoModelForCausalLM.from_pretrained(llm), AutoTokenizer.from_pretrained(llm)
asked = json.loads((out / "questions.json").read_text())
options = dict(batch_size=2, max_new_tokens=12)
answers = generation.answer(model, tokenizer, asked, out / "answers", **options)
(out / f"result {rank}.json").write_text(json.dumps({"values": values, "calls": len(calls), "answers": answers}))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, standard output) of two processes that ran WORKER."""
    out = tmp_path_factory.mktemp("two")
    (out / "questions.json").write_text(json.dumps(QUESTIONS), encoding="utf-8")
    worker = out / "a worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    line = [*command(worker, 2, DEFAULT, []), str(out)]
    environment = {**os.environ, "COOKBOOK_OUTPUTS": str(out / "outputs")}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


def test_both_ran_and_only_the_main_one_printed_and_wrote(ran):
    out, printed = ran
    assert printed.count("printed by") == 1 and "printed by 0" in printed
    assert "processes 2 share the work" in printed
    assert read_json(out / "text.json") == {"by": 0}
    assert [path.name for path in (out / "folder").iterdir()] == ["of 0"]
    assert (out / "figure.png").read_bytes()[1:4] == b"PNG"
    assert not list(out.glob(".*")), "a temporary file was left behind"


def test_each_process_has_the_results_of_one_and_the_files_have_each_once(ran):
    llm = checkpoint("tiny-causal-lm")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llm), AutoTokenizer.from_pretrained(llm)
    answers = generation.answer(model, tokenizer, QUESTIONS, batch_size=2, max_new_tokens=12)
    for rank in range(2):
        result = read_json(ran[0] / f"result {rank}.json")
        assert result["calls"] == 1 and result["values"] == [{"by": 0}] * 2, "what is remembered is the main one's"
        assert result["answers"] == answers
    files = sorted((ran[0] / "answers").rglob("batches-*.jsonl"))
    filed = [row["question"] for file in files for line in read_jsonl(file) for row in line["results"]]
    assert len(files) == 2, "each process has a file of its own"
    assert sorted(filed) == sorted(QUESTIONS)
