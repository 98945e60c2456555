"""Make the start of a tiny policy: a tokenizer of its environment's words, a chat template and random weights.

Then it learns by a warm-up: python -m sdar_pl warmup --config configs/warmup/household.yaml
Run: python scripts/tiny_start.py household [--out runs/tiny-start/household]
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from _common import run_script
from tiny_worlds import Games, shop
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sdar_pl.environments.base import Environment
from sdar_pl.environments.search_qa import SearchQA
from sdar_pl.environments.search_qa.fiction import names
from sdar_pl.environments.webshop.synthetic import catalogue
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.skills.library import SkillLibrary
from sdar_pl.types import Task

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
ACTION = ["<action>", "</action>", "<think>", "</think>"]
SEARCH = [f"<{end}{tag}>" for tag in ("search", "answer", "information", "think") for end in ("", "/")]


def texts(world: Environment, task: Task, rng: random.Random, turns: int, responses: bool = True) -> Iterator[str]:
    """What stands in an expert's episode: the opening, and each response, if wanted, with the reply to it."""
    session = world.session(task)
    observation = session.reset()
    expert, novice = world.players(task, rng)
    yield world.opening(task, observation)
    for _ in range(turns):
        action, _ = expert.act(observation), novice.act(observation)
        observation = session.step(action)
        if responses:
            yield world.response(action)
        yield world.reply(observation)
        if observation.done:
            return


def household() -> Iterator[str]:
    for skill in SkillLibrary.builtin("household").skills:
        yield from [skill.text] * 20
    for game in Games().games.values():
        for n in range(1500):
            yield from texts(game, game.tasks("train")[n], random.Random(n), 12)


def webshop() -> Iterator[str]:
    for skill in SkillLibrary.builtin("synthetic_shop").skills:
        yield from [f"{skill.name}: {skill.text}"] * 500
    yield from [f" {made.record['asin']}" for made in catalogue() for _ in range(100)]
    for seed in (1, 2, 3):
        for task in shop(seed).tasks("train")[:1200]:
            yield from texts(shop(seed), task, random.Random(task.id), 8)


def search_qa() -> Iterator[str]:
    """All wording, and syllables instead of names, so that every name has the same few tokens, whatever its world. A
    digit before a syllable keeps it apart from the word before it."""
    for skill in SkillLibrary.builtin("fiction"):
        yield from [f"{skill.name}: {skill.text}"] * 30
    yield from ["Useful skills for this task:"] * 30
    starts = [*names._FIRST, *names._GIVEN, *names._ADJECTIVES, *names._NOUNS]
    ends = [end for kind in names._LAST.values() for end in kind]
    for _ in range(200):
        yield f" {' '.join(starts)}"
        yield "1".join(["", *ends])
        yield f" {' '.join(map(str, range(10, 100)))}"
        yield f" {' '.join([*names.TRADES, *names.PRODUCTS, *names.FISH])} unknown yes no"
    world = SearchQA(seed=1000, topk=2)
    for task in world.tasks("train")[:600]:
        for text in texts(world, task, random.Random(1), 4, responses=False):
            yield re.sub(r"(?<!^)(?<!The )(?<!\. )\b[A-Z]\w+", "", text)


@dataclass(frozen=True)
class Words:
    """What a tokenizer is made of.

    Args:
        corpus: texts that the policy will meet.
        vocabulary: tokens in all.
        tokens: texts that are one token each.
        words: regular expression of what the tokenizer never cuts at first; "": GPT-2's words.
    """

    corpus: Callable[[], Iterator[str]]
    vocabulary: int
    tokens: Sequence[str]
    words: str = ""


WORDS = {
    "household": Words(household, 1536, ACTION),
    # A product's code, "x-large" and the separator of a page are words, so that the policy copies them as one token.
    "webshop": Words(
        webshop, 2816, ACTION, r" ?\[SEP\]| ?[\p{L}\p{N}]+(?:-\p{L}+)*| ?[^\s\p{L}\p{N}]+|\s+"
    ),
    "search_qa": Words(search_qa, 1600, SEARCH),
}  # fmt: skip


def make_tokenizer(made_of: Words) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be written, and the environment's words are one token each."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not made_of.words)
    split = [pre_tokenizers.Split(Regex(made_of.words), "isolated")] if made_of.words else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, words]) if split else words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=made_of.vocabulary - len(SPECIAL) - len(made_of.tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(made_of.corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in made_of.tokens])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 4) -> Qwen2ForCausalLM:
    """A Qwen2 of random weights in bfloat16."""
    config = Qwen2Config(
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
    return Qwen2ForCausalLM(config).to(torch.bfloat16)


def main() -> None:
    parser = PlainParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", choices=list(WORDS))
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: runs/tiny-start/ENVIRONMENT")
    args = parser.parse_args()
    out = args.out or Path("runs/tiny-start") / args.environment
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(WORDS[args.environment])
    model = make_model(tokenizer, args.hidden, args.layers)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)} → {out}")


if __name__ == "__main__":
    run_script(main)
