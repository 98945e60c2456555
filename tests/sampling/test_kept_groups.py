"""Dropped groups that are kept for the distillation: their numbers, the loss's parts, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.losses import example, rows_of, with_totals
from helpers.ranks import on_ranks
from helpers.runs import ROOT, fit_here, same
from test_dynamic_sampling import Script, names

from sdar_pl import objectives as O
from sdar_pl.batch import Batch, Row, collate, micro_batches
from sdar_pl.cli import main
from sdar_pl.sampling.dynamic_sampling import roll_out
from sdar_pl.sampling.kept_groups import set_apart
from sdar_pl.sampling.tasks import optimizer_steps

ROUNDS = ({0: [1, 0], 2: [1, 1], 4: [0, 0]}, {2: [0, 1], 4: [0, 0]}, {4: [0.5, 0.5]})


def test_a_dropped_group_and_its_refill_are_two_groups() -> None:
    plain, kept = roll_out(Script(*ROUNDS), [0, 2, 4], 2), roll_out(Script(*ROUNDS), [0, 2, 4], 2, keep_of=6)
    count = len(plain.episodes)
    assert kept.episodes[:count] == plain.episodes, "what the policy loss learns from is the same, in the same order"
    groups = [(e.group, e.task.id) for e in kept.episodes[count:]]
    assert groups == [(8, "0/2")] * 2 + [(10, "0/4")] * 2 + [(16, "1/4")] * 2 + [(22, "2/4")] * 2
    assert sorted(names(plain.dropped)) == sorted(names(kept.episodes[count:]))
    assert (kept.dropped, kept.dropped_groups, kept.refills) == ([], plain.dropped_groups, plain.refills)


def test_where_nothing_is_dropped_nothing_changes() -> None:
    script = {0: [1.0, 0.0], 1: [0.0, 1.0]}
    assert roll_out(Script(script), [0, 1], 2, keep_of=2) == roll_out(Script(script), [0, 1], 2)
    batches = packed([row(0, 3), row(1, 2)])
    assert all(mine is theirs for mine, theirs in zip(set_apart(batches, 1, 2), batches, strict=True))


def test_a_kept_group_is_in_the_step_of_the_group_in_its_place() -> None:
    alone, steps = optimizer_steps(6, 3, 2, seed=1), optimizer_steps(6, 3, 2, seed=1, rounds=3)
    assert steps == {group + 6 * round_: step for group, step in alone.items() for round_ in range(4)}


# ---------------------------------------------------------------------- the loss


def row(group: int, tokens: int) -> Row:
    return Row(0, group, [1] * (tokens + 1), list(range(1, tokens + 1)), [0] * tokens, [-0.5] * tokens)


def packed(rows: list[Row]) -> list[Batch]:
    """A micro-batch for each row, in one step."""
    steps = optimizer_steps(2, 0, 1, seed=0, rounds=2)
    return micro_batches(rows, step_of=steps, steps=1, budget=4, pad=0, with_teacher=False, shared=False)[0]


def test_totals_are_those_of_all_ranks() -> None:
    def work(rows: list[Row]) -> list[tuple[object, ...]]:
        batches = packed(rows)
        apart = set_apart(batches, len(batches), 2)
        return [(b.total_tokens, b.learning_tokens, b.total_rows, b.learning_rows, b.learns.tolist()) for b in apart]

    # Rank 1 has nothing that is kept; its second micro-batch is blank.
    first, second = on_ranks([lambda: work([row(0, 3), row(2, 2)]), lambda: work([row(1, 2)])])
    assert sorted(first) == [(3.5, 2.5, 1.5, 1.0, [0.0]), (3.5, 2.5, 1.5, 1.0, [1.0])]
    assert second == [(3.5, 2.5, 1.5, 1.0, [1.0])] * 2


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_all_but_the_distillation_is_that_of_the_other_rows(aggregation: O.Aggregation) -> None:
    """And the distillation is that of all rows. Both hold for the losses of micro-batches, summed."""
    objective = O.Objective(
        distillation=O.Distillation(coefficient=0.5),
        reference_coefficient=0.1,
        entropy_coefficient=0.2,
        aggregation=aggregation,
    )
    everything = with_totals(example())
    learning = with_totals(rows_of(everything, slice(0, 4)))
    kept = replace(
        everything,
        learns=torch.tensor([1.0, 1, 1, 1, 0, 0]),
        learning_tokens=learning.total_tokens,
        learning_rows=learning.total_rows,
    )
    parts = [objective(rows_of(kept, part)) for part in (slice(0, 3), slice(3, 5), slice(5, 6))]
    terms = {name: torch.stack([part.terms[name] for part in parts]).sum() for name in parts[0].terms}
    mine, whole = objective(learning).terms, objective(everything).terms
    for name in ("loss/policy", "loss/reference_kl", "loss/entropy"):
        torch.testing.assert_close(terms[name], mine[name])
        assert not torch.isclose(terms[name], whole[name]), name
    torch.testing.assert_close(terms["loss/distill"], whole["loss/distill"])
    total = terms["loss/policy"] + 0.1 * terms["loss/reference_kl"] - 0.2 * terms["loss/entropy"]
    torch.testing.assert_close(terms["loss/total"], total + 0.5 * terms["loss/distill"])


def test_a_kept_row_alone_moves_the_policy_by_its_distillation() -> None:
    inputs = replace(with_totals(example()), learns=torch.zeros(6), learning_tokens=1.0, learning_rows=1.0)
    outputs = O.Objective(distillation=O.Distillation(coefficient=0.5), reference_coefficient=0.1)(inputs)
    assert outputs.terms["loss/policy"] == outputs.terms["loss/reference_kl"] == 0
    torch.testing.assert_close(outputs.loss, 0.5 * outputs.terms["loss/distill"])


def test_batches_carry_what_is_kept_to_the_objective() -> None:
    (batch,) = set_apart([replace(collate([row(0, 3), row(5, 2)]), total_tokens=5.0, total_rows=2.0)], 1, 2)
    inputs = batch.loss_inputs(torch.zeros(2, 3), iteration=0).learning
    assert inputs.mask.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert (inputs.total_tokens, inputs.total_rows) == (3, 1)


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "data.keep_for_distillation: no group is dropped; set data.max_refills"),
        (["--model.objective", "GRPO", "--data.max_refills", "1"], "the objective has no distillation"),
    ],
)
def test_nothing_to_keep(options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--data.keep_for_distillation", "true"]
    assert main([*arguments, *options, "--trainer.default_root_dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_without_weight_it_is_dynamic_sampling_bit_for_bit(tmp_path: Path) -> None:
    coefficient = "--model.objective.init_args.coefficient"
    options = ["--data.max_refills", "2", coefficient, "0", "--trainer.max_epochs", "1"]
    plain = fit_here(tmp_path / "plain", *options)
    same(fit_here(tmp_path / "kept", *options, "--data.keep_for_distillation", "true"), plain)
