"Commands as a user types them: help, bad input, nothing half-written, the paper's reward on recorded turns."
import ast
import json
import sys
from importlib import import_module

import pytest
from conftest import ROOT
from forks import run

FTRL = [sys.executable, "-c", "from ftrl.cli import main; main()"]
VERBS = "build check show collect score train evaluate table delta figures reproduce bench".split()


def ftrl(*words, **kwargs):
    return run([*FTRL, *words], timeout=120, **kwargs)


def refused(done, *said):
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in said:
        assert part in done.stderr


CAPITAL = "def find_capital(country):\n    return {'Peru': 'Lima', 'Chile': 'Santiago'}[country]"
PEOPLE = "def find_people(city, year=2020):\n    return {'city': city, 'people': '1,234,567'}"
UNSOLVED = {"find_capital": ["Lima", "Santiago"], "find_people": ["1234567"]}
ROW = {"messages": [{"role": "user", "content": "Question: ?"}], "tools": "[]",
       "codes": json.dumps({"find_capital": CAPITAL, "find_people": PEOPLE}),
       "unsolved_set": json.dumps(UNSOLVED), "solve_rate": 0.0,
       "data_source": "self/multi_hop", "split": "train", "answer": "1,234,567"}
DONE = ROW | {"unsolved_set": json.dumps({"find_capital": []}), "solve_rate": 1.0}


def call(name, **arguments):
    return f'<tool_call>\n{json.dumps({"name": name, "arguments": arguments})}\n</tool_call>'


PERU, CHILE = call("find_capital", country="Peru"), call("find_capital", country="Chile")
LIMA = call("find_people", city="Lima")
CASES = [  # row, turn, solve-f1, solve-precision, solve-rate, solve-pr
    (ROW, PERU, 1, 1, 1, 1),
    (ROW, PERU + CHILE + LIMA, 1.5, 1, 3, 3),
    (ROW, f"First this.\n{PERU}\n{call('find_capital', country='Oz')}<|im_end|>", 2 / 3, .5, 1, .5),
    (ROW, PERU + PERU, 2 / 3, .5, 1, .5),
    (ROW, call("nowhere", a=1), 0, 0, 0, 0),
    (ROW, '<tool_call>{"name": "find_people", "arguments": "{\\"city\\": \\"Lima\\"}"}', 1, 1, 1, 1),
    (ROW, f"<tool_call>{{oops}}</tool_call>{CHILE}", 1, 1, 1, 1),
    (ROW, '<tool_call>{"name": "find_people", "arguments": "[1]"}</tool_call>', 0, 0, 0, 0),
    (ROW, "<tool_call>{oops}</tool_call>", -.3, -.3, -.3, -.3),
    (ROW, "</tool_call>", -.3, -.3, -.3, -.3),
    (ROW, "a <tool_parsed_response> b", -.3, -.3, -.3, -.3),
    (ROW, " \n<|im_end|>", -.5, -.5, -.5, -.5),
    (ROW, "There are 1234567 people.", .25, .25, .25, .25),
    (ROW, "I do not know.", 0, 0, 0, 0),
    (DONE, "There are 1,234,567 people.<|im_end|><|endoftext|>", 1, 1, 1, 1),
    (DONE, "All is found.", .5, .5, .5, .5),
    (DONE, PERU, 0, 0, 0, 0),
]


REWARDS = ["solve-f1", "solve-precision", "solve-rate", "solve-pr"]  # as the columns of `CASES`


