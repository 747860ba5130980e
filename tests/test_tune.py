"""One command from a database to a policy: `ftrl tune`, with a tiny random model and small sizes."""
import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest
import forks
from databases import DATABASES, write
from ftrl.core import FtrlError
from ftrl.files import read_json_lines
from ftrl.rows import load_rows
from ftrl.runs.pace import TuneSizes
from ftrl.runs.tune import tune

SMALL = TuneSizes(train=8, test=3, collect=2, cold=1, steps=1, prompts=2, group=2, length=8, turns=2)


PROGRAM = f"""
import sys
from dataclasses import replace
from ftrl.runs.pace import TuneSizes
from ftrl.runs.tune import tune
sizes = replace({SMALL!r}, steps=4)
data, model, out = sys.argv[1:]
print(tune(data, model, out, sizes=sizes))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A two-layer model with random weights"
    from ftrl.runs.folder import Run
    from ftrl.runs.policies import base
    return base(Run(tmp_path_factory.mktemp("model")), "random")


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_becomes_a_policy(name, tiny, tmp_path):
    data = write(name, tmp_path)
    told = []
    made = tune(data, tiny, tmp_path / "out", sizes=SMALL, say=told.append)
    trained = load_rows(tmp_path / "out/train.jsonl")
    asked = {s["question"] for row in trained for s in row.meta["subquestions"]}
    held = load_rows(tmp_path / "out/test.jsonl")
    assert held and not [row for row in held if row.meta["subquestions"][-1]["question"] in asked]
    for result in ("before", "after"):
        assert len(list(read_json_lines(tmp_path / f"out/{result}.jsonl"))) == len(held)
    page = made.report.read_text()
    assert "held-out questions" in page and str(tmp_path) not in page
    assert any("cold start" in line for line in told)


def test_rows_are_data_too(tiny, tmp_path):
    from ftrl import build
    from ftrl.rows import save_rows
    save_rows(list(build(12, ["chemistry"], "single_hop")), tmp_path / "rows.jsonl")
    tune(tmp_path / "rows.jsonl", tiny, tmp_path / "out", sizes=SMALL)
    ids = [{row.id for row in load_rows(tmp_path / f"out/{part}.jsonl")} for part in ("train", "test")]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    with pytest.raises(FtrlError, match="steps|given"):
        tune(tmp_path / "rows.jsonl", tiny, tmp_path / "out", sizes=replace(SMALL, steps=2))


def test_two_into_one_folder_and_edited_data(tiny, tmp_path):
    "A second tuning does not mix with the first; data that were edited meanwhile are other data"
    from ftrl.notes import claim
    data = write("shop", tmp_path)
    with claim(tmp_path / "out", command="another"), pytest.raises(FtrlError, match="another process"):
        tune(data, tiny, tmp_path / "out", sizes=SMALL)
    rows = tmp_path / "rows.csv"
    rows.write_text("name,mass\n" + "".join(f"Item {chr(65 + i)},{1000 + i}\n" for i in range(20)))
    before = {"data": str(rows), "holds": "other", "model": tiny, "minutes": None, "seed": 0, "given": SMALL}
    with claim(tmp_path / "tuned", **before):
        (tmp_path / "tuned").mkdir()
    with pytest.raises(FtrlError, match="made with other settings .holds was"):
        tune(rows, tiny, tmp_path / "tuned", sizes=SMALL)


def test_a_parquet_table_is_no_file_of_rows(tiny, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from ftrl.runs.tune import tuning_plan
    table = {"name": [f"Item {chr(65 + i)}" for i in range(20)], "mass": list(range(1000, 1020))}
    pq.write_table(pa.table(table), tmp_path / "item.parquet")
    assert "environments of item to train on" in tuning_plan(str(tmp_path / "item.parquet"), "smollm2")


@pytest.mark.parametrize("minutes", [float("nan"), float("inf"), -1, 0])
def test_minutes_that_nobody_means(minutes, tmp_path):
    with pytest.raises(FtrlError, match="minutes is"):
        tune("shop", "smollm2", tmp_path / "out", minutes=minutes)


def test_killed_it_goes_on(tiny, tmp_path):
    "A kill in the middle of training; the second call repeats nothing that was done"
    data = write("shop", tmp_path)
    program = [sys.executable, "-c", PROGRAM, str(data), str(tiny), str(tmp_path / "out")]
    run = forks.Process(program, start_new_session=True)
    rows = tmp_path / "out/rows.jsonl"
    while run.poll() is None and not rows.exists():
        time.sleep(.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    made = rows.stat().st_mtime_ns
    done = forks.run(program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert rows.stat().st_mtime_ns == made
    assert json.loads((tmp_path / "out/sizes.json").read_text())["steps"] == 4


def test_bad_data_is_one_line(tmp_path):
    (tmp_path / "few.csv").write_text("a\n1\n")
    program = [sys.executable, "-c", "from ftrl.cli import main; main()"]
    for data in ("none.db", "few.csv", "odd.py"):
        (tmp_path / "odd.py").write_text("x = 1\n")
        run = forks.run([*program, "tune", data, "--model", "smollm2", "--out", "out"], cwd=tmp_path)
        assert run.returncode == 2 and len(run.stderr.strip().splitlines()) == 1, run.stderr
        assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.jsonl"))
