"The strategies beyond the paper's: switched by name, told in the row, felt by a policy"
import subprocess
import sys

import pytest

from ftrl.chat.turn import call_text
from ftrl.core import FtrlError
from ftrl.records import HARDER, Call, Env
from ftrl.environments.build import Recipe, build
from ftrl.environments.deploy import gold
from ftrl.evaluation.bench import evaluate
from ftrl.evaluation.tags import by_tag
from ftrl.files import write_json_lines
from ftrl.rows import load_rows, save_rows

HOPS = ("multi_hop", "parallel_multi_hop")
TAKEN = ("page_token", "record_number")  # from an earlier reply


@pytest.fixture(scope="module")
def envs():
    return list(build(8, ["geography", "units"], HOPS, seed=5, difficulty=2, strategies=HARDER))


def naive(env):
    "What a policy calls that takes neither a page nor a record number from a reply"
    def without(call):
        return Call(call.name, {name: value for name, value in call.arguments.items() if name not in TAKEN})
    return [list(map(without, turn)) for turn in gold(env)]


def played(envs, folder, name, plan):
    lines = [{"id": e.id, "turns": [*map(call_text, plan(e)), e.answer]} for e in envs]
    write_json_lines(lines, folder / f"{name}.jsonl")
    out = folder / f"{name}.results.jsonl"
    evaluate("ftrl", f"replay:{folder / name}.jsonl", str(out), envs, progress=False)
    split = by_tag([out])
    return split[split.metric == "solve_f1"].set_index("tag")["mean"]


def test_rows_tell_their_strategies(envs, tmp_path):
    save_rows(envs, tmp_path / "envs.jsonl")
    rows = load_rows(tmp_path / "envs.jsonl")
    assert [Env.from_row(row) for row in rows] == envs
    assert {name for row in rows for name in row.meta.get("strategies", ())} == set(HARDER)


def test_the_same_questions_without(envs):
    "What can be compared pair by pair: strategies change tools and calls, not questions"
    plain = list(build(8, ["geography", "units"], HOPS, seed=5, difficulty=2))
    same = [a.question for a, b in zip(plain, envs) if a.question == b.question]
    assert len(same) >= 5  # some harder ones are drawn anew, for a gate refuses them
    assert not any(env.strategies for env in plain)
    assert sum(len(e.subquestions) for e in envs) > sum(len(e.subquestions) for e in plain)


def test_a_policy_feels_them(envs, tmp_path):
    right, wrong = played(envs, tmp_path, "gold", gold), played(envs, tmp_path, "naive", naive)
    assert set(right.index) >= set(HARDER) and (right == 1).all()
    assert (wrong[["paginate", "clarify"]] < .95).all()


def test_not_for_tables_that_change():
    with pytest.raises(FtrlError, match="strategies paginate are for worlds of facts"):
        Recipe("shop", strategies="paginate").views()


def test_another_process_makes_the_same_bytes(envs):
    code = ("from ftrl.environments.build import build; from ftrl.records import HARDER; "
            f"e = next(build(1, ['geography', 'units'], {HOPS}, seed=5, difficulty=2, strategies=HARDER)); "
            "print(e.row().env, e.row().codes)")
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    row = envs[0].row()
    assert made == f"{row.env} {row.codes}\n"
