"""Imitation learning of a tiny policy: from a recipe to a tokenizer, examples and weights.

Three kinds of episodes, so that the policy knows the language, is imperfect without skills on purpose, and is a real
teacher when it reads them:

- with the right skills in the system message: what the expert does (also from positions that a novice has made);
- without skills: what the novice does, who errs in the procedure with known probabilities;
- with skills for another kind of task: what the novice does too, so that it is the *content* that helps.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sdar_pl.batch import rows_of
from sdar_pl.environments.base import Environment
from sdar_pl.prompts import Prompter
from sdar_pl.skills.providers import SkillContext
from sdar_pl.types import Episode, Observation, Task, Turn

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
#: tokens and loss weights of a row
Example = tuple[list[int], list[float]]


class Player(Protocol):
    """A scripted player of one task."""

    def act(self, observation: Observation) -> str:
        """The next action."""


@dataclass(kw_only=True)
class Recipe(ABC):
    """What differs between the tiny policies.

    Args:
        library: of the skills.
        tokens: texts that are one token each.
        vocabulary: tokens in all.
        words: regular expression of what the tokenizer never cuts at first; "": GPT-2's words.
        turns: most turns of an episode.
        expert, novice: make a player from a task's text and a random generator.
        take_over: the latest turn in which an expert takes over from a novice; 0: experts play from the start.
        skilled, plain: shares of episodes with the right skills and without skills.
        easy: number of first steps of twice as many easy episodes, by the expert without skills.
        steps, warmup: optimizer steps in all, and until the learning rate is reached.
    """

    library: str
    tokens: Sequence[str]
    vocabulary: int
    turns: int
    expert: Callable[[str, random.Random], Player]
    novice: Callable[[str, random.Random], Player]
    kinds: Sequence[str]
    words: str = ""
    take_over: int = 0
    skilled: float = 0.5
    plain: float = 0.4
    easy: int = 0
    steps: int = 2400
    warmup: int = 50

    @abstractmethod
    def corpus(self) -> Iterator[str]:
        """Texts that the policy will meet, for the tokenizer."""

    @abstractmethod
    def pick(self, rng: random.Random, progress: float, easy: bool) -> tuple[Environment, Task]:
        """A world and one of its tasks. ``progress`` is the share of steps made."""

    def written(self, action: str) -> str:
        """The response that holds an action."""
        return f"<action>{action}</action>"

    def play(self, world: Environment, task: Task, rng: random.Random, expert_from: int) -> Episode:
        """A scripted episode: the novice plays up to turn ``expert_from``, the expert from there on."""
        session = world.session(task)
        first = observation = session.reset()
        expert, novice = self.expert(task.text, rng), self.novice(task.text, rng)
        episode = Episode(task, 0, 0, first)
        for number in range(self.turns):
            wise, naive = expert.act(observation), novice.act(observation)
            action = wise if number >= expert_from else naive
            observation = session.step(action)
            episode.turns.append(Turn([], [], [], self.written(action), action, True, observation))
            if observation.done:
                break
        return episode


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be written, and the environment's words are one token each."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not recipe.words)
    split = [pre_tokenizers.Split(Regex(recipe.words), "isolated")] if recipe.words else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, words]) if split else words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary - len(SPECIAL) - len(recipe.tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(recipe.corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in recipe.tokens])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> Qwen2ForCausalLM:
    """A Qwen2 of random weights."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 64,
            max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Imitation(IterableDataset[list[Example]]):
    """Batches of examples, made on the fly and never repeated."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, size: int, seed: int) -> None:
        self.recipe, self.tokenizer, self.size, self.seed = recipe, tokenizer, size, seed

    def __iter__(self) -> Iterator[list[Example]]:
        self.rng = random.Random(self.seed)
        self.prompter = Prompter(max_prompt_tokens=100_000)
        self.prompter.bind(self.tokenizer)
        self.skills = SkillContext(self.recipe.library)
        for step in range(self.recipe.steps):
            easy = step < self.recipe.easy
            size = self.size * (2 if easy else 1)
            yield [self._example(step / self.recipe.steps, easy) for _ in range(size)]

    def _example(self, progress: float, easy: bool) -> Example:
        recipe, rng = self.recipe, self.rng
        world, task = recipe.pick(rng, progress, easy)
        share = rng.random()
        expert_from, context = recipe.turns, ""
        if easy:
            expert_from = 0
        elif share < recipe.skilled:
            late = recipe.take_over and rng.random() >= 0.5
            expert_from, context = rng.randint(1, recipe.take_over) if late else 0, self.skills.provide(task)
        elif share >= recipe.skilled + recipe.plain:
            other = rng.choice([kind for kind in recipe.kinds if kind != task.kind])
            context = self.skills.provide(Task("", other, ""))
        episode = recipe.play(world, task, rng, expert_from)
        episode.student_context = context
        turns, episode.turns = episode.turns, []
        for turn in turns:
            turn.prompt, _ = self.prompter.prompts(world, episode)
            turn.response = [*self.tokenizer.encode(turn.text), self.tokenizer.eos_token_id]
            turn.logprobs = [0.0] * len(turn.response)
            episode.turns.append(turn)
        row = rows_of(episode, 0, "conversation")[0]
        # What the novice did before the expert took over is context, not an example.
        weights = [0.3] * len(row.tokens)
        for position, number in zip(row.positions, row.turns, strict=True):
            weights[position] = 1.0 if expert_from == recipe.turns or number >= expert_from else 0.0
        return row.tokens, weights


def backward(model: Qwen2ForCausalLM, examples: list[Example], pad: int) -> float:
    """Gradients of one step → mean loss on responses. In two halves by length: less padding."""
    examples.sort(key=lambda example: len(example[0]))
    half = len(examples) // 2
    total = sum(sum(weights) for _, weights in examples)
    acted = sum(weights.count(1.0) for _, weights in examples)
    loss = 0.0
    for part in (examples[:half], examples[half:]):
        width = max(len(tokens) for tokens, _ in part)
        ids = torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens, _ in part])
        weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in part])[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        losses = losses.view_as(weights)
        ((losses * weights).sum() / total).backward()
        loss += (losses.detach() * (weights == 1)).sum().item() / acted
    return loss


def save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in bfloat16, tokenizer and template."""
    dtype = model.dtype
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=state)
    model.config.dtype = dtype
    tokenizer.save_pretrained(out)
