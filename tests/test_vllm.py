"vLLM's interface as a package on the path: `vllm:` models collect and evaluate as every other kind"
import pytest

STANDIN = '''
from types import SimpleNamespace
__version__ = "0.31.0"
class SamplingParams:
    def __init__(self, temperature=1.0, max_tokens=16, seed=None, skip_special_tokens=True,
                 spaces_between_special_tokens=True):
        self.max_tokens = max_tokens
class EngineArgs:
    def __init__(self, model, tensor_parallel_size=1, max_model_len=None, gpu_memory_utilization=0.9):
        self.model = model
class LLMEngine:
    closed = 0
    def __init__(self):
        self.model_config = SimpleNamespace(max_model_len=4096)
        self.engine_core, self.waiting = SimpleNamespace(shutdown=self.shut), {}
    @classmethod
    def from_engine_args(cls, args): return cls()
    def shut(self): LLMEngine.closed += 1
    def add_request(self, request_id, prompt, params): self.waiting[request_id] = prompt, params
    def abort_request(self, request_ids):
        for name in request_ids: self.waiting.pop(name, None)
    def step(self):
        done, self.waiting = self.waiting, {}
        return [SimpleNamespace(request_id=k, finished=True, outputs=[self.said(*v)])
                for k, v in done.items()]
    def said(self, prompt, params):
        assert prompt["prompt_token_ids"]
        return SimpleNamespace(text="Lima.", token_ids=[1, 2], finish_reason="stop")
'''

@pytest.fixture
def vllm(tmp_path, monkeypatch):
    (tmp_path/"site/vllm").mkdir(parents=True)
    (tmp_path/"site/vllm/__init__.py").write_text(STANDIN)
    monkeypatch.syspath_prepend(str(tmp_path/"site"))
    import sys
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
