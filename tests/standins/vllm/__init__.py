"""A stand-in with the parts of vLLM's interface (0.31) that ftrl and TRL use.

`LLMEngine` answers every conversation alike. `LLM` samples on the CPU with a model of transformers and takes
new weights; STANDIN_SHARPNESS multiplies its logits (1: it draws as the trainer computes), with STANDIN_DEAF
it misses new weights.
"""
import os
from types import SimpleNamespace

__version__ = "0.31.0"


class SamplingParams:
    def __init__(self, n=1, temperature=1.0, max_tokens=16, seed=None, logprobs=None, top_p=1.0, top_k=0,
                 min_p=0.0, repetition_penalty=1.0, skip_special_tokens=True,
                 spaces_between_special_tokens=True, stop_token_ids=()):
        self.stop_token_ids = list(stop_token_ids)
        self.n, self.temperature, self.max_tokens, self.logprobs = n, temperature, max_tokens, logprobs
        assert (top_p, top_k, min_p, repetition_penalty) == (1.0, 0, 0.0, 1.0), "the stand-in narrows nothing"


# -- the engine, stepped by hand -------------------------------------------------------------------------

class EngineArgs:
    def __init__(self, model, tensor_parallel_size=1, max_model_len=None, gpu_memory_utilization=0.9):
        self.model = model


class LLMEngine:
    closed = 0

    def __init__(self):
        self.model_config = SimpleNamespace(max_model_len=4096)
        self.engine_core, self.waiting = SimpleNamespace(shutdown=self.shut), {}

    @classmethod
    def from_engine_args(cls, args):
        return cls()

    def shut(self):
        LLMEngine.closed += 1

    def add_request(self, request_id, prompt, params):
        self.waiting[request_id] = prompt, params

    def abort_request(self, request_ids):
        for name in request_ids:
            self.waiting.pop(name, None)

    def step(self):
        done, self.waiting = self.waiting, {}
        return [SimpleNamespace(request_id=name, finished=True, outputs=[self.said(prompt)])
                for name, (prompt, _) in done.items()]

    def said(self, prompt):
        assert prompt["prompt_token_ids"]
        return SimpleNamespace(text="Lima.", token_ids=[1, 2], finish_reason="stop")


# -- the whole thing, which samples and takes weights ----------------------------------------------------

class RequestOutput(SimpleNamespace):
    "A prompt's ids and its outputs"


class LLM:
    def __init__(self, model, tensor_parallel_size=1, gpu_memory_utilization=0.9, max_model_len=None,
                 max_num_seqs=None, enable_sleep_mode=False, model_impl="auto", seed=0,
                 distributed_executor_backend=None, max_num_batched_tokens=None,
                 logprobs_mode="raw_logprobs", quantization=None, trust_remote_code=False):
        import torch
        from transformers import AutoModelForCausalLM
        assert logprobs_mode == "processed_logprobs", "raw log-probabilities leave out the temperature"
        self.network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.sharpness = float(os.environ.get("STANDIN_SHARPNESS", 1))
        self.deaf = "STANDIN_DEAF" in os.environ
        self.dice = torch.Generator().manual_seed(seed)
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=runner),
                                          model_config=SimpleNamespace(max_model_len=2048))
        self.loaded = self.resets = 0

    def load_weights(self, weights):
        own = dict(self.network.named_parameters())
        for name, value in weights:
            self.loaded += 1
            if not self.deaf:
                own[name].data.copy_(value)

    def reset_prefix_cache(self):
        self.resets += 1

    def generate(self, prompts, sampling_params, use_tqdm=True):
        made = []
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            outputs = [self.completion(ids, sampling_params) for _ in range(sampling_params.n)]
            made.append(RequestOutput(prompt_token_ids=ids, outputs=outputs))
        return made

    def completion(self, ids, how):
        "Tokens drawn one by one, and the log-probability of each in what it was drawn from"
        import torch
        said, logprobs, end = [], [], self.network.generation_config.eos_token_id
        while len(said) < how.max_tokens and (not said or said[-1] != end):
            with torch.no_grad():
                logits = self.network(torch.tensor([ids + said])).logits[0, -1].float()
            known = (logits * self.sharpness / how.temperature).log_softmax(-1)
            token = int(torch.multinomial(known.exp(), 1, generator=self.dice))
            said.append(token)
            logprobs.append({token: SimpleNamespace(rank=1, logprob=known[token].item())})
        return SimpleNamespace(token_ids=said, logprobs=logprobs, text="", finish_reason="stop")
