"""Make a tiny policy: tokenizer, weights and chat template → sdar_pl/assets/tiny-household, -webshop or -search-qa.

It learns by imitating an expert, a novice and what skills change (scripts/_imitation.py), in generated worlds that the
benchmarks do not use (scripts/_recipes.py). The run time is written beside the weights.
Run: python scripts/train_tiny_policy.py household [--steps 2400] [--out sdar_pl/assets/tiny-household]
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from _common import run_script
from _imitation import Imitation, backward, make_model, make_tokenizer, save
from _recipes import RECIPES
from torch.utils.data import DataLoader
from transformers import Qwen2ForCausalLM

from sdar_pl.modeling.sources import load_tokenizer
from sdar_pl.runtime.messages import PlainParser


def main() -> None:
    parser = PlainParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", choices=list(RECIPES))
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--easy", type=int, help="first steps with easy episodes; default: the recipe's")
    parser.add_argument("--start", type=Path, help="a tiny policy to go on from, with its tokenizer; default: none")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: sdar_pl/assets/tiny-ENVIRONMENT")
    args = parser.parse_args()
    args.out = args.out or Path("sdar_pl/assets") / f"tiny-{args.environment.replace('_', '-')}"
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)

    recipe = RECIPES[args.environment]()
    args.steps = recipe.steps = args.steps or recipe.steps
    args.easy = recipe.easy = recipe.easy if args.easy is None else args.easy
    tokenizer = load_tokenizer(str(args.start)) if args.start else make_tokenizer(recipe)
    if args.start:
        model = Qwen2ForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    else:
        model = make_model(tokenizer, args.hidden, args.layers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}", flush=True)
    # Muon for the matrices (copying appears in about half the steps that AdamW needs), AdamW for the rest.
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        return min((step + 1) / recipe.warmup, 0.02 + 0.98 * (1 - step / recipe.steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    data = DataLoader(Imitation(recipe, tokenizer, args.batch, args.seed), batch_size=None, num_workers=1)
    history = list[float]()
    for step, examples in enumerate(data):
        history.append(backward(model, examples, tokenizer.pad_token_id))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if (step + 1) % args.report == 0:
            recent = sum(history[-args.report :]) / args.report
            print(f"step {step + 1}: loss on responses {recent:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            save(model, tokenizer, args.out)
    minutes = round((time.perf_counter() - began) / 60, 1)
    facts = {"arguments": {name: str(value) for name, value in vars(args).items()}, "minutes": minutes}
    (args.out / "training.json").write_text(json.dumps(facts, indent=1))
    print(f"done in {minutes} minutes → {args.out}")


if __name__ == "__main__":
    run_script(main)
