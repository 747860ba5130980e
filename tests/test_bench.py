"Evaluation under kills, faults and bad input, on recorded policies; the benchmarks' own gold answers"
import json, os, subprocess, sys, time, tracemalloc
from dataclasses import replace
import forks, pytest

from ftrl.evaluation.bench import BENCHMARKS, evaluate
from ftrl.chat.turn import call_text
from ftrl.core import FtrlError, dumps
from ftrl.records import Call, Row
from ftrl.files import data_dir, read_json_lines, write_json_lines
from ftrl.rows import save_rows

CAPITAL = '''def find_capital(country):
    return {"Peru": "Lima", "Chile": "Santiago"}.get(country, "no such country")'''
SCHEMA = {"type": "function", "function": {"name": "find_capital", "description": "", "parameters": {
    "type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}}}

def row(i):
    return Row([{"role": "user", "content": f"Question {i}: Which capitals have Peru and Chile?"}],
               dumps([SCHEMA]),
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
    turns = [ask("Peru"), ask("Chile"), "Lima and Santiago"]
    write_json_lines([{"id": row(i).id, "turns": turns} for i in range(n)], tmp_path/"said.jsonl")
    command = [sys.executable, "-c", SLOW, *(str(tmp_path/f) for f in ("said.jsonl", "rows.jsonl", "r.jsonl",
                                                                       "asked.txt"))]
    process = forks.Process(command)
    for _ in range(1200):
        if part.exists() and part.read_bytes().count(b"\n") >= 5: break
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = part.read_bytes().count(b"\n")
    assert 4 <= kept < n and not out.exists()
    (tmp_path/"asked.txt").unlink()
    assert forks.run(command).returncode == 0
    lines = list(read_json_lines(out))
    assert [x["id"] for x in lines] == [row(i).id for i in range(n)]
    wrong = [x for x in lines if x["error"] or x["metrics"]["solve_f1"] != 1]
    assert [[m["content"] for m in x["messages"]] for x in wrong] == []
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
    assert "cannot write" in broke.stderr and "give the same command again" in broke.stderr
    assert not (tmp_path/"r.jsonl").exists()
    results = evaluate("ftrl", f"replay:{files[0]}", files[2], files[1], progress=False)
    assert len(list(results)) == 8

ODD = {"nothing": "", "much": "x" * 100_000, "half a character": "Lima \ud800",
       "no such tool": call_text([Call("find_city", {})]),
       "odd arguments": '<tool_call>\n{"name": "find_capital", "arguments": [1]}\n</tool_call>',
       "broken": "<tool_call>{",
       "deep": '<tool_call>{"name": "find_capital", "arguments": ' + "[" * 5000}

@pytest.mark.parametrize("name", ODD)
def test_odd_replies_are_scored(tmp_path, name):
    save_rows([row(0)], tmp_path/"rows.jsonl")
    (tmp_path/"said.jsonl").write_text(json.dumps({"id": row(0).id, "turns": [ODD[name], "Lima"]}))
    line, = evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"rows.jsonl",
                     progress=False)
    assert line["error"] is None and line["metrics"]["solve_r"] == 0

def test_a_recording_that_ends_is_an_error_of_its_item(tmp_path):
    save_rows([row(0), row(1)], tmp_path/"rows.jsonl")
    write_json_lines([{"id": row(0).id, "turns": [ask("Peru")]}, {"id": row(1).id, "turns": ["Lima"]}],
                     tmp_path/"said.jsonl")
    short, good = evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"rows.jsonl",
                           progress=False, failing=0.5)
    assert "has 1 turns, turn 2 was asked" in short["error"] and short["metrics"] == {}
    assert good["error"] is None

@pytest.mark.parametrize("bench", ["ftrl", "toolhop", "taubench", "rotbench"])
def test_a_broken_line_is_named(tmp_path, bench):
    (tmp_path/"data.jsonl").write_text('{"question": "?"}\n{"broken')
    (tmp_path/"said.jsonl").write_text("")
    with pytest.raises(FtrlError, match="data.jsonl (line|row|item) [12]"):
        evaluate(bench, f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"data.jsonl",
                 progress=False)
    assert sorted(os.listdir(tmp_path)) == ["data.jsonl", "said.jsonl"]

def test_an_unknown_scenario_is_told(tmp_path):
    save_rows([row(0)], tmp_path/"rows.jsonl")
    (tmp_path/"said.jsonl").write_text("")
    with pytest.raises(FtrlError, match="expected one of single_hop"):
        evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"rows.jsonl",
                 scenario="triple_hop", progress=False)

def test_memory_is_flat(tmp_path):
    def peak(n):
        save_rows([replace(row(i), tools=dumps([SCHEMA] * 30)) for i in range(n)], tmp_path/f"{n}.jsonl")
        write_json_lines([{"id": row(0).id, "turns": ["Lima"]}], tmp_path/"said.jsonl")
        from ftrl.models.llm import answer
        from ftrl.models.replay import Replay
        class Same(Replay):
            def chat(self, requests, *how): return [answer("Lima") for _ in requests]
        tracemalloc.start()
        evaluate("ftrl", Same(tmp_path/"said.jsonl"), tmp_path/f"r{n}.jsonl", tmp_path/f"{n}.jsonl",
                 progress=False, width=8)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    peak(20)  # what is loaded once
    few, many = peak(300), peak(600)  # both files are longer than the blocks that a digest reads
    assert many - few < 300 * 1500  # a kilobyte an item for its key and place; an item itself is 10 kB

def test_gold_is_right_everywhere_in_rotbench(tmp_path):
    from ftrl.evaluation.benchmarks.rotbench import rotbench_rows
    where = data()/"rotbench/First_Turn"
    write_json_lines([{"id": i, "turns": [x["answer"][-1]]} for i, x in enumerate(rotbench_rows(where), 1)],
                     tmp_path/"said.jsonl")
    start = time.process_time()
    lines = list(evaluate("rotbench", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", compat="ftrl",
                          progress=False))
    assert time.process_time() - start < 5
    assert len(lines) == 840 and all(x["metrics"] == {"ts": 1.0, "pi": 1.0,
                                                      "cf": 1.0} and x["faults"] == {} for x in lines)

def test_gold_passes_everywhere_in_taubench(tmp_path):
    tasks = list(read_json_lines(data()/"taubench/tau-bench.jsonl"))
    said = [{"id": i, "turns": [{"role": "assistant", "content": None,
                                 "tool_calls": [a]} for a in t["actions"]] +
             [" ".join(t["outputs"]) or "Done."]} for i, t in enumerate(tasks)]
    write_json_lines([x | {"id": f"task {x['id']}"} for x in said],
                     tmp_path/"said.jsonl")  # other ids: by position
    lines = list(evaluate("taubench", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", progress=False))
    assert len(lines) == 165 and all(x["metrics"]["pass1"] == 1 for x in lines)

def test_a_recorded_user_speaks_in_turn(tmp_path):
    tasks = list(read_json_lines(data()/"taubench/tau-bench.jsonl"))
    user = [{"id": i, "turns": ["Hello.", "###STOP###"]} for i in range(2)]
    def played(task):
        return [{"role": "assistant", "content": None, "tool_calls": [a]} for a in task["actions"]]
    agent = [{"id": i, "turns": [*played(tasks[i]), "Bye."]} for i in range(2)]
    write_json_lines(user, tmp_path/"user.jsonl")
    write_json_lines(agent, tmp_path/"agent.jsonl")
    lines = list(evaluate("taubench", f"replay:{tmp_path}/agent.jsonl", tmp_path/"r.jsonl", limit=2,
                          progress=False,
                          user=f"replay:{tmp_path}/user.jsonl"))
    assert [x["metrics"]["pass1"] for x in lines] == [1.0, 1.0] and "note" not in lines[0]["run"]
    assert [m["content"] for m in lines[0]["messages"] if m["role"] == "user"] == ["Hello.", "###STOP###"]

@pytest.mark.parametrize("name", ["mmlu", "bbh", "gsm8k", "humaneval"])
def test_gold_is_right_everywhere_in_general(name):
    gold = {"mmlu": lambda x: f"ANSWER: {'ABCD'[int(x['answer'])]}",
            "bbh": lambda x: f"So the answer is {x['target']}.",
            "gsm8k": lambda x: x["answer"], "humaneval": lambda x: x["canonical_solution"]}[name]
    data()
    bench = BENCHMARKS[name]
    assert [x.id for x in bench.items(bench.where()) if not bench.judge(gold(x.data), x.data)] == []


# What a model does wrong is scored

MALFORMED = {"a name that is a list": '{"name": ["f"], "arguments": {}}',
             "a name that is a number": '{"name": 3, "arguments": {}}',
             "no name": '{"arguments": {}}',
             "arguments that are text": '{"name": "find_capital", "arguments": "Peru"}',
             "an argument too many": '{"name": "find_capital", "arguments": {"country": {"a": []}, "x": 1}}'}

@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_call_is_scored(tmp_path, what):
    call = f"<tool_call>{MALFORMED[what]}</tool_call>"
    said = [[call, ask("Peru"), ask("Chile"), "Lima and Santiago"],
            [ask("Peru") + "\n" + call, ask("Chile"), "Lima and Santiago"]]
    write_json_lines([{"id": row(i).id, "turns": said[i]} for i in range(2)], tmp_path/"said.jsonl")
    lines = list(evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", [row(0), row(1)],
                          progress=False, failing=0))
    assert [x["error"] for x in lines] == [None, None]
    assert all(0 <= x["metrics"]["solve_f1"] <= 1 for x in lines) and lines[0]["faults"]
    assert lines[1]["metrics"]["solve_r"] == 1  # the readable calls count

def test_a_diagnosis_that_fails_costs_no_score(tmp_path, monkeypatch):
    monkeypatch.setattr(type(BENCHMARKS["ftrl"]), "faults", lambda self, episode: 1 / 0, raising=False)
    write_json_lines([{"id": row(0).id, "turns": ["Lima"]}], tmp_path/"said.jsonl")
    line, = evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", [row(0)], progress=False)
    assert line["error"] is None and line["metrics"]["solve_r"] == 0 and line["faults"] == {}

@pytest.mark.parametrize("scenario", ["Direct", "Free"])
def test_an_answer_that_was_only_thought_is_none(tmp_path, scenario):
    item = {"id": 1, "question": "?", "answer": "Lima", "functions": ["def f(): return 'Lima'"],
            "tools": {"q": {"name": "f", "description": "", "parameters": {"type": "object"}}}}
    write_json_lines([item | {"id": i} for i in range(3)], tmp_path/"t.jsonl")
    thoughts = ["<think>Lima?</think>Quito", "<think>Lima", "<think>Quito?</think>Lima"]
    write_json_lines([{"id": i, "turns": [t]} for i, t in enumerate(thoughts)], tmp_path/"said.jsonl")
    lines = evaluate("toolhop", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"t.jsonl",
                     scenario=scenario, progress=False)
    assert [x["metrics"]["ac"] for x in lines] == [0.0, 0.0, 1.0]


# What is ours fails the item, and in numbers the run

def troubled(tmp_path, texts, **how):
    "Evaluate items whose replies are texts, or errors where a text begins with !"
    from ftrl.models.llm import LLM, answer, failed
    class Some(LLM):
        name = "some"
        def chat(self, requests, *how):
            said = [texts[int(r.messages[0]["content"].split()[1].rstrip(":"))] for r in requests]
            return [failed(t[1:]) if t.startswith("!") else answer(t) for t in said]
    return evaluate("ftrl", Some(), tmp_path/"r.jsonl", [row(i) for i in range(len(texts))], progress=False,
                    **how)

def test_many_failed_items_fail_the_run(tmp_path):
    few = troubled(tmp_path, ["!down"] + ["Lima"] * 10)
    assert "1 failed and not counted" in repr(few)
    with pytest.raises(FtrlError,
                       match="r.jsonl: 2 of 11 items failed, and not by the model's fault .the first: down."):
        troubled(tmp_path, ["!down"] * 2 + ["Lima"] * 9, force=True)
    assert len(list(read_json_lines(tmp_path/"r.jsonl"))) == 11  # what went well is kept
    with pytest.raises(FtrlError, match="3 of 3 items failed"):
        troubled(tmp_path, ["!down"] * 3, force=True, failing=1.0)

def test_a_session_that_dies_fails_its_item(tmp_path, monkeypatch):
    from ftrl.sandbox import sandbox
    at = tmp_path/"retail"
    at.mkdir()
    (at/"wiki.md").write_text("Be kind.")
    schema = {"type": "function", "function": {"name": "f", "description": "",
                                               "parameters": {"type": "object", "properties": {}}}}
    files = {"tools": [schema], "codes": {"f": "def f(data): return 'ok'"}, "orders": {}, "products": {},
             "users": {}}
    for name, x in files.items(): (at/f"{name}.json").write_text(dumps(x))
    task = {"instruction": "?", "actions": [], "outputs": [], "data_source": "tau-bench/retail"}
    write_json_lines([task] * 2, tmp_path/"tasks.jsonl")
    write_json_lines([{"id": 0, "turns": [call_text([Call("f", {})]), "Done."]},
                      {"id": 1, "turns": ["Done."]}], tmp_path/"said.jsonl")
    class Dying:
        "A session whose process goes while the episode ends"
        def call(self, *call): return type("Said", (), {"content": "ok"})()
        def hash(self): raise TimeoutError("the session's process was killed")
        def __enter__(self): return self
        def __exit__(self, *how): raise BrokenPipeError("the session's process was killed")
    real, opened = type(sandbox.shared()).session, []
    def session(self, data):
        opened.append(1)
        return Dying() if len(opened) == 1 else real(self, data)
    monkeypatch.setattr(type(sandbox.shared()), "session", session)
    one, two = evaluate("taubench", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl",
                        tmp_path/"tasks.jsonl", progress=False, failing=0.5)
    assert "process was killed" in one["error"] and one["metrics"] == {} and two["metrics"] == {"pass1": 1.0}


# Bad input is one line before the first item

def test_an_edited_database_is_read_again(tmp_path):
    from ftrl.evaluation.benchmarks.taubench import TABLES, domain
    folder = tmp_path/"retail"
    folder.mkdir()
    (folder/"wiki.md").write_text("Be kind.")
    (folder/"tools.json").write_text("[]")
    for name in ("codes", *TABLES["retail"]): (folder/f"{name}.json").write_text("{}")
    before = domain(tmp_path, "retail")
    assert domain(tmp_path, "retail") is before
    (folder/"users.json").write_text('{"u1": {}}')
    assert domain(tmp_path, "retail").data["users"] == {"u1": {}}


def test_tasks_without_their_databases(tmp_path, monkeypatch):
    task = {"instruction": "?", "actions": [], "outputs": [], "data_source": "tau-bench/retail"}
    write_json_lines([task] * 3, tmp_path/"tasks.jsonl")
    (tmp_path/"said.jsonl").write_text("")
    monkeypatch.setenv("FTRL_DATA", str(tmp_path/"nowhere"))
    with pytest.raises(FtrlError,
                       match="tasks.jsonl: the database of retail is not there; expected retail/wiki.md"):
        evaluate("taubench", f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"tasks.jsonl",
                 progress=False)
    monkeypatch.undo()
    data()
    from ftrl.models.llm import LLM, answer
    class Silent(LLM):
        name = "silent"
        def chat(self, requests, *how): return [answer("Done.") for _ in requests]
    lines = list(evaluate("taubench", Silent(), tmp_path/"r.jsonl", tmp_path/"tasks.jsonl", progress=False))
    assert [x["metrics"] for x in lines] == [{"pass1": 1.0}] * 3  # the databases below $FTRL_DATA

@pytest.mark.parametrize("how", [{"limit": 0}, {"limit": -1}, {"sample": 0}, {"trials": 0}, {"width": 0},
                                 {"max_turns": -1},
                                 {"max_new_tokens": 0}, {"temperature": -1}, {"temperature": float("nan")}])
def test_values_that_nobody_means(tmp_path, how):
    name, = how
    with pytest.raises(FtrlError, match=f"^{name} is .*; expected"):
        evaluate("ftrl", "replay:none", tmp_path/"r.jsonl", [row(0)], **how)
    assert os.listdir(tmp_path) == []

def test_nothing_to_play(tmp_path):
    write_json_lines([{"id": row(0).id, "turns": ["Lima"]}], tmp_path/"said.jsonl")
    (tmp_path/"empty.jsonl").write_text("")
    for bench in ("ftrl", "toolhop", "taubench", "rotbench", "gsm8k"):
        with pytest.raises(FtrlError, match="nothing to play in .*empty.jsonl"):
            evaluate(bench, f"replay:{tmp_path}/said.jsonl", tmp_path/"r.jsonl", tmp_path/"empty.jsonl")
    with pytest.raises(FtrlError, match="holds no recorded turns"):
        evaluate("ftrl", f"replay:{tmp_path}/empty.jsonl", tmp_path/"r.jsonl", [row(0)])
    assert sorted(os.listdir(tmp_path)) == ["empty.jsonl", "said.jsonl"]

def test_input_is_never_output(tmp_path):
    rows, said = tmp_path/"rows.jsonl", tmp_path/"said.jsonl"
    save_rows([row(0)], rows)
    write_json_lines([{"id": row(0).id, "turns": ["Lima"]}], said)
    before = {p: p.read_bytes() for p in (rows, said)}
    for out in (rows, said, tmp_path/"x"/".."/"rows.jsonl"):
        with pytest.raises(FtrlError, match="is an input too"):
            evaluate("ftrl", f"replay:{said}", out, rows, force=True)
    assert {p: p.read_bytes() for p in (rows, said)} == before

def test_others_results_are_not_replaced(tmp_path):
    write_json_lines([{"id": row(i).id, "turns": ["Lima"]} for i in range(2)], tmp_path/"said.jsonl")
    def run(rows, out="r.jsonl", **how):
        return evaluate("ftrl", f"replay:{tmp_path}/said.jsonl", tmp_path/out, rows, progress=False, **how)
    run([row(0)])
    kept = (tmp_path/"r.jsonl").read_bytes()
    for other in ({"rows": [row(0)], "seed": 1}, {"rows": [row(1)]}, {"rows": [row(0)], "max_turns": 3}):
        with pytest.raises(FtrlError, match="made with other settings .*(seed|data|max_turns) was .*, is "):
            run(**other)
    (tmp_path/"mine.jsonl").write_text("by hand\n")
    with pytest.raises(FtrlError, match="was not made by this command"): run([row(0)], "mine.jsonl")
    assert (tmp_path/"r.jsonl").read_bytes() == kept and (tmp_path/"mine.jsonl").read_text() == "by hand\n"
    assert len(list(run([row(0), row(1)], "mine.jsonl", force=True))) == 2


# Broken data files of every benchmark

def small(name, folder):
    "A small data file of a benchmark"
    hop = {"id": 1, "question": "?", "answer": "1", "functions": ["def f(): return 1"],
           "tools": {"q": {"name": "f", "parameters": {}}}}
    noisy = {"messages": [{"role": "user", "content": "?"}], "data_source": "RoTBench/clean",
             "answer": ["Action: a\nAction Input: {}"]}
    docs = {"toolhop": hop, "rotbench": noisy, "gsm8k": {"question": "1 + 1?", "answer": "#### 2"},
            "mmlu": {"question": "?", "answer": 1, "subject": "s"} | {f"choice{i}": str(i) for i in range(4)}}
    path = folder/f"{name}.jsonl"
    if name == "ftrl": save_rows([row(i) for i in range(3)], path)
    elif name == "bbh":
        (path := folder/"bbh.json").write_text(dumps({"examples": [{"input": "?", "target": "True"}] * 3}))
    elif name == "toolhop_json": (path := folder/"t.json").write_text(dumps([hop] * 3))
    else: write_json_lines([docs[name]] * 3, path)
    return path

ODD_VALUES = (None, 3, [], {}, [3], {"a": None}, "", "\ud800", True)

def spoiled(content, draw):
    "The file with one thing wrong: bytes, an end, or a value in its JSON"
    kind = draw.randrange(3)
    if kind == 0: return content[:draw.randrange(len(content))]
    if kind == 1:
        at = draw.randrange(len(content))
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1:]
    lines = content.decode().splitlines()
    i = draw.randrange(len(lines))
    x = json.loads(lines[i])
    inside = x[0] if isinstance(x, list) else x["examples"][0] if "examples" in x else x
    inside[draw.choice(sorted(inside))] = draw.choice(ODD_VALUES)
    lines[i] = json.dumps(x)
    return "\n".join(lines).encode() + b"\n"

@pytest.mark.parametrize("name", ["ftrl", "toolhop", "toolhop_json", "rotbench", "gsm8k", "mmlu", "bbh"])
def test_a_broken_data_file_is_one_line(tmp_path, name):
    from ftrl.core import rng
    from ftrl.models.llm import LLM, answer
    class Short(LLM):
        name = "short"
        def chat(self, requests, max_new_tokens=0, temperature=0, seed=0):
            return [answer("True") for _ in requests]
    path, draw, read = small(name, tmp_path), rng("broken", name), 0
    whole, bench = path.read_bytes(), name.removesuffix("_json")
    for _ in range(40 if name in ("ftrl", "toolhop", "toolhop_json", "rotbench") else 12):
        path.write_bytes(spoiled(whole, draw))
        try: evaluate(bench, Short(), tmp_path/"r.jsonl", path, progress=False, force=True, failing=1.0)
        except FtrlError as e: assert "\n" not in str(e)
        else: read += 1
    assert read  # some of it was harmless
