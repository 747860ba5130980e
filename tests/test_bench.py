"Evaluation under kills, faults and bad input, on recorded policies; the benchmarks' own gold answers"
import json, os, signal, subprocess, sys, time, tracemalloc
from dataclasses import replace
import pytest

from ftrl.evaluation.bench import BENCHMARKS, Protocol, evaluate
from ftrl.chat import call_text
from ftrl.core import Call, FtrlError, Row, dumps
from ftrl.files import data_dir, read_json_lines, save_rows, write_json_lines

CAPITAL = 'def find_capital(country):\n    return {"Peru": "Lima", "Chile": "Santiago"}.get(country, "no such country")'
SCHEMA = {"type": "function", "function": {"name": "find_capital", "description": "", "parameters": {
    "type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}}}

def row(i):
    return Row([{"role": "user", "content": f"Question {i}: Which capitals have Peru and Chile?"}], dumps([SCHEMA]),
               dumps({"find_capital": CAPITAL}), dumps({"find_capital": ["Lima", "Santiago"]}), 0.0,
               "self/parallel_single_hop", "test", "Lima and Santiago")

def ask(country): return call_text([Call("find_capital", {"country": country})])

def data():
    if data_dir() is None: pytest.skip("the benchmark data are not here (set FTRL_DATA)")
    return data_dir()

SLOW = """
import sys, time
from ftrl.evaluation.bench import evaluate
from ftrl.models.replay import Replay
class Slow(Replay):
    def chat(self, requests, *how):
        time.sleep(0.05)
        print(*[r.id for r in requests if len(r.messages) == 1], file=open(sys.argv[4], "a"))
        return super().chat(requests)
evaluate("ftrl", Slow(sys.argv[1]), sys.argv[3], sys.argv[2], progress=False, width=2)
"""

def test_a_killed_run_goes_on(tmp_path):
    n, out, part = 12, tmp_path/"r.jsonl", tmp_path/".r.jsonl.part"
    save_rows([row(i) for i in range(n)], tmp_path/"rows.jsonl")
    write_json_lines([{"id": row(i).id, "turns": [ask("Peru"), ask("Chile"), "Lima and Santiago"]} for i in range(n)], tmp_path/"said.jsonl")
    command = [sys.executable, "-c", SLOW, *(str(tmp_path/f) for f in ("said.jsonl", "rows.jsonl", "r.jsonl", "asked.txt"))]
    process = subprocess.Popen(command)
    for _ in range(1200):
        if part.exists() and part.read_bytes().count(b"\n") >= 5: break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.read_bytes().count(b"\n")
    assert 4 <= kept < n and not out.exists()
    (tmp_path/"asked.txt").unlink()
    subprocess.run(command, check=True)
    lines = list(read_json_lines(out))
    assert [x["id"] for x in lines] == [row(i).id for i in range(n)]
    assert [[m["content"] for m in x["messages"]] for x in lines if x["error"] or x["metrics"]["solve_f1"] != 1] == []
    assert len((tmp_path/"asked.txt").read_text().split()) == n - kept and not part.exists()

FULL = """
import resource, signal, sys
from ftrl.evaluation.bench import evaluate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
evaluate("ftrl", "replay:" + sys.argv[1], sys.argv[3], sys.argv[2], progress=False, width=1)
"""

def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path):
    save_rows([row(i) for i in range(8)], tmp_path/"rows.jsonl")
    write_json_lines([{"id": row(i).id, "turns": ["Lima"]} for i in range(8)], tmp_path/"said.jsonl")
    files = [str(tmp_path/f) for f in ("said.jsonl", "rows.jsonl", "r.jsonl")]
    broke = subprocess.run([sys.executable, "-c", FULL, *files], capture_output=True, text=True)
    assert "cannot write" in broke.stderr and "give the same command again" in broke.stderr and not (tmp_path/"r.jsonl").exists()
    results = evaluate("ftrl", f"replay:{files[0]}", files[2], files[1], progress=False)
    assert len(list(results)) == 8

ODD = {"nothing": "", "much": "x" * 100_000, "half a character": "Lima \ud800", "no such tool": call_text([Call("find_city", {})]),
       "odd arguments": '<tool_call>\n{"name": "find_capital", "arguments": [1]}\n</tool_call>', "broken": "<tool_call>{",
       "deep": '<tool_call>{"name": "find_capital", "arguments": ' + "[" * 5000}

@pytest.mark.parametrize("name", ODD)
def test_odd_replies_are_scored(tmp_path, name):
    save_rows([row(0)], tmp_path/"rows.jsonl")
    (tmp_path/"said.jsonl").write_text(json.dumps({"id": row(0).id, "turns": [ODD[name], "Lima"]}))
    line, = evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"rows.jsonl", progress=False)
    assert line["error"] is None and line["metrics"]["solve_r"] == 0

def test_a_recording_that_ends_is_an_error_of_its_item(tmp_path):
    save_rows([row(0), row(1)], tmp_path/"rows.jsonl")
    write_json_lines([{"id": row(0).id, "turns": [ask("Peru")]}, {"id": row(1).id, "turns": ["Lima"]}], tmp_path/"said.jsonl")
    short, good = evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"rows.jsonl", progress=False, failing=0.5)
    assert "has 1 turns, turn 2 was asked" in short["error"] and short["metrics"] == {} and good["error"] is None

