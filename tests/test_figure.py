"Figures from real environments and recorded policies: what has inputs is drawn, the same bytes each time"
import json

import pytest

from ftrl.figures import figure, style
from ftrl.runs import record
from ftrl.environments.build import build
from ftrl.core import FtrlError
from ftrl.files import write_json_lines
from ftrl.rows import save_rows
from ftrl.training.gold import gold_trajectory


def knows_nothing(env):
    "The talk of a policy that never calls"
    return env.row().messages + [{"role": "assistant", "content": "I do not know."}]


def result(env, talk, f1):
    "A line of results"
    return {"id": env.id, "benchmark": "ftrl", "scenario": env.scenario, "error": None, "messages": talk(env),
            "metrics": {"solve_p": f1, "solve_r": f1, "solve_f1": f1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run directory with environments, a perfect policy, one that never calls, and a training log"
    run = tmp_path_factory.mktemp("run")
    envs = list(build(8, worlds=["geography"], split="test"))
    save_rows(envs, run/"envs"/"test.jsonl")
    for name, talk, f1 in (("base", knows_nothing, 0.0), ("grpo", gold_trajectory, 1.0)):
        write_json_lines([result(env, talk, f1) for env in envs], run/"eval"/f"{name}.jsonl")
    steps = [{"step": i, "reward": i / 10, "length": 20.0, "kl": 0.0, "entropy": 1.0} for i in range(10)]
    write_json_lines(steps, run/"train"/"grpo"/"metrics.jsonl")
    (run/"config.json").write_text(json.dumps({"profile": "test", "seed": 0}))
    return run


def test_draws_what_it_can_and_names_the_rest(run, tmp_path):
    drawn = {d.name: d for d in figure.draw(run, tmp_path)}
    assert {name for name, d in drawn.items() if d.files} == {
        "scenarios", "pipeline", "dataset", "training", "scores", "main_table", "errors", "difficulty",
        "spread", "faults"}
    for d in drawn.values():
        if d.files:
            kinds = [".png", ".svg", ".csv"] + [".md"] * (d.name in ("main_table", "faults"))
            assert [file.suffix for file in d.files] == kinds
            assert all(file.stat().st_size for file in d.files)
        else:
            assert "make" in d.missing and "`" in d.missing and "\n" not in d.missing
    assert not list(tmp_path.glob(".*"))


def test_same_bytes(run, tmp_path):
    for d in figure.draw(run, tmp_path/"a", ("scores", "scenarios", "errors", "main_table", "faults")):
        again, = figure.draw(run, tmp_path/"b", (d.name,))
        for one, two in zip(d.files, again.files):
            assert one.read_bytes() == two.read_bytes()
    assert b"<dc:date>" not in (tmp_path/"a"/"scores.svg").read_bytes()


def test_a_table_is_told_as_text(run, tmp_path):
    figure.draw(run, tmp_path, ("main_table",))
    heads, _, *lines = (tmp_path/"main_table.md").read_text().splitlines()
    assert heads.startswith("| policy | Solve-P (own) | ")
    base, trained = lines[:2]
    assert base.startswith("| this run: base | 0.00 | ")
    assert trained.startswith("| this run: GRPO | 100.00 | ")


def test_names_on_the_list():
    "A function may be called `scores_figure`; the figure is `scores`"
    assert {"scores", "rounds"} <= set(style.FIGURES)
    assert not [name for name in style.FIGURES if name.endswith("_figure")]


def test_numbers_of_the_figures(run):
    _, table = style.FIGURES["scores"](run)
    assert set(table[table.model == "grpo"]["mean"]) == {1.0}
    assert set(table[table.model == "base"]["mean"]) == {0.0}
    _, fates = style.FIGURES["errors"](run)
    ends = fates[fates.of == "episodes"].set_index(["model", "fate"])["count"].to_dict()
    assert ends == {("base", "never calls"): 8, ("grpo", "solved and answered"): 8}
    _, sizes = style.FIGURES["difficulty"](run)
    assert sizes.groupby(["model", "by"]).n.sum().eq(8).all()


def test_report_holds_every_figure(run):
    figure.draw(run)
    text = record.write_report(run).read_text()
    for png in (run/"figures").glob("*.png"):
        assert f'<figure id="{png.stem}">' in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_bad_input(tmp_path):
    with pytest.raises(FtrlError, match="no such directory"):
        figure.draw(tmp_path/"nothing")
    with pytest.raises(FtrlError, match="no such figure"):
        figure.draw(tmp_path, names=("pie",))
    write_json_lines([{"benchmark": "ftrl"}], tmp_path/"eval"/"base.jsonl")
    with pytest.raises(FtrlError, match="base.jsonl line 1"):
        figure.draw(tmp_path, names=("scores",))
