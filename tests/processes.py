"""What two processes do in `test_processes.py`: forked from one, which has imported what both need.

Takes a scenario, `{"name": …, "backend": …, "out": …, "home": …}`; says how both ended, `[0, 0]`.
"""
import json, os, signal, socket, sys, time
from pathlib import Path

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

# -- a rollout and a reward that are the same for every trainer, other lengths in every process ----------

def rollout(prompts, trainer):
    "Completions that depend on the prompt, the process and the step alone"
    import torch
    tokenizer = trainer.processing_class
    rank, step = trainer.accelerator.process_index, trainer.state.global_step
    ids = [tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    said = []
    for i, prompt in enumerate(ids):
        g = torch.Generator().manual_seed(1000 * step + 10 * i + rank)
        n = 2 + (3 * i + 5 * rank + step) % 7
        said.append(torch.randint(3, 250, (n,), generator=g).tolist())
    return {"prompt_ids": ids, "completion_ids": said, "logprobs": [[-5.0] * len(c) for c in said]}

def reward(prompts, completions, completion_ids, **_):
    "In the first group of the first process all fail: it learns from fewer rows than the second"
    first = os.environ["RANK"] == "0"
    return [0.0 if first and i < 2 else float(len(ids) % 3) for i, ids in enumerate(completion_ids)]

# -- scenarios ------------------------------------------------------------------------------------------

def backend(): return os.environ["TESTED_BACKEND"]

def spread():
    "Accelerate takes up FSDP on GPUs only; here it is told by hand, and torch does the rest over gloo"
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    Accelerator(cpu=True)
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin()

def sharded():
    "Accelerate starts DeepSpeed on GPUs only; here it is told of gloo by hand, and DeepSpeed does the rest"
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)

def arguments(kind, out, **more):
    "Arguments that all scenarios share"
    if backend() == "deepspeed": sharded()
    args = kind(output_dir=str(out), report_to="none", use_cpu=backend() != "deepspeed", bf16=False,
                learning_rate=1e-1, lr_scheduler_type="constant", disable_tqdm=True, save_strategy="no",
                gradient_checkpointing=False, logging_steps=1, max_grad_norm=1e9, optim="sgd", **more)
    if backend() == "fsdp": spread()
    return args

def trained(home, out, shared, beta=0.0):
    "Weights after two steps of step-level training"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig
    from ftrl.training.trainer import StepTrainer
    args = arguments(GRPOConfig, out, per_device_train_batch_size=4, num_generations=2, max_steps=2,
                     max_completion_length=8, beta=beta)
    prompts = ["one", "another one", "a third", "and a fourth prompt"] * 2
    model = AutoModelForCausalLM.from_pretrained(home/"model", dtype="float32")
    made = StepTrainer(model, reward_funcs=reward, args=args, shared=shared, rollout_func=rollout,
                       processing_class=AutoTokenizer.from_pretrained(home/"model", padding_side="left"),
                       train_dataset=Dataset.from_dict({"prompt": prompts}))
    made.train()
    made.save_model(str(out))
    return made

def imitated(home, out, shared):
    "Weights after a cold start whose last batch is odd: five examples, two processes, two a batch"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig
    from ftrl.training.gold_trainer import GoldTrainer
    examples = []
    for i in range(5):
        ids = [5 + i % 2, 6, 7, 8, *range(20 + i, 24 + 2 * i)]
        examples.append({"input_ids": ids, "labels": [-100] * 4 + ids[4:]})
    args = arguments(SFTConfig, out, per_device_train_batch_size=2, num_train_epochs=1, max_length=None,
                     train_sampling_strategy="sequential")
    made = GoldTrainer(AutoModelForCausalLM.from_pretrained(home/"model", dtype="float32"), args=args,
                       shared=shared, train_dataset=Dataset.from_list(examples),
                       processing_class=AutoTokenizer.from_pretrained(home/"model"))
    made.train()
    made.save_model(str(out))
    return made