@pytest.mark.parametrize("bench", ["ftrl", "toolhop", "taubench", "rotbench"])
def test_a_broken_line_is_named(tmp_path, bench):
    (tmp_path/"data.jsonl").write_text('{"question": "?"}\n{"broken')
    (tmp_path/"said.jsonl").write_text("")
    with pytest.raises(FtrlError, match="data.jsonl (line|row|item) [12]"):
        evaluate(bench, f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"data.jsonl", progress=False)
    assert sorted(os.listdir(tmp_path)) == ["data.jsonl", "said.jsonl"]

def test_an_unknown_scenario_is_told(tmp_path):
    save_rows([row(0)], tmp_path/"rows.jsonl")
    (tmp_path/"said.jsonl").write_text("")
    with pytest.raises(FtrlError, match="expected one of single_hop"):
        evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"rows.jsonl", scenario="triple_hop", progress=False)

def test_memory_is_flat(tmp_path):
    def peak(n):
        save_rows([replace(row(i), tools=dumps([SCHEMA] * 30)) for i in range(n)], tmp_path/f"{n}.jsonl")
        write_json_lines([{"id": row(0).id, "turns": ["Lima"]}], tmp_path/"said.jsonl")
        from ftrl.models.llm import answer
        from ftrl.models.replay import Replay
        class Same(Replay):
            def chat(self, requests, *how): return [answer("Lima") for _ in requests]
        tracemalloc.start()
        evaluate("ftrl", Same(tmp_path/"said.jsonl"), tmp_path/f"r{n}.jsonl", tmp_path/f"{n}.jsonl", progress=False, width=8)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    peak(20)  # what is loaded once
    few, many = peak(300), peak(600)  # both files are longer than the blocks that a digest reads
    assert many - few < 300 * 1500  # a kilobyte an item for its key and place; an item itself is 10 kB

def test_gold_is_right_everywhere_in_rotbench(tmp_path):
    from ftrl.evaluation.benchmarks.rotbench import rotbench_rows
    where = data()/"rotbench/First_Turn"
    write_json_lines([{"id": i, "turns": [x["answer"][-1]]} for i, x in enumerate(rotbench_rows(where), 1)], tmp_path/"said.jsonl")
    start = time.process_time()
    lines = list(evaluate("rotbench", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", progress=False))
    assert time.process_time() - start < 5
    assert len(lines) == 840 and all(x["metrics"] == {"ts": 1.0, "pi": 1.0, "cf": 1.0} and x["faults"] == {} for x in lines)

def test_gold_passes_everywhere_in_taubench(tmp_path):
    tasks = list(read_json_lines(data()/"taubench/tau-bench.jsonl"))
    said = [{"id": i, "turns": [{"role": "assistant", "content": None, "tool_calls": [a]} for a in t["actions"]] +
             [" ".join(t["outputs"]) or "Done."]} for i, t in enumerate(tasks)]
    write_json_lines([x | {"id": f"task {x['id']}"} for x in said], tmp_path/"said.jsonl")  # other ids: by position
    lines = list(evaluate("taubench", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", progress=False))
    assert len(lines) == 165 and all(x["metrics"]["pass1"] == 1 for x in lines)

def test_a_recorded_user_speaks_in_turn(tmp_path):
    tasks = list(read_json_lines(data()/"taubench/tau-bench.jsonl"))
    user = [{"id": i, "turns": ["Hello.", "###STOP###"]} for i in range(2)]
    agent = [{"id": i, "turns": [{"role": "assistant", "content": None, "tool_calls": [a]} for a in tasks[i]["actions"]] + ["Bye."]} for i in range(2)]
    write_json_lines(user, tmp_path/"user.jsonl")
    write_json_lines(agent, tmp_path/"agent.jsonl")
    lines = list(evaluate("taubench", f"replay:{tmp_path}/agent.jsonl", tmp_path/"r.jsonl", limit=2, progress=False,
                          user=f"replay:{tmp_path}/user.jsonl"))
    assert [x["metrics"]["pass1"] for x in lines] == [1.0, 1.0] and "note" not in lines[0]["run"]
    assert [m["content"] for m in lines[0]["messages"] if m["role"] == "user"] == ["Hello.", "###STOP###"]

@pytest.mark.parametrize("name", ["mmlu", "bbh", "gsm8k", "humaneval"])
def test_gold_is_right_everywhere_in_general(name):
    gold = {"mmlu": lambda x: f"ANSWER: {'ABCD'[int(x['answer'])]}", "bbh": lambda x: f"So the answer is {x['target']}.",
            "gsm8k": lambda x: x["answer"], "humaneval": lambda x: x["canonical_solution"]}[name]
    data()
    bench = BENCHMARKS[name]
    assert [x.id for x in bench.items(bench.where()) if not bench.judge(gold(x.data), x.data)] == []
