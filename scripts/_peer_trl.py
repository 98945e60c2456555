"""TRL in bench_peers.py, run by the python of TRL's environment.

Arguments: name, model folder, case, groups, iterations; or name, model folder, case, "frozen", folder of the results.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from _peers import CASES, FIRST, GROUP, Case, Clock, frozen, reward, text
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

TEMPLATE = (
    "{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Ends(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.end()


class Trainer(GRPOTrainer):
    """Notes the lengths of its rows."""

    lengths: list[int] = []  # noqa: RUF012

    def _generate(self, prompts: list[Any]) -> Any:
        made = super()._generate(prompts)
        self.lengths = [len(prompt) + len(completion) for prompt, completion in zip(made[0], made[1], strict=True)]
        return made


class CompletionsOnly(Trainer):
    """Log-probs of completion tokens alone, from hidden states, as TRL's fused kernel computes them on a GPU."""

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **_: Any,
    ) -> Any:
        size = batch_size or len(input_ids)
        values, entropies = [], []
        causal_lm = self.accelerator.unwrap_model(model).get_base_model()
        for start in range(0, len(input_ids), size):
            ids, mask = input_ids[start : start + size], attention_mask[start : start + size]
            hidden = causal_lm.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = causal_lm.lm_head(hidden[:, -logits_to_keep - 1 : -1]).float() / self.temperature
            logp = logits.log_softmax(-1)
            values.append(logp.gather(-1, ids[:, -logits_to_keep:, None]).squeeze(-1))
            if compute_entropy:
                with torch.no_grad():
                    entropies.append(-(logp.exp() * logp).sum(-1))
        return torch.cat(values), torch.cat(entropies) if entropies else None, None


#: tokens that the template puts around a group's prompt, and around an observation
OPENING, BETWEEN = 3, 4
#: tokens of the answer to an action
ANSWER = [FIRST]


def act(action: str) -> str:
    """Take one action.

    Args:
        action: what to do.
    """
    return text(len(action), ANSWER[0])


def parsed(tokenizer: Any, ids: list[int], **_: Any) -> dict[str, Any]:
    """Every reply calls the tool."""
    content = tokenizer.decode(ids)
    call = {"type": "function", "function": {"name": "act", "arguments": {"action": content}}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def trainer_of(name: str, model: str, case: Case, groups: int, steps: int, output: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, {}
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.float32)
    ANSWER[0] = max(FIRST, case.observation - BETWEEN)
    count = groups * steps
    prompts = [[{"role": "user", "content": text(number, case.prompt - OPENING)}] for number in range(count)]
    grpo_trainer.parse_response = parsed
    config = GRPOConfig(
        output_dir=output,
        per_device_train_batch_size=GROUP,
        gradient_accumulation_steps=groups,
        num_generations=GROUP,
        max_completion_length=case.tokens - case.prompt,
        max_tool_calling_iterations=case.turns - 1,
        generation_kwargs={"max_new_tokens": case.reply, "min_new_tokens": case.reply},
        max_steps=steps,
        learning_rate=1e-5,
        beta=0.01,
        use_bias_correction_kl=False,  # it changes the gradient of the KL, not its value
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    kind = CompletionsOnly if name == "trl_best" else Trainer
    return kind(
        net,
        lambda completions, **_: [reward(str(completion)) for completion in completions],
        config,
        Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        tools=[act] if case.turns > 1 else None,
    )


def compare(name: str, model: str, case: Case, folder: Path) -> None:
    """Loss and gradient of a frozen group, by TRL's own loss, with the weights that ours has written."""
    group, first = frozen(case), case.prompt
    with tempfile.TemporaryDirectory() as output:
        trainer = trainer_of(name, model, case, 1, 1, output)
    trainer.model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = torch.tensor(group.rows)
    replies = torch.zeros_like(rows)
    replies[:, group.positions] = 1
    inputs = {
        "prompt_ids": rows[:, :first],
        "prompt_mask": torch.ones_like(rows[:, :first]),
        "completion_ids": rows[:, first:],
        "completion_mask": torch.ones_like(rows[:, first:]),
        "tool_mask": replies[:, first:],
        "advantages": torch.tensor(group.advantages),
        "num_items_in_batch": replies.sum(),
    }
    with torch.no_grad(), trainer.model.disable_adapter():
        inputs["ref_per_token_logps"], *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, rows, torch.ones_like(rows), rows.shape[1] - first
        )
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = {key: weight.grad for key, weight in trainer.model.named_parameters() if weight.requires_grad}
    torch.save({"loss": loss.detach(), "gradients": gradients}, folder / f"{name}.pt")


def train(name: str, model: str, case: Case, groups: int, iterations: int, clock: Clock) -> list[int]:
    """Train for some iterations → tokens of the rows of the last one."""
    with tempfile.TemporaryDirectory() as output:
        trainer = trainer_of(name, model, case, groups, iterations, output)
        trainer.add_callback(Ends(clock))
        trainer._generate = clock.timed("rollout", trainer._generate)
        trainer._generate_and_score_completions = clock.timed("score", trainer._generate_and_score_completions)
        clock.start()
        trainer.train()
        return list(trainer.lengths)


def main() -> None:
    name, model, case_name, groups, last = sys.argv[1:]
    case = CASES[case_name]
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    if groups == "frozen":
        return compare(name, model, case, Path(last))
    clock = Clock()
    train(name, model, case, 1, 1, Clock())  # warms up
    tokens = train(name, model, case, int(groups), int(last), clock)
    print(json.dumps(clock.report(sum(tokens) / len(tokens))))
    return None


if __name__ == "__main__":
    main()