def compared(home, out, make, **how):
    "Train with the shared prefix and without"
    made = [make(home, out/str(shared), shared, **how) for shared in (False, True)]
    losses = [[x["loss"] for x in m.state.log_history if "loss" in x] for m in made]
    if os.environ["RANK"] == "0":
        (out/"losses.json").write_text(json.dumps(losses))

def whole_run(home, out, killed=None, at=3):
    "The package's own `train`; the process `killed` dies at a step"
    from ftrl.rows import load_rows
    from ftrl.training.train import TrainConfig, train
    from ftrl.training.trainer import StepTrainer
    def step(self, *args, **kwargs):
        if os.environ["RANK"] == str(killed) and self.state.global_step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return known(self, *args, **kwargs)
    known, StepTrainer.training_step = StepTrainer.training_step, step
    options = {"save_steps": 2, "bf16": False, "warmup_steps": 0, **taken_up()}
    config = TrainConfig(steps=5, prompts=2, group=4, length=6, lr=1e-3, options=options)
    train(load_rows(home/"rows.jsonl"), str(home/"model"), out, config)

def taken_up():
    "Have accelerate take up the backend when the package makes its arguments; options that it needs"
    from trl import GRPOConfig
    made = GRPOConfig.__post_init__
    def make(self):
        made(self)
        if backend() == "fsdp": spread()
    GRPOConfig.__post_init__ = make
    if backend() != "deepspeed": return {}
    sharded()
    return {"use_cpu": False}

SCENARIOS = {
    "train": lambda home, out: compared(home, out, trained),
    "kl": lambda home, out: compared(home, out, trained, beta=0.05),
    "cold": lambda home, out: compared(home, out, imitated),
    "run": whole_run,
    "first killed": lambda home, out: whole_run(home, out, killed=0),
    "second killed": lambda home, out: whole_run(home, out, killed=1),
}

# -- the server -----------------------------------------------------------------------------------------

def environment(backend, rank, port):
    "What `accelerate launch` tells a process, from the profiles of this package, two processes on the CPU"
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env
    told = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TESTED_BACKEND": backend}
    if backend == "gloo":
        return told | {"ACCELERATE_USE_CPU": "true"}
    profile = Path(__file__).parents[1]/f"ftrl/training/launch/{backend}.yaml"
    words = ["--config_file", str(profile), "--num_processes", "2", "--mixed_precision", "no",
             "--main_process_port", str(port), "x.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    prepare = prepare_multi_gpu_env if backend == "fsdp" else prepare_deepspeed_env
    return prepare(args) | told | ({"DS_ACCELERATOR": "cpu"} if backend == "deepspeed" else {})

def prepare_deepspeed_env(args):
    from accelerate.utils.launch import prepare_deepspeed_cmd_env
    args.deepspeed_fields_from_accelerate_config = ""
    return prepare_deepspeed_cmd_env(args)[1]

def child(scenario, rank, port):
    "One of two processes; never returns"
    out = Path(scenario["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(f"{out}.log{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 1
    try:
        os.environ |= environment(scenario["backend"], rank, port)
        SCENARIOS[scenario["name"]](Path(scenario["home"]), out)
        code = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

def both(scenario, limit=150):
    "Fork two processes and wait; the exit codes, negative for a signal"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pids = []
    for rank in (0, 1):
        pid = os.fork()
        if not pid: child(scenario, rank, port)
        pids.append(pid)
    codes, begun = {}, time.time()
    while len(codes) < 2:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid: codes[pid] = os.waitstatus_to_exitcode(status)
        failed = any(codes.values())
        if failed or time.time() - begun > limit:  # a launcher ends the others, too
            for other in set(pids) - set(codes): os.kill(other, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]

if __name__ == "__main__":
    print(json.dumps(both(json.loads(sys.argv[1]))))
