"""Train with the stand-in for vLLM: python vllm_training.py HOME OUT colocate|server CAP

Says as JSON how often weights came to the engine, and the weights TRL gave the tokens of each mini-batch.
"""
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import reload
from pathlib import Path

import vllm
from ftrl.rows import load_rows
from ftrl.training.settings import TrainConfig
from ftrl.training.train import train
from ftrl.training.trainer import StepTrainer
from trl.generation import vllm_client, vllm_generation
from trl.trainer import grpo_trainer

reload(vllm_client)  # this process may have met TRL before vLLM was there
reload(vllm_generation)
grpo_trainer.VLLMGeneration = vllm_generation.VLLMGeneration


class Server(BaseHTTPRequestHandler):
    "vLLM's server, as far as TRL's client asks it; generation only, weights come by another way"
    engine = None

    def do_GET(self):
        config = {"model_config": {"logprobs_mode": "processed_logprobs"},
                  "weight_transfer_config": {"backend": "nccl"}}
        answers = {"/health": {}, "/v1/models": {"data": [{"id": "standin"}]},
                   "/server_info": {"vllm_config": config}}
        self.answer(answers[self.path.split("?")[0]])

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if self.path == "/reset_prefix_cache":
            self.engine.reset_prefix_cache()
            return self.answer({"success": True})
        assert self.path == "/v1/completions" and asked["return_token_ids"]
        names = ("n", "temperature", "max_tokens", "logprobs", "stop_token_ids")
        how = vllm.SamplingParams(**{name: asked[name] for name in names})
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompt"]]
        made = self.engine.generate(prompts, how)
        self.answer({"choices": [choice(x.prompt_token_ids, y) for x in made for y in x.outputs]})

    def answer(self, what):
        body = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): pass


def choice(prompt, output):
    "A completion as the server spells it"
    tokens = [f"token_id:{token}" for token in output.token_ids]
    known = [x[token].logprob for x, token in zip(output.logprobs, output.token_ids)]
    logprobs = {"tokens": tokens, "token_logprobs": known, "top_logprobs": [None] * len(tokens)}
    return {"prompt_token_ids": prompt, "token_ids": output.token_ids, "logprobs": logprobs}


def served(model):
    "A server with this model; how training reaches it"
    Server.engine = vllm.LLM(model, logprobs_mode="processed_logprobs")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # over NCCL, between GPUs
    client = vllm_client.VLLMClient
    client.init_communicator = lambda self, device: self.get_server_info()
    client.update_named_params = lambda self, metadata, named: Server.engine.load_weights(named)
    return {"vllm_server_base_url": f"http://127.0.0.1:{server.server_port}"}


def main(home, out, mode, cap):
    ratios, engines, loss = [], [], StepTrainer._compute_loss

    def seen(self, model, inputs):
        ratio = inputs.get("importance_sampling_ratio")
        if ratio is not None:
            ratios.append(ratio[inputs["completion_mask"].bool()].tolist())
        engines[:] = [Server.engine or self.vllm_generation.llm]
        return loss(self, model, inputs)

    StepTrainer._compute_loss = seen
    options = {"use_vllm": True, "vllm_mode": mode, "importance_cap": float(cap), "bf16": False,
               "warmup_steps": 0, "beta": 0.01, "entropy_coef": 0.1}  # moves if nothing is rewarded, too
    options |= served(home + "/model") if mode == "server" else {}
    config = TrainConfig(steps=3, prompts=2, group=4, length=6, lr=1e-2, options=options)
    train(load_rows(Path(home) / "rows.jsonl"), home + "/model", out, config)
    engine, = engines
    print(json.dumps({"loaded": engine.loaded, "resets": engine.resets, "ratios": ratios}))


if __name__ == "__main__":
    main(*sys.argv[1:])
