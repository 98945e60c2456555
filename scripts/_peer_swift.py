"""ms-swift in bench_peers.py, run by the python of its environment: its GRPO trainer, engine and multi-turn loop.

Arguments: name, model folder, case, groups, iterations.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from _peers import CASES, FIRST, GROUP, Case, Clock, reward, text
from swift import rlhf_main
from swift.rewards import ORM, orms
from swift.rlhf_trainers import GRPOTrainer
from swift.rollout import MultiTurnScheduler, multi_turns
from swift.template import TemplateMeta, register_template
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, TrainerCallback

#: tokens that the template puts around a group's prompt, and around an observation
OPENING, BETWEEN = 3, 4
#: of the run under way
CLOCK: list[Clock] = []
CASE: list[Case] = []
TOKENS: list[int] = []


class Letters(ORM):  # type: ignore[misc]
    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [reward(completion) for completion in completions]


class Answers(MultiTurnScheduler):  # type: ignore[misc]
    """Every reply is answered, up to the last turn."""

    def check_finished(self, infer_request: Any, response_choice: Any, current_turn: int) -> bool:
        return current_turn >= CASE[0].turns

    def step(self, infer_request: Any, response_choice: Any, current_turn: int) -> dict[str, Any]:
        reply = response_choice.message.content
        observation = text(len(reply), max(FIRST, CASE[0].observation - BETWEEN))
        infer_request.messages.append({"role": "user", "content": observation})
        return {"infer_request": infer_request}


class Ends(TrainerCallback):
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        CLOCK[0].start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        CLOCK[0].end()


def clocked() -> None:
    """Let the trainer's methods tell the clock their seconds, and every reply have its full length."""
    made, roll, whole = GRPOTrainer.__init__, GRPOTrainer._rollout_samples, GRPOTrainer._generate_and_score_completions
    encode, generate = GRPOTrainer._prepare_batch_inputs, GenerationMixin.generate

    def started(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.add_callback(Ends())

    def rolled_out(self: Any, *args: Any, **options: Any) -> Any:
        return CLOCK[0].timed("rollout", roll)(self, *args, **options)

    def scored(self: Any, *args: Any, **options: Any) -> Any:
        return CLOCK[0].timed("score", whole)(self, *args, **options)

    def encoded(self: Any, *args: Any, **options: Any) -> Any:
        found = encode(self, *args, **options)
        TOKENS[:] = [int(n) for one in found for n in one["model_inputs"]["attention_mask"].sum(-1)]
        trained = {int(n) for one in found for n in one["grpo_batch"].completion_mask.sum(-1)}
        assert trained == {CASE[0].turns * CASE[0].reply + CASE[0].turns - 1}, trained  # with what ends a turn
        return found

    def full(self: Any, *args: Any, generation_config: Any = None, **options: Any) -> Any:
        generation_config.min_new_tokens = CASE[0].reply
        return generate(self, *args, generation_config=generation_config, **options)

    GRPOTrainer.__init__, GRPOTrainer._rollout_samples = started, rolled_out
    GRPOTrainer._generate_and_score_completions, GRPOTrainer._prepare_batch_inputs = scored, encoded
    GenerationMixin.generate = full


def train(model: str, case: Case, groups: int, iterations: int, clock: Clock) -> None:
    CLOCK[:], CASE[:] = [clock], [case]
    with tempfile.TemporaryDirectory() as output:
        prompts = [text(number, case.prompt - OPENING) for number in range(groups * iterations)]
        lines = [json.dumps({"messages": [{"role": "user", "content": prompt}]}) for prompt in prompts]
        (Path(output) / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        options = {
            "rlhf_type": "grpo",
            "model": model,
            "model_type": "qwen2",
            "template": "bench",
            "dataset": f"{output}/prompts.jsonl",
            "reward_funcs": "letters",
            "num_generations": GROUP,
            "per_device_train_batch_size": GROUP,
            "gradient_accumulation_steps": groups,
            "max_completion_length": case.reply,
            "max_length": 4096,
            "max_steps": iterations,
            "learning_rate": 1e-5,
            "beta": 0.01,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "torch_dtype": "float32",
            "bf16": "false",
            "fp16": "false",
            "use_cpu": "true",
            "tuner_type": "lora",
            "lora_rank": 16,
            "lora_alpha": 32,
            "target_modules": "all-linear",
            "gradient_checkpointing": "false",
            "use_vllm": "false",
            "attn_impl": "sdpa",
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1000,
            "split_dataset_ratio": 0,
            "dataset_num_proc": 1,
            "dataloader_num_workers": 0,
            "output_dir": output,
        }
        if case.turns > 1:
            options |= {"multi_turn_scheduler": "answers", "max_turns": case.turns}
        rlhf_main([word for name, value in options.items() for word in (f"--{name}", str(value))])


def main() -> None:
    _, model, case_name, groups, iterations = sys.argv[1:]
    case = CASES[case_name]
    warnings.simplefilter("ignore")
    orms["letters"], multi_turns["answers"] = Letters, Answers
    register_template(
        TemplateMeta(
            "bench",
            prefix=[],
            prompt=["<|user|>{{QUERY}}<|end|><|assistant|>"],
            chat_sep=["<|end|>"],
            suffix=["<|end|>"],
        )
    )
    torch.manual_seed(0)
    clocked()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:  # the model with weights, which ms-swift reads from a file
        written = shutil.copytree(model, f"{folder}/model")
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).save_pretrained(written)
        train(written, case, 1, 1, Clock())  # warms up
        train(written, case, int(groups), int(iterations), clock)
    print(json.dumps(clock.report(sum(TOKENS) / len(TOKENS))))


if __name__ == "__main__":
    main()