@pytest.mark.parametrize("i, reward", list(enumerate(REWARDS)))
def test_score(tmp_path, i, reward):
    lines = [json.dumps(row | {"response": turn}) + "\n" for row, turn, *_ in CASES]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    done = ftrl("score", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--reward", reward)
    assert done.returncode == 0, done.stderr
    got = [json.loads(line)["reward"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert got == pytest.approx([c[2 + i] for c in CASES])


@pytest.mark.parametrize("verb", VERBS)
def test_help(verb):
    done = ftrl(verb, "--help")
    assert done.returncode == 0 and f"ftrl {verb}" in done.stdout


def test_every_option_is_explained():
    "In the help of each command, and in `help` of each verb: no option without a word, none behind two stars"
    import inspect
    import typer
    import ftrl as package
    from ftrl.cli import app
    commands = typer.main.get_command(app).commands
    assert set(VERBS) <= set(commands)
    for name, command in commands.items():
        for option in command.params:
            assert option.help, f"ftrl {name}: {option.opts} says nothing of itself"
    assert "verbs" in package.__doc__
    for name in "build collect train evaluate diff plot reproduce tune".split():
        verb = getattr(package, name)
        for argument in inspect.signature(verb).parameters.values():
            assert argument.kind != argument.VAR_KEYWORD, f"{name}: **{argument.name} hides what it takes"
            assert f"\n  {argument.name}: " in verb.__doc__, f"help of {name} has no {argument.name}"


@pytest.fixture
def files(tmp_path):
    "A good file, one with a broken line, one with a row that lacks a column"
    good, short = json.dumps(ROW), json.dumps({k: v for k, v in ROW.items() if k != "codes"})
    (tmp_path / "good.jsonl").write_text(good + "\n")
    (tmp_path / "broken.jsonl").write_text(good + "\n{\"messages\": [\n")
    (tmp_path / "short.jsonl").write_text(good + "\n" + short)
    return tmp_path


def test_what_commands_import_is_there():
    "A command imports what it needs when it runs, so a name that has moved is found out only then"
    missing = []
    for path in sorted((ROOT / "ftrl" / "commands").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ftrl."):
                module = import_module(node.module)
                names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                missing += [f"{path.name}:{node.lineno}: {node.module} has no {name}" for name in names]
    assert not missing, "\n".join(missing)


def test_bad_input(files):
    good, broken, short = (files / f"{name}.jsonl" for name in ("good", "broken", "short"))
    absent, out = files / "absent.jsonl", files / "out.jsonl"
    before = sorted(files.iterdir())
    play = "evaluate", "ftrl", "--out", out
    smollm2 = "--model", "smollm2"
    train = "train", broken, *smollm2, "--out", files / "m"
    refused(ftrl("evaluate", "toolhopp", *smollm2, "--out", out), "toolhopp", "toolhop")
    refused(ftrl(*play, "--model", files / "no" / "model", "--data", good), "model")
    refused(ftrl(*play, *smollm2, "--data", short), "line 2")
    refused(ftrl("score", absent, "--out", out), "absent.jsonl")
    refused(ftrl("score", broken, "--out", out), "line 1", "`response`")
    refused(ftrl("check", short), "line 2", "codes")
    refused(ftrl("show", broken, "-i", 1), "line 2")
    refused(ftrl("collect", short, *smollm2, "--out", files / "r.parquet"), "line 2")
    refused(ftrl(*train), "line 2")
    refused(ftrl(*train, "--lr", "nan"), "lr")
    refused(ftrl(*train[:-2], "--set", "beta=[", "--out", files / "m"), "beta=[")
    refused(ftrl("build", "--out", files / "e.csv", "-n", 2), ".jsonl")
    refused(ftrl("build", "--out", out, "-n", 2, "--scenario", "no_hop"), "single_hop")
    refused(ftrl("delta", files / "a", files / "b", "--out", files / "d.parquet"), "a")
    refused(ftrl("figures", "--runs", files / "none"), "none")
    refused(ftrl("reproduce", "--profile", "huge", "--out", files / "run"), "tiny")
    refused(ftrl("table", absent), "absent.jsonl")
    assert sorted(files.iterdir()) == before, "bad input left a file behind"


def calls(*given):
    "A conversation in which an assistant calls with these arguments, in the flat form of some data sets"
    made = [{"name": "find_capital", "arguments": arguments} for arguments in given]
    return {"messages": [*ROW["messages"], {"role": "assistant", "content": "", "tool_calls": made}]}


def tools(parameters):
    return {"tools": json.dumps([{"function": {"name": "find_capital", "parameters": parameters}}])}


ELSEWHERE = [  # what a row from elsewhere may hold, and whether it can be read at all
    ({"unsolved_set": '{"f": 3}'}, False), ({"unsolved_set": '{"f": [null]}'}, False),
    ({"unsolved_set": '{"f": "x"}'}, False), ({"unsolved_set": '["x"]'}, False),
    ({"messages": [{"role": "user"}]}, False), ({"messages": [{"role": 3, "content": "x"}]}, False),
    ({"messages": ["hi"]}, False), ({"messages": [{"role": "user", "content": {"a": 1}}]}, False),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Question: ?"}]}]}, True),
    (calls({}), True), (calls({"a": 1}, {"b": "x"}), True), (calls({"a": 1}, {"a": "x"}, None), True),
    ({"messages": [*ROW["messages"], {"role": "assistant", "tool_calls": "f()"}]}, False),
    (tools([]), True), (tools({"properties": []}), True), (tools({"properties": {"a": 3}}), True),
    (tools(None), True), ({"tools": "[null]"}, False), ({"codes": '{"f": 3}'}, False),
    ({"codes": '{"f": "def f(:"}'}, True), ({"answer": None}, True), ({"answer": 3}, False),
    ({"solve_rate": "1"}, False), ({"env": "[]"}, False), ({"env": "{}"}, True),
    ({"solve_rate": float("nan")}, False), ({"solve_rate": 10**400}, False), ({"solve_rate": 10**30}, True),
    *[({"tools": json.dumps([schema])}, False)
      for schema in ({}, {"function": None}, {"function": 3}, {"function": True}, {"name": ["f"]},
                     {"function": {"name": {"f": 3}}}, {"name": "f", "description": 3})],
    ({"tools": '[{"name": "f"}]'}, True), ({"tools": '[{"name": "\\ud800"}]'}, True),
    ({"tools": '[{"name": "f", "description": null, "parameters": 10e400}]'}, True),
    ({"answer": "\ud800"}, True), ({"codes": '{"f": "\\ud800"}'}, True),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": 10**30}]}, True),
]


def test_rows_from_elsewhere(tmp_path, monkeypatch, capsys):
    "Each command that reads rows takes them or names the row in one line"
    from ftrl.cli import main
    monkeypatch.chdir(tmp_path)
    for more, readable in ELSEWHERE:
        row = ROW | more | {"response": call("find_capital", country="Peru")}
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        for words in ("show rows.jsonl", "check rows.jsonl", "score rows.jsonl --out scored.jsonl --force",
                      "export rows.jsonl --out verl --force"):
            monkeypatch.setattr(sys, "argv", ["ftrl", *words.split()])
            status = 0
            try: main()
            except SystemExit as e: status = e.code or 0
            out, err = capsys.readouterr()
            about, lines = f"{words} of {more}: {err}", err.splitlines()
            assert status in (0, 1) or len(lines) == 1, about
            assert readable or (status == 2 and "line 1" in err), about


def test_an_environment_whose_fields_are_of_other_types(capsys, monkeypatch, tmp_path):
    "It fails the gates and cannot be shown; no command ends in a traceback"
    from ftrl.cli import main
    from ftrl.environments.build import build
    from ftrl.rows import plain
    row = plain(next(build(1, ["chemistry"])).row())
    meta = json.loads(row["env"])
    monkeypatch.chdir(tmp_path)
    first, *rest = meta["subquestions"]
    odd = [meta | {"subquestions": [first | {name: value}, *rest]}
           for name in first for value in (["f"], {"f": 3}, None, True)
           if not (name == "arguments" and value == {"f": 3} or name == "depends_on" and value == ["f"])]
    odd += [meta | {name: value} for name in ("id", "world", "seed", "difficulty", "distractors", "gates")
            for value in ([3], {"f": 3}, None, True)]
    rows = [row | {"env": json.dumps(x)} for x in odd]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows))
    monkeypatch.setattr(sys, "argv", "ftrl check rows.jsonl".split())
    with pytest.raises(SystemExit): main()
    assert f"0 of {len(odd)}" in capsys.readouterr().out
    for i in range(len(odd)):
        monkeypatch.setattr(sys, "argv", f"ftrl show rows.jsonl -i {i}".split())
        with pytest.raises(SystemExit) as e: main()
        assert e.value.code == 2 and "expected" in capsys.readouterr().err, odd[i]


@pytest.mark.parametrize("to", ["rows.parquet", "rows.jsonl", "rows.jsonl.gz"])
def test_half_characters_become_question_marks_in_every_file(tmp_path, to):
    from ftrl.records import Row
    from ftrl.rows import load_rows, save_rows
    row = Row(**ROW | {"answer": "a\ud800", "messages": [{"role": "user", "content": "\udfff?"}]})
    save_rows([row], tmp_path / to)
    read, = load_rows(tmp_path / to)
    assert (read.answer, read.messages[0]["content"]) == ("a?", "??")
