"""How well the tiny policy plays without skills, with the right ones and with those of another kind of task.

Run: python scripts/eval_tiny_policy.py [--model tiny-household] [--games 192]
"""

from __future__ import annotations

from _common import run_script

from sdar_pl.engines import Sampling, TransformersEngine
from sdar_pl.environments.household import Household
from sdar_pl.environments.household.game import KINDS
from sdar_pl.policy import Policy
from sdar_pl.prompts import Prompter
from sdar_pl.rollout import EpisodeSlot, PlayRules, play
from sdar_pl.runtime.messages import PlainParser
from sdar_pl.skills.providers import SkillContext
from sdar_pl.types import Task


def main() -> None:
    parser = PlainParser(description=__doc__)
    parser.add_argument("--model", default="tiny-household")
    parser.add_argument("--games", type=int, default=192)
    args = parser.parse_args()
    policy = Policy(args.model)
    policy.build()
    household, skills, prompter = Household(size="tiny", validation_tasks=args.games), SkillContext(), Prompter()
    prompter.bind(policy.tokenizer)
    engine = TransformersEngine()
    print(f"{args.model} on {args.games} validation games of size tiny, at most 12 turns")
    for temperature in (0.4, 1.0):
        for name in ("no skills", "right skills", "skills of another kind"):
            engine.sync(policy)
            slots = [EpisodeSlot(task, n, 0, n, (n,)) for n, task in enumerate(household.tasks("validation"))]
            for slot in slots:
                other = KINDS[(KINDS.index(slot.task.kind) + 2) % len(KINDS)]
                task = slot.task if name == "right skills" else Task("", other, "")
                slot.student_context = "" if name == "no skills" else skills.provide(task)
            sampling = Sampling(temperature=temperature, max_new_tokens=24)
            with policy.whole():
                episodes = play(household, slots, engine, prompter, sampling, PlayRules(max_turns=12))
            share = sum(episode.success for episode in episodes) / len(episodes)
            print(f"temperature {temperature:g}, {name:22}  success {share:6.1%}", flush=True)


if __name__ == "__main__":
    run_script(main)
