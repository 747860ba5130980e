"Two processes on this CPU: data parallel, weights spread by FSDP2, an odd last batch, kills"
import json, signal, sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
import forks, pytest, torch
from safetensors.torch import load_file
from test_train import home, tokenizer  # noqa: F401  fixtures

BACKENDS = ["gloo", "fsdp"]
if find_spec("deepspeed"):  # not among the packages of the tests: it compiles what it needs, for minutes
    BACKENDS.append("deepspeed")

@pytest.fixture(scope="module")
def two(home):  # noqa: F811
    "Run a scenario in two processes"
    script = Path(__file__).with_name("processes.py")
    def run(name, out, backend="gloo"):
        asked = {"name": name, "backend": backend, "out": str(out), "home": str(home)}
        done = forks.run([sys.executable, script, json.dumps(asked)])
        assert done.returncode == 0, done.stderr[-3000:]
        logs = [Path(f"{out}.log{rank}").read_text()[-3000:] for rank in (0, 1)]
        return json.loads(done.stdout), "\n\n".join(logs)
    return run

def weights(folder): return load_file(folder/"model.safetensors")

def far(a, b): return max((a[k] - b[k]).norm() / (b[k].norm() + 1e-9) for k in b)

@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ["train", "kl", "cold"])
def test_the_shared_prefix_equals_the_plain_trainer(what, backend, two, home, tmp_path):  # noqa: F811
    """Same losses and weights after some steps, saved whole. The first process has fewer rows than the
    second in `train`; the last batch of `cold` has one example for two processes"""
    out = tmp_path/"out"
    codes, log = two(what, out, backend)
    assert codes == [0, 0], log
    plain, ours, before = weights(out/"False"), weights(out/"True"), weights(home/"model")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in before.items()}
    assert far(ours, plain) < 1e-5 < far(ours, before)
    first, second = json.loads((out/"losses.json").read_text())
    assert len(first) == 2 and second == pytest.approx(first, rel=1e-4, abs=1e-6)

def numbers(out):
    lines = (out/"metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]

@pytest.fixture(scope="module")
def unbroken(two, tmp_path_factory):
    "A whole run under a backend, made once"
    @cache
    def run(backend):
        out = tmp_path_factory.mktemp("unbroken")/"run"
        codes, log = two("run", out, backend)
        assert codes == [0, 0], log
        return out
    return run

# either process under gloo; where weights are spread each holds a half, and one of them is enough
KILLS = [("first", "gloo"), ("second", "gloo"), *(("second", backend) for backend in BACKENDS[1:])]

@pytest.mark.parametrize(("killed", "backend"), KILLS)
def test_a_run_goes_on_after_either_process_was_killed(killed, backend, unbroken, two, tmp_path):
    whole, out = unbroken(backend), tmp_path/"run"
    codes, log = two(f"{killed} killed", out, backend)
    assert -signal.SIGKILL in codes, log
    assert not (out/"model.safetensors").exists() and (out/"checkpoint-2").is_dir(), log
    codes, log = two("run", out, backend)
    assert codes == [0, 0], log
    assert numbers(out) == numbers(whole)
    a, b = weights(out), weights(whole)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)
