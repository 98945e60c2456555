"""Make the tiny default policy: tokenizer, weights and chat template → sdar_pl/assets/tiny-household.

It learns by imitation, from generated games only, in three kinds of episodes:

- with the right skills in the system message: what the expert does (also from positions that a novice has made);
- without skills: what the novice does, who errs in the procedures with known probabilities;
- with skills for another kind of task: what the novice does too, so that it is the *content* that helps.

So it knows the language, is imperfect without skills on purpose, and is a real teacher when it reads them.
Prints its own run time. Run: python scripts/train_tiny_policy.py [--steps 2400] [--out sdar_pl/assets/tiny-household]
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _common import run_script
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sdar_pl.batch import Row, rows_of
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.expert import Expert, Novice
from sdar_pl.environments.household.game import KINDS
from sdar_pl.prompts import Prompter
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.skills.providers import SkillContext
from sdar_pl.types import Episode, Task, Turn

TURNS = 12
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
TAGS = ["<action>", "</action>", "<think>", "</think>"]


def make_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be written, the household's words are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(TAGS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = TEMPLATE
    return fast


def corpus(games: int) -> Iterator[str]:
    """Text that the policy will meet."""
    for folder in ("household",):
        for skill in SkillLibrary.builtin(folder).skills:
            yield from [skill.text] * 20
    for size in ("tiny", "small"):
        household = Household(size=size)
        tasks = household.tasks("train")
        for n in range(games):
            episode = imitate(household, tasks[n], random.Random(n), expert_from=0)
            yield household.opening(tasks[n], episode.first)
            for turn in episode.turns:
                yield f"<action>{turn.action}</action>"
                yield household.reply(turn.observation)


def imitate(household: Household, task: Task, rng: random.Random, expert_from: int) -> Episode:
    """A scripted episode: the novice plays up to turn ``expert_from``, the expert from there on."""
    session = household.session(task)
    first = observation = session.reset()
    expert, novice = Expert(task.text, rng), Novice(task.text, rng)
    episode = Episode(task, 0, 0, first)
    for number in range(TURNS):
        wise, naive = expert.act(observation), novice.act(observation)
        action = wise if number >= expert_from else naive
        observation = session.step(action)
        episode.turns.append(Turn([], [], [], f"<action>{action}</action>", action, True, observation))
        if observation.done:
            break
    return episode


class Imitation(IterableDataset[list[tuple[list[int], list[float]]]]):
    """Batches of (tokens, loss weights), made on the fly and never repeated."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, steps: int, seed: int) -> None:
        self.tokenizer, self.size, self.steps, self.seed = tokenizer, size, steps, seed

    def __iter__(self) -> Iterator[list[tuple[list[int], list[float]]]]:
        rng = random.Random(self.seed)
        prompter = Prompter(max_prompt_tokens=100_000)
        prompter.bind(self.tokenizer)
        skills = SkillContext("household")
        games = {name: Household(size=name) for name in ("tiny", "small")}
        splits = {name: game.tasks("train") for name, game in games.items()}
        for step in range(self.steps):
            # Curriculum: short games first; the last third is the mix that the quickstart plays.
            share_small = 0.0 if step < self.steps // 3 else 0.1
            yield [self._example(rng, prompter, skills, games, splits, share_small) for _ in range(self.size)]

    def _example(self, rng, prompter, skills, games, splits, share_small):  # type: ignore[no-untyped-def]
        name = "small" if rng.random() < share_small else "tiny"
        household, tasks = games[name], splits[name]
        task = tasks[rng.randrange(len(tasks))]
        kind = rng.random()
        if kind < 0.45:
            expert_from = 0 if rng.random() < 0.5 else rng.randint(1, 6)
            context = skills.provide(task)
        else:
            expert_from = TURNS
            other = rng.choice([k for k in KINDS if k != task.kind])
            context = "" if kind < 0.88 else skills.provide(Task("", other, ""))
        episode = imitate(household, task, rng, expert_from)
        episode.student_context = context
        row = self._row(household, episode, prompter)
        # What the novice did before the expert took over is context, not an example.
        weights = [0.3] * len(row.tokens)
        for position, turn in zip(row.positions, row.turns, strict=True):
            weights[position] = 1.0 if expert_from == TURNS or turn >= expert_from else 0.0
        return row.tokens, weights

    def _row(self, household: Household, episode: Episode, prompter: Prompter) -> Row:
        turns, episode.turns = episode.turns, []
        for turn in turns:
            turn.prompt, _ = prompter.prompts(household, episode)
            turn.response = [*self.tokenizer.encode(turn.text), self.tokenizer.eos_token_id]
            turn.logprobs = [0.0] * len(turn.response)
            episode.turns.append(turn)
        return rows_of(episode, 0, "conversation")[0]


def main() -> None:
    parser = PlainParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=1536)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("sdar_pl/assets/tiny-household"))
    args = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    tokenizer = make_tokenizer(corpus(1500), args.vocabulary)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=4 * args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 32,
        num_key_value_heads=args.hidden // 64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    # Muon for the matrices (copying appears in about half the steps that AdamW needs), AdamW for the rest.
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        return min((step + 1) / 100, 0.02 + 0.98 * (1 - step / args.steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    data = DataLoader(Imitation(tokenizer, args.batch, args.steps, args.seed), batch_size=None, num_workers=1)
    history = []
    for step, examples in enumerate(data):
        # Two halves by length: less padding.
        examples.sort(key=lambda example: len(example[0]))
        half = len(examples) // 2
        total = sum(sum(weights) for _, weights in examples)
        acted = sum(weights.count(1.0) for _, weights in examples)
        loss_on_responses = 0.0
        for part in (examples[:half], examples[half:]):
            width = max(len(tokens) for tokens, _ in part)
            ids = torch.tensor([tokens + [tokenizer.pad_token_id] * (width - len(tokens)) for tokens, _ in part])
            weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in part])[:, 1:]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            ((losses * weights).sum() / total).backward()
            loss_on_responses += (losses.detach() * (weights == 1)).sum().item() / acted
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        history.append(loss_on_responses)
        if (step + 1) % args.report == 0:
            recent = sum(history[-args.report :]) / args.report
            print(f"step {step + 1}: loss on responses {recent:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            save(model, tokenizer, args.out)
    minutes = (time.perf_counter() - began) / 60
    (args.out / "training.json").write_text(
        json.dumps({"arguments": {k: str(v) for k, v in vars(args).items()}, "minutes": round(minutes, 1)}, indent=1)
    )
    print(f"done in {minutes:.1f} minutes → {args.out}")


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in bfloat16, tokenizer and template."""
    dtype = model.dtype
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=state)
    model.config.dtype = dtype
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    run_script(main)
