"Worlds whose tables change, from build to episodes, on one small set of environments."
import json
import sys
from dataclasses import replace

import forks
import pytest
from conftest import ROOT

from ftrl.chat.turn import call_text
from ftrl.records import SCENARIOS, Call, Env
from ftrl.environments.build import build
from ftrl.environments.gate import check, passed
from ftrl.environments.world import STATE_WORLDS
from ftrl.evaluation.bench import evaluate
from ftrl.files import write_json_lines
from ftrl.rows import load_rows, save_rows
from ftrl.training.collect import collect
from ftrl.training.episode import environment_class, episode_reward
from ftrl.training.gold import gold_trajectory
from ftrl.training.reward import score


@pytest.fixture(scope="module")
def envs():
    "One environment of each world in two scenarios, and some in the others; a world of facts is among them"
    worlds = [*STATE_WORLDS, "units"]
    chains = build(len(worlds), worlds, "multi_hop", difficulty=4)
    several = build(len(worlds), worlds, "parallel_multi_hop", difficulty=2)
    return [*chains, *several, *build(4, ["shop"], ("single_hop", "parallel_single_hop"), difficulty=1)]


def solving(env):
    "The turns that solve an environment"
    return [*(call_text([Call(s.tool, s.arguments)]) for s in env.subquestions), env.answer]


def played(turns, envs, folder, name):
    "The result lines of a recorded policy"
    write_json_lines([{"id": env.id, "turns": turns(env)} for env in envs], folder / f"{name}.jsonl")
    said = f"replay:{folder / name}.jsonl"
    return list(evaluate("ftrl", said, folder / f"{name}_results.jsonl", envs, progress=False))


def test_every_world_and_scenario_is_there(envs):
    changing = [env for env in envs if env.state]
    assert {env.world for env in changing} == set(STATE_WORLDS) and len(changing) < len(envs)
    assert {env.scenario for env in envs} == set(SCENARIOS)
    assert any(env.state.forbidden for env in changing)


def test_rows_hold_all_of_it(envs, tmp_path):
    save_rows([env.row() for env in envs], tmp_path / "rows.parquet")
    rows = load_rows(tmp_path / "rows.parquet")
    assert [Env.from_row(row) for row in rows] == envs
    assert all(passed(check(row)) for row in rows[:4])


def test_solving_passes_and_nothing_else_does(envs, tmp_path):
    for x in played(solving, envs, tmp_path, "gold"):
        assert set(x["metrics"].values()) == {1.0}, x
    silent = played(lambda env: [f"{env.answer} rule 1 rule 2"], envs, tmp_path, "silent")
    assert [x["metrics"].get("pass1", 0.0) for x in silent] == [0.0] * len(envs)
    # the same once more: what changes something twice is too much, or is refused
    short = [env for env in envs if len(env.subquestions) < 10]
    twice = played(lambda env: [*solving(env)[:-1], *solving(env)], short, tmp_path, "twice")
    assert all(x["metrics"]["solve_r"] == 1 and x["metrics"]["solve_p"] == .5 for x in twice)


def test_what_a_rule_forbids_does_not_pass(envs, tmp_path):
    bound = [env for env in envs if env.state and env.state.forbidden]
    def breaks(env):
        *calls, last = solving(env)
        return [*calls, *(call_text([call]) for call in env.state.forbidden), last]
    assert [x["metrics"]["pass1"] for x in played(breaks, bound, tmp_path, "rule")] == [0.0] * len(bound)


def test_moments_are_scored_where_they_stand(envs, tmp_path):
    write_json_lines([{"id": env.id, "turns": solving(env)} for env in envs], tmp_path / "gold.jsonl")
    rows = collect(f"replay:{tmp_path / 'gold.jsonl'}", envs, temperature=0.0)
    assert len(rows) == sum(1 + len(env.subquestions) for env in envs)
    for row in rows:
        turns = solving(Env.from_row(row))
        done = sum(m["role"] == "assistant" for m in row.messages)
        assert score(turns[done], row).value == 1.0, row
        if done < len(turns) - 1:
            assert score(turns[-1], row).value < 1.0


