"""ms-swift in bench_peers.py, run by the python of its environment: its GRPO trainer, engine and multi-turn loop.

Arguments: name, model folder, case, groups, iterations; or name, model folder, case, "frozen", folder of the results.

``swift_sdar`` has its own SDAR (``sdar_loss_coef``). Its ``teacher_prompt`` takes the place of the last user message:
of the task in one turn, of the last observation in several.
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
from _peers import CASES, CONTEXT, FIRST, GROUP, Case, Clock, frozen, reward, text
from swift import rlhf_main
from swift.rewards import ORM, orms
from swift.rl_core.data import GRPOBatch
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
#: largest distance of the teacher's log-probs from the student's, in nats, turn by turn
GAPS: list[float] = []


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
        if self.sdar_loss_coef > 0:
            GAPS[:] = [max(one) for one in zip(*map(gaps, found), strict=True)]
        return found

    def full(self: Any, *args: Any, generation_config: Any = None, **options: Any) -> Any:
        generation_config.min_new_tokens = CASE[0].reply
        return generate(self, *args, generation_config=generation_config, **options)

    GRPOTrainer.__init__, GRPOTrainer._rollout_samples = started, rolled_out
    GRPOTrainer._generate_and_score_completions, GRPOTrainer._prepare_batch_inputs = scored, encoded
    GenerationMixin.generate = full


def gaps(prepared: dict[str, Any]) -> list[float]:
    """``GAPS`` of one micro-batch."""
    batch, turns = prepared["grpo_batch"], CASE[0].turns
    apart = (batch.teacher_per_token_logps - batch.old_per_token_logps).abs()
    shown = torch.stack([row[mask.bool()] for row, mask in zip(apart, batch.completion_mask, strict=True)])
    return [float(part.max()) for part in shown.chunk(turns, dim=1)]


def run(name: str, model: str, case: Case, groups: int, iterations: int) -> None:
    """Its own command, in this process."""
    CASE[:] = [case]
    with tempfile.TemporaryDirectory() as output:
        prompts = [text(number, case.prompt - OPENING) for number in range(groups * iterations)]
        lines: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
        if name == "swift_sdar":
            for line, prompt in zip(lines, prompts, strict=True):
                last = prompt if case.turns == 1 else text(0, max(FIRST, case.observation - BETWEEN))
                line["teacher_prompt"] = f"{text(-1, CONTEXT)} {last}"
        (Path(output) / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
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
            "lora_dropout": 0,
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
        if name == "swift_sdar":
            options["sdar_loss_coef"] = 0.01
        if case.turns > 1:
            options |= {"multi_turn_scheduler": "answers", "max_turns": case.turns}
        rlhf_main([word for name, value in options.items() for word in (f"--{name}", str(value))])


def compare(trainer: Any, case: Case, folder: Path) -> None:
    """Loss and gradient of a frozen group, by its own loss, with the weights that ours has written."""
    group, first = frozen(case), case.prompt
    trainer.model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    trainer.model.train()
    rows = torch.tensor(group.rows)
    replies = torch.zeros_like(rows)
    replies[:, group.positions] = 1
    batch = GRPOBatch(
        replies[:, first:], torch.zeros(len(rows), dtype=torch.bool), torch.tensor([rows.shape[1]] * GROUP)
    )
    batch.logits_to_keep = rows.shape[1] - first
    batch.advantages = torch.tensor(group.advantages)[:, None]

    def inputs() -> dict[str, Any]:
        return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    with torch.no_grad(), trainer.null_ref_context():
        batch.ref_per_token_logps, _ = trainer._get_per_token_logps_and_entropies(trainer.model, inputs(), batch)
    loss = trainer.compute_loss(trainer.model, {"model_inputs": inputs(), "grpo_batch": batch})
    loss.backward()
    gradients = {key: weight.grad for key, weight in trainer.model.named_parameters() if weight.requires_grad}
    torch.save({"loss": loss.detach(), "gradients": gradients}, folder / "swift.pt")


def main() -> None:
    name, model, case_name, groups, last = sys.argv[1:]
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
    with tempfile.TemporaryDirectory() as folder:  # the model with weights, which ms-swift reads from a file
        written = shutil.copytree(model, f"{folder}/model")
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).save_pretrained(written)
        if groups == "frozen":
            GRPOTrainer.train = lambda trainer, *_: compare(trainer, case, Path(last))
            return run(name, written, case, 1, 1)
        clocked()
        for number, iterations in ((1, 1), (int(groups), int(last))):  # the first warms up
            CLOCK[:] = [Clock()]
            run(name, written, case, number, iterations)
    print(json.dumps({**CLOCK[0].report(sum(TOKENS) / len(TOKENS)), "gaps": GAPS}))
    return None


if __name__ == "__main__":
    main()
