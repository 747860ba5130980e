"Recorded episodes through TRL's own GRPOTrainer, and 10,000 environments with tools of their own."
import json
import os

import pytest
from fastcore.basics import patch

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    "A byte tokenizer and a model too small to matter"
    from ftrl.chat.template import prepare
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    tokens = ["<pad>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<|im_end|>")
    tokenizer = prepare(plain)
    config = LlamaConfig(vocab_size=300, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=100_000)
    model = LlamaForCausalLM(config)
    return tokenizer, model, tmp_path_factory.mktemp("trl")


def trainer(parts, given, **classes):
    from trl import GRPOConfig, GRPOTrainer
    tokenizer, model, out = parts
    args = GRPOConfig(output_dir=str(out), num_generations=2, per_device_train_batch_size=2, report_to="none",
                      max_completion_length=60_000, max_tool_calling_iterations=30, use_cpu=True, bf16=False)
    return classes.get("kind", GRPOTrainer)(model, args=args, processing_class=tokenizer, **given)


def test_recorded_episodes_get_the_same_reward(parts, recorded):
    from ftrl.bridges.trl import episode_arguments
    from trl import GRPOTrainer
    tokenizer = parts[0]
    given = episode_arguments(recorded.envs, tokenizer)
    plain, rewards = given["reward_funcs"], []

    def reward(**kwargs):
        rewards.append(plain(**kwargs))
        return rewards[-1]

    class Recorded(GRPOTrainer):
        "Says what was recorded, one call a turn"
        episode = None

    @patch
    def _generate_single_turn(self:Recorded, prompt_ids, *args, **kwargs):
        said = []
        for ids in prompt_ids:
            turn = tokenizer.decode(ids).count("<tool_response>")
            calls = self.episode.calls
            if turn < len(calls):
                name, arguments = calls[turn]
                call = json.dumps({"name": name, "arguments": arguments})
                text = f"<tool_call>\n{call}\n</tool_call>"
            else:
                text = self.episode.answer
            said.append(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id])
        return said, [[0.0] * len(ids) for ids in said]

    t = trainer(parts, given | {"reward_funcs": reward}, kind=Recorded)
    data = given["train_dataset"]
    for i, t.episode in enumerate(recorded.episodes):
        t._generate_and_score_completions([data[i], data[i]])
    expected = [[episode.reward] * 2 for episode in recorded.episodes]
    assert rewards == [pytest.approx(pair) for pair in expected]


def test_ten_thousand_environments_are_read(parts, recorded):
    "Each with its own tools, verbatim in its prompt"
    from dataclasses import replace

    from ftrl.bridges.trl import episode_arguments
    tokenizer = parts[0]
    rows = []
    for i in range(10_000):
        row = recorded.rows[i % len(recorded.rows)]
        tools = [{**t, "function": {**t["function"], "description": f"Number {i}"}} for t in row.toolset]
        rows.append(replace(row, tools=json.dumps(tools)))
    t = trainer(parts, episode_arguments(rows, tokenizer))
    inputs = [t.train_dataset[i] for i in (17, 9_999)]
    t._batch_environments = [x["environment"] for x in inputs]
    ids = t._tokenize_prompts([x["prompt"] for x in inputs])[0]
    for place, tokens in zip((17, 9_999), ids):
        text = tokenizer.decode(tokens)
        assert f"Number {place}" in text and text.count("Number ") == len(rows[place].toolset)
        assert json.dumps(rows[place].toolset[0]["function"]["parameters"], ensure_ascii=False) in text


def test_every_recorded_turn_gets_the_same_reward(parts, recorded):
    "Single turns, from the prompt-ready dataset: a turn for each call, and the answer"
    from ftrl.bridges.trl import step_arguments
    from ftrl.training.reward import score
    tokenizer = parts[0]
    given = step_arguments(recorded.rows, tokenizer)
    turns, places = [], []
    for i, episode in enumerate(recorded.episodes):
        said = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in episode.calls]
        turns += [*(f"<tool_call>\n{call}\n</tool_call>" for call in said), episode.answer]
        places += [given["train_dataset"][i]["row"]] * (len(said) + 1)
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in turns]
    direct = [score(text, recorded.rows[i]).value for text, i in zip(turns, places)]
    assert given["reward_funcs"](ids, places) == pytest.approx(direct) and len(set(direct)) > 3


def test_recorded_episodes_get_the_same_reward_from_a_pushed_folder(recorded, tmp_path):
    "The hub: what `push` wrote and `load_dataset` reads plays to the recorded rewards"
    from ftrl.bridges.hub import hub_rows, push
    from ftrl.bridges.visit import Lobby
    from ftrl.rows import save_rows
    out = push([recorded.path], str(tmp_path/"hub"))
    rows = hub_rows(out, "envs", recorded.rows[0].split)
    assert rows == recorded.rows
    save_rows(rows, tmp_path/"back.jsonl")
    lobby, rewards = Lobby(str(tmp_path/"back.jsonl")), []
    for episode in recorded.episodes:
        visit = lobby.enter(episode.env)
        for name, arguments in episode.calls:
            visit.call(name, arguments)
        visit.end("answer")
        rewards.append(visit.reward())
    assert rewards == pytest.approx([episode.reward for episode in recorded.episodes])