TRAINING = """
import json, sys
from pathlib import Path
from ftrl.rows import load_rows
from ftrl.runs.folder import Run
from ftrl.runs.policies import base
from ftrl.training.collect import collect
from ftrl.training.policy import load_policy
from ftrl.training.settings import TrainConfig
from ftrl.training.train import _step_data, train
folder = Path(sys.argv[1])
model = base(Run(folder), "random")
moments, turns = load_rows(folder/"moments.jsonl"), json.loads((folder/"turns.json").read_text())
met = collect(model, load_rows(folder/"envs.jsonl"), max_turns=2, max_new_tokens=8)
options = {"bf16": False, "warmup_steps": 0, "beta": 0.01, "entropy_coef": 0.1, "shared": None}
config = TrainConfig(steps=3, prompts=2, group=2, length=8, lr=1e-3, options=options)
run = train([*moments, *met], model, folder/"policy", config)
network, tokenizer = load_policy(run.policy)
reward = _step_data(moments, range(len(moments)), network, tokenizer, config)["reward_funcs"]
ids = [tokenizer(turn + tokenizer.eos_token, add_special_tokens=False)["input_ids"] for turn in turns]
given = [reward([], [], [said] * len(moments), range(len(moments))) for said in ids]
print(json.dumps({"met": len(met), "steps": len(run.metrics), "given": given,
                  "seen": [x["tokens"] for x in run.metrics]}))
"""


def test_training_step_by_step(envs, tmp_path):
    "A model meets moments of changing worlds and learns from them; its trainer rewards turns as `score` does"
    short = sorted(envs, key=lambda env: len(env.subquestions))
    few = [next(env for env in short if env.world == world) for world in ("shop", "bank")]
    write_json_lines([{"id": env.id, "turns": solving(env)} for env in few], tmp_path / "gold.jsonl")
    moments = collect(f"replay:{tmp_path / 'gold.jsonl'}", few, temperature=0.0)
    turns = [turn for env in few for turn in solving(env)]
    save_rows(moments, tmp_path / "moments.jsonl")
    save_rows([env.row() for env in few], tmp_path / "envs.jsonl")
    (tmp_path / "turns.json").write_text(json.dumps(turns))
    done = forks.run([sys.executable, "-c", TRAINING, tmp_path], cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["met"] == 2 and said["steps"] == 3
    expected = [[score(turn, row).value for row in moments] for turn in turns]
    assert said["given"] == expected
    assert max(map(max, expected)) == 1.0 and len({x for some in expected for x in some}) > 2


def test_a_full_mark_needs_the_right_tables(envs, tmp_path):
    "All is solved, and then something more was done: the last word is worth nothing"
    env = next(env for env in envs if env.state and env.state.forbidden)
    wrong = [*solving(env)[:-1], call_text(env.state.forbidden[:1]), env.answer]
    write_json_lines([{"id": env.id, "turns": wrong}], tmp_path / "wrong.jsonl")
    *_, last = collect(f"replay:{tmp_path / 'wrong.jsonl'}", [env], temperature=0.0)
    assert last.solve_rate == 1 and score(env.answer, last).value == 0


def test_whole_episodes_of_trl(envs):
    for env in envs:
        kind = environment_class(env.row())
        player = kind()
        player.reset()
        for s in env.subquestions:
            getattr(player, s.tool)(**s.arguments)
        said = [{"role": "assistant", "tool_calls": [{}] * len(env.subquestions)}]
        assert episode_reward([said], [player], [0]) == [1.0], env


def test_gold_trajectories_say_what_tools_say(envs):
    for env in envs:
        replies = [m["content"] for m in gold_trajectory(env, seed=1) if m["role"] == "tool"]
        assert len(replies) == len(env.subquestions) and not any(r.startswith("Error") for r in replies)


@pytest.mark.parametrize("state", [{}, {"data": []}, {"data": {}, "goal": 7, "says": 3}, "x",
                                   {"data": {"orders": None}, "goal": "", "says": [], "forbidden": [{}]}])
def test_a_broken_state_is_judged(envs, state):
    env = next(env for env in envs if env.state)
    row = env.row()
    meta = json.loads(row.env) | {"state": state or {"data": 1}}
    assert not passed(check(replace(row, env=json.dumps(meta))))
