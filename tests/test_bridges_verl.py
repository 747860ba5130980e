"verl's own dataset reader, reward loader and agent loop on what `ftrl export --to verl` and its sister write"
import asyncio
import importlib.util
import json

import pytest

pytest.importorskip("verl", reason="the extra `verl` is not installed: make test-bridges")


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    from ftrl.bridges.verl import export
    from ftrl.rows import load_rows
    return export(load_rows(recorded.path), tmp_path_factory.mktemp("verl")/"out")


@pytest.fixture(scope="module")
def tokenizer():
    from ftrl.chat.template import prepare
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    tokens = ["<pad>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<|im_end|>")
    return prepare(plain)


def read(folder, tokenizer, key, tmp_path):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset
    config = OmegaConf.create({"prompt_key": key, "max_prompt_length": 100_000, "cache_dir": str(tmp_path),
                               "filter_overlong_prompts": False, "truncation": "error"})
    return RLHFDataset([str(folder/"rows.parquet")], tokenizer, config)


@pytest.mark.parametrize("key", ["prompt", "messages"])
def test_the_dataset_reader_reads_both_conventions(folder, recorded, tokenizer, key, tmp_path):
    data = read(folder, tokenizer, key, tmp_path)
    assert len(data) == len(recorded.rows)
    for i in (0, 7, 19):
        row = data[i]
        said = "\n".join(m["content"] for m in row["raw_prompt"])
        assert recorded.envs[i].question in said and row["extra_info"]["id"] == recorded.rows[i].id
        if key == "prompt":
            assert all(tool["function"]["name"] in said for tool in recorded.rows[i].toolset)


def test_every_recorded_call_gets_the_same_reward(folder, recorded, tokenizer, tmp_path):
    "A turn for each call, and the answer: as `score` rewards them"
    from ftrl.training.reward import score
    spec = importlib.util.spec_from_file_location("verl_reward", folder/"reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = read(folder, tokenizer, "prompt", tmp_path)
    for i, episode in enumerate(recorded.episodes):
        truth = data[i]["reward_model"]["ground_truth"]
        turns = [json.dumps({"name": name, "arguments": given}) for name, given in episode.calls]
        for text in [*(f"<tool_call>\n{turn}\n</tool_call>" for turn in turns), episode.answer]:
            direct = score(text, recorded.rows[i]).value
            assert module.compute_score("self", text, truth) == pytest.approx(direct)


# -- whole episodes through verl's agent loop ------------------------------------------------------------

def state_envs():
    "An environment of each of two worlds whose tables change"
    from ftrl.environments.build import build
    return list(build(2, ["shop", "bank"], "parallel_single_hop", difficulty=1))


def turns_of(calls, answer):
    "A call a turn, and the answer"
    said = [json.dumps({"name": name, "arguments": given}) for name, given in calls]
    return [*(f"<tool_call>\n{text}\n</tool_call>" for text in said), answer]


class Server:
    "verl's server, as far as an agent loop asks it: says what was recorded"
    def __init__(self, tokenizer, turns):
        self.tokenizer, self.turns, self.requests = tokenizer, list(turns), set()

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_):
        from verl.workers.rollout.replica import TokenOutput
        self.requests.add(request_id)
        text = self.turns.pop(0) + self.tokenizer.eos_token
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed")


def played(folder, tokenizer, sample, turns, length=100_000):
    "A sample through the loop that agent.yaml names, made by hydra as verl's worker makes it"
    import hydra
    from omegaconf import OmegaConf
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase, DictConfigWrap, ToolListWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset
    named, = OmegaConf.load(folder/"agent.yaml")
    rollout = {"prompt_length": 1_000_000, "response_length": length}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})

    async def play():
        loop = hydra.utils.instantiate(
            config=named, trainer_config=DictConfigWrap(config), server_manager=Server(tokenizer, turns),
            tokenizer=tokenizer, processor=None, hf_model_type="qwen2", dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data), tools=ToolListWrap([]))
        assert isinstance(loop, AgentLoopBase)
        return loop, await loop.run({"temperature": 1.0}, **sample)

    return asyncio.run(play())


@pytest.fixture(scope="module")
def episodes(recorded, tmp_path_factory):
    "The folder for verl's agent loop; what is said in each of its rows, and the reward that it gets directly"
    from ftrl.bridges.verl_agent import export_verl_agent
    from ftrl.bridges.visit import recordings
    changing = state_envs()
    rows = [*recorded.rows, *(env.row() for env in changing)]
    folder = export_verl_agent(rows, tmp_path_factory.mktemp("agent")/"out")
    return folder, [*recorded.episodes, *recordings(changing)]


def test_the_agent_loop_gives_every_recorded_episode_its_reward(episodes, tokenizer, tmp_path):
    "Those of worlds that change, too; what the model wrote is learned from, what tools said is not"
    folder, recordings = episodes
    data = read(folder, tokenizer, "prompt", tmp_path)
    assert len(data) == len(recordings) == 22
    for i, recorded in enumerate(recordings):
        turns = turns_of(recorded.calls, recorded.answer)
        loop, out = played(folder, tokenizer, data[i], turns)
        assert out.reward_score == pytest.approx(recorded.reward), recorded
        assert len(out.response_ids) == len(out.response_mask) == len(out.response_logprobs)
        own = [token for token, mine in zip(out.response_ids, out.response_mask) if mine]
        assert tokenizer.decode(own) == "".join(turn + tokenizer.eos_token for turn in turns)
        assert {x for x, mine in zip(out.response_logprobs, out.response_mask) if mine} == {-0.5}
        assert len(loop.server_manager.requests) == 1
        prompt, row = tokenizer.decode(out.prompt_ids), json.loads(data[i]["extra_info"]["row"])
        assert all(tool["function"]["name"] in prompt for tool in json.loads(row["tools"]))


def test_an_episode_that_is_too_long_ends(episodes, tokenizer, tmp_path):
    folder, recordings = episodes
    data = read(folder, tokenizer, "prompt", tmp_path)
    turns = turns_of(recordings[0].calls, recordings[0].answer)
    _, out = played(folder, tokenizer, data[0], turns, length=60)
    assert len(out.response_ids) <= 60 and out.extra_fields["stopped"] == "length"


def test_moments_of_worlds_that_change_are_rewarded_as_here(tokenizer, tmp_path):
    "The tables as the calls before have left them go along"
    from ftrl.bridges.verl import export
    from ftrl.training.collect import collect
    from ftrl.training.reward import score
    from ftrl.files import write_json_lines
    envs = state_envs()
    said = [turns_of([(s.tool, s.arguments) for s in env.subquestions], env.answer) for env in envs]
    lines = [{"id": env.id, "turns": turns} for env, turns in zip(envs, said)]
    write_json_lines(lines, tmp_path/"gold.jsonl")
    rows = collect(f"replay:{tmp_path/'gold.jsonl'}", envs, temperature=0.0)
    out = export(rows, tmp_path/"verl")
    spec = importlib.util.spec_from_file_location("verl_state_reward", out/"reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = read(out, tokenizer, "prompt", tmp_path)
    for i, row in enumerate(rows):
        for turn in {text for turns in said for text in turns}:
            told = data[i]["reward_model"]["ground_truth"]
            assert module.compute_score("self", turn, told) == pytest.approx(score(turn, row).value)
