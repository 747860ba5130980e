"vLLM's interface as a package on the path: `vllm:` models play as every other kind, training samples with it"
import json, os, sys
from pathlib import Path
import forks, pytest
from conftest import ROOT
from test_train import home, record, tokenizer, weights  # noqa: F401  fixtures

STANDINS = Path(__file__).with_name("standins")

@pytest.fixture
def vllm(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    yield tmp_path
    sys.modules.pop("vllm", None)

def test_a_vllm_model_collects_and_evaluates(vllm):
    from ftrl.environments.build import build
    from ftrl.evaluation.bench import evaluate
    from ftrl.training.collect import collect
    rows = [env.row() for env in build(3, seed=3)]
    found = collect("vllm:smollm2", rows, out=vllm/"rows.jsonl")
    assert (len(found), found.episodes) == (3, 3)
    results = evaluate("ftrl", "vllm:smollm2", vllm/"results.jsonl", rows, progress=False)
    lines = list(results)
    assert [x["error"] for x in lines] == [None] * 3 and lines[0]["run"]["model"] == "vllm:smollm2"
    import vllm as standin
    assert standin.LLMEngine.closed == 2  # each gave its memory back

def trained(home, out, mode="colocate", cap=2.0, **env):  # noqa: F811
    "What three steps say whose completions the stand-in samples, and their record"
    env = os.environ | {"PYTHONPATH": f"{STANDINS}{os.pathsep}{ROOT}"} | env
    script = Path(__file__).with_name("vllm_training.py")
    done = forks.run([sys.executable, script, home, out, mode, cap], env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), record(out)

@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_training_samples_through_it_with_the_weights_of_each_step(mode, home, tmp_path):  # noqa: F811
    said, lines = trained(home, tmp_path/"run", mode)
    assert [x["step"] for x in lines] == [1, 2, 3]
    n = len(weights(home/"model"))
    assert said["loaded"] in (3 * n, 4 * n) and said["resets"] >= 3  # once a step, and at the start
    moved = max((a - b).abs().max() for a, b in zip(weights(tmp_path/"run").values(),
                                                    weights(home/"model").values()))
    assert moved > 1e-3
    # it samples as the trainer computes: with the weights of this step, not the first
    assert all(x["sampler_gap"] < 1e-4 and x["truncated"] == 0 for x in lines)
    assert all(ratio == pytest.approx(1, abs=1e-3) for some in said["ratios"] for ratio in some)

def test_an_engine_that_misses_the_new_weights_is_seen(home, tmp_path):  # noqa: F811
    _, lines = trained(home, tmp_path/"run", STANDIN_DEAF="1")
    assert lines[0]["sampler_gap"] < 1e-4 and min(x["sampler_gap"] for x in lines[1:]) > 1e-3

def test_tokens_of_another_distribution_are_weighted_up_to_the_cap(home, tmp_path):  # noqa: F811
    "The engine's distribution is sharper than the policy: it draws probable tokens too often"
    said, lines = trained(home, tmp_path/"run", cap=1.2, STANDIN_SHARPNESS="3")
    ratios = [ratio for some in said["ratios"] for ratio in some]
    assert max(ratios) <= 1.2 + 1e-6 and min(ratios) < 0.9
    assert all(x["sampler_gap"] > 0.05 and x["sampler_gap_max"] >= x["sampler_gap"] for x in lines)
    capped = sum(ratio > 1.2 - 1e-6 for ratio in ratios) / len(ratios)
    assert sum(x["truncated"] for x in lines) / 3 == pytest.approx(capped, abs=0.1)
    plain, _ = trained(home, tmp_path/"plain", cap=0, STANDIN_SHARPNESS="3")
    assert plain["ratios"] == []
