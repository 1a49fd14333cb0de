"""The READMEs: figures are those of the committed notebooks, names are real, and English and Chinese are in step."""

import re
from dataclasses import fields, replace

import nbformat
import pytest

from scripts.artifacts import read_json
from scripts.genshin.memory import chapters
from scripts.models import GIB
from scripts.profiles import PROFILES, ROOT, Profile

PATHS = ROOT / "README.md", ROOT / "README.zh-CN.md"
TEXTS = [path.read_text(encoding="utf-8") for path in PATHS]
README = TEXTS[0]
TABLES = {  # of results: name, what a figure looks like, how many there are
    "02": ("results", r"\d+\.\d%", 12),
    "05": ("reading", r"\d+\.\d", 12),
    "06": ("scores", r"\d+\.\d+", 15),
    "07": ("ratings", r"\d+\.\d+", 12),
}
BOTH = pytest.mark.parametrize("text", TEXTS, ids=["English", "Chinese"])


def section(text: str, name: str) -> str:
    return text.split(f"<!-- {name}")[1].split("-->", 1)[1].split(f"<!-- end of {name}")[0]


def tables(text: str) -> list[str]:
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


def body_and_tree(text: str) -> list[str]:
    return text.rsplit("\n## ", 1)


def code(text: str) -> list[str]:
    """What is set as code before the tree, without comments: the lines of blocks, then the spans."""
    body = body_and_tree(text)[0]
    lines = re.findall(r"^ {4}(.*)$", body, re.MULTILINE)
    return [re.sub(r"(^|\s+)#.*", "", line) for line in lines] + sorted(re.findall(r"`([^`\n]+)`", body))


def shown_by(chapter: str) -> str:
    """All that the committed notebook shows as text, Markdown or HTML."""
    cells = nbformat.read(next((ROOT / "notebooks").glob(f"{chapter}_*.ipynb")), as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kinds = ("text/markdown", "text/html")
    return " ".join(
        text for o in outputs for text in (o.get("text", ""), *(o.get("data", {}).get(k, "") for k in kinds))
    )


@pytest.mark.parametrize("chapter", TABLES)
def test_every_result_in_the_readme_is_shown_by_its_notebook(chapter):
    name, figure, count = TABLES[chapter]
    results = re.findall(figure, section(README, name))
    assert len(results) == count
    cells = re.findall(rf"[>\s]({figure})[\s<]", shown_by(chapter))
    assert [r for r in results if r not in cells] == []


def test_every_figure_of_the_overview_stands_in_the_table_of_its_chapter():
    rows = re.findall(r"^\| (\d\d) \|(.*)$", section(README, "overview"), re.MULTILINE)
    assert {chapter for chapter, _ in rows} == set(TABLES)
    for chapter, row in rows:
        figures = re.findall(r"\d+\.\d+%?", row)
        assert figures and set(figures) <= set(re.findall(r"\d+\.\d+%?", section(README, TABLES[chapter][0])))


def test_of_two_machines_the_second_is_the_one_that_made_the_committed_notebooks():
    text = (ROOT / "docs" / "two_machines.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \| .* \| (.+) \|$", section(text, "machines"), re.MULTILINE)
    assert len(rows) == 25
    shown = {chapter: shown_by(chapter) for chapter, _ in rows}
    assert [row for row in rows if not re.search(rf"(?<![\d.]){re.escape(row[1])}(?!\d)", shown[row[0]])] == []


def test_figures_of_the_real_model_are_those_on_record():
    runs = read_json(ROOT / "docs" / "real_model.json")["runs"]
    values = [value for run in runs for value in run["figures"].values()]
    known = {text for value in values for text in (f"{value:.1%}", f"{value:.2f}", f"{value:.5f}")}
    written = re.findall(r"\| ([\d.]+%?) \|$", section(README, "real"), re.MULTILINE)
    assert len(written) >= 10 and set(written) <= known


def test_the_memory_of_each_card_is_what_the_planner_computes():
    small, full, distill = PROFILES["small"], PROFILES["full"], "deepseek-ai/DeepSeek-R1-Distill-Qwen-"
    in_4_bits, checkpointed = {"load_in_4bit": True}, {"gradient_checkpointing": True}
    each = [(small, chapter) for chapter in ("02", "03", "04", "05", "06", "07")]
    card_24 = [(replace(full, **in_4_bits, train_batch_size=16), "02"), *((full, f"0{n}") for n in (3, 4, 5, 6))]
    card_24 += [(replace(full, rater=f"{distill}1.5B"), "07")]
    of_14b, of_32b = (replace(full, causal_lm=f"{distill}{size}", **checkpointed) for size in ("14B", "32B"))
    card_80 = [(full, "02"), (full, "03"), (full, "07"), (of_14b, "02"), (of_14b, "03")]
    card_80 += [(replace(of_32b, **in_4_bits), "02"), (of_32b, "03"), (of_32b, "04")]

    def written(name, row):
        return re.findall(rf"^\| {row} \|.* (\S+) \|$", section(README, name), re.MULTILINE)

    def computed(wanted):
        return [f"{chapters(profile)[chapter] / GIB:.1f}" for profile, chapter in wanted]

    assert written("hardware", r"\d+ GB") == computed(each + card_24 + card_80)
    assert written("t4", r"0\d") == computed(each)
    assert re.findall(r"^\| \d+ GB \| (\d\d)", section(README, "hardware"), re.MULTILINE) == [
        chapter for _, chapter in each + card_24 + card_80
    ]


@BOTH
def test_the_tree_names_every_module_and_nothing_else(text):
    named = set(re.findall(r"^ {8}(\w+) ", body_and_tree(text)[1], re.MULTILINE))
    modules = {path.stem for room in ("scripts", "tools") for path in (ROOT / room).rglob("*.py")}
    assert named == modules - {"__init__", "__main__"}


@BOTH
def test_links_targets_variables_and_configs_are_real(text):
    for path in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"configs/\w+\.yaml", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", "\n".join(code(text)))) <= targets
    assert set(re.findall(r"COOKBOOK_([A-Z0-9_]+)", text)) - {"PROFILE"} <= {f.name.upper() for f in fields(Profile)}


@BOTH
def test_messages_in_the_table_of_errors_are_the_projects_own(text):
    files = [ROOT / "Makefile", *(path for room in ("scripts", "tools") for path in (ROOT / room).rglob("*.py"))]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    messages = re.findall(r"^\|[^|`]*`([^`]+)`", tables(body_and_tree(text)[0])[-1], re.MULTILINE)
    assert len(messages) >= 10
    assert [message for message in messages if message not in source] == []


def test_english_and_chinese_are_in_step():
    def alike(what):
        assert what(TEXTS[0]) == what(TEXTS[1])

    alike(lambda text: [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)])
    alike(code)
    alike(lambda text: [re.findall(r"\d+(?:[.,]\d+)*%?", table) for table in tables(text)])
    alike(lambda text: re.findall(r"<!-- (?:end of )?(\w+)", text))
    alike(lambda text: [line.strip().split("  ")[0] for line in re.findall(r"^ {4}.*$", body_and_tree(text)[1], re.M)])
    links = [re.findall(r"\]\(([^)]+)\)", text) for text in TEXTS]
    assert [links[0][0], links[1][0]] == [PATHS[1].name, PATHS[0].name]
    assert links[0][1:] == links[1][1:]
