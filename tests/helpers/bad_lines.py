"""Wrong command lines and files, and the words that their error must hold. tests/test_bad_input.py runs them.

``QUICKSTART`` stands for the quickstart's configuration. The files are those of ``BAD_FILES``; ``folder`` is an empty
folder, ``dangling.yaml`` a link to nothing, ``pipe.yaml`` a named pipe.
"""

from __future__ import annotations

#: files of the working folder
BAD_FILES = {
    "broken_module.py": b"1 / 0\n",
    "empty.yaml": b"",
    "comment.yaml": b"# nothing\n",
    "text.yaml": b"just a text\n",
    "list.yaml": b"[1, 2]\n",
    "number.yaml": b"5: 1\n",
    "latin.yaml": "run: caf\u00e9\n".encode("latin-1"),
    "utf16.yaml": "run: x\n".encode("utf-16"),
    "binary.yaml": bytes(range(256)),
    "nul.yaml": b"run: \x00\n",
    "unclosed.yaml": b"data: {group_size: [\n",
    "tabs.yaml": b"data:\n\tgroup_size: 8\n",
    "twice.yaml": b"data: {group_size: 8, group_size: 4}\n",
    "twice_apart.yaml": b"data:\n  group_size: 8\nmodel: {}\n'data':\n  group_size: 4\n",
    "deep.yaml": b"data: " + b"[" * 100_000 + b"]" * 100_000 + b"\n",
    "deep_keys.yaml": b"".join(b" " * n + b"a:\n" for n in range(200)),
    "itself.yaml": b"data: &a {group_size: *a}\n",
    "bomb.yaml": b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (n + 1, n + 1, b", ".join([b"*%c" % n] * 9)) for n in range(97, 106)),
    "unknown_alias.yaml": b"data: *nowhere\n",
    "tag.yaml": b"data: !!python/object/apply:os.system [true]\n",
    "two.yaml": b"run: a\n---\nrun: b\n",
    "large.yaml": b"# " + b"x" * 11_000_000 + b"\n",
    "foreign.ckpt": b"PK\x03\x04 not a checkpoint",
}

_FIT = "fit --config QUICKSTART --config"
_CHECK = "check-env sdar_pl.environments.household.Household"
#: whole command lines
LINES: list[tuple[str, ...]] = [
    ("", "no command; name one of fit, validate, test, predict, warmup, plan, play, compare"),
    ("fitt", "'fitt': no such command; did you mean fit?"),
    ("train --config QUICKSTART", "'train': no such command; name one of"),
    ("--config QUICKSTART", "subcommand"),
    *((name, "model.policy", "missing; give them in a file")
      for name in ("fit", "validate", "test", "predict", "plan", "play")),
    ("compare", "compare: ", "--config", "--objectives"),
    ("export", "export: ", "--ckpt_path"),
    ("check-env", "check-env: ", "environment"),
    (f"{_FIT} nowhere.yaml", "--config nowhere.yaml: No such file"),
    (f"{_FIT} dangling.yaml", "--config dangling.yaml: No such file"),
    (f"{_FIT} folder", "--config folder: not a regular file"),
    (f"{_FIT} pipe.yaml", "--config pipe.yaml: not a regular file"),
    (f"{_FIT} /dev/zero", "--config /dev/zero: not a regular file"),
    (f"{_FIT} {'x' * 300}.yaml", "File name too long"),
    *((f"{_FIT} {name}.yaml", f"--config {name}.yaml: holds no keys") for name in ("empty", "comment", "text", "list")),
    (f"{_FIT} number.yaml", "number.yaml: the key 5 is not a text"),
    *((f"{_FIT} {name}.yaml", f"--config {name}.yaml: ", "utf-8") for name in ("latin", "utf16", "binary")),
    *((f"{_FIT} {name}.yaml", f"--config {name}.yaml: not valid YAML")
      for name in ("nul", "unclosed", "tabs", "unknown_alias", "tag", "two")),
    (f"{_FIT} twice.yaml", "twice.yaml: not valid YAML: the key 'group_size' stands twice", "line 1"),
    (f"{_FIT} twice_apart.yaml", "the key 'data' stands twice, the second time in line 4"),
    *((f"{_FIT} {name}.yaml", f"{name}.yaml: not valid YAML: nested more than 50 levels")
      for name in ("deep", "deep_keys")),
    (f"{_FIT} itself.yaml", "itself.yaml: not valid YAML: the alias *a in line 1 refers to what it stands in"),
    (f"{_FIT} bomb.yaml", "bomb.yaml: not valid YAML: more than 100,000 values"),
    (f"{_FIT} large.yaml", "large.yaml: larger than 10 MiB"),
    ("plan --config nowhere.yaml", "--config nowhere.yaml: No such file"),
    ("plan --config QUICKSTART --data.grup_size 3", "--data.grup_size", "did you mean --data.group_size?"),
    ("plan --config QUICKSTART --data.engine.max_rows -1", "data.engine.max_rows: -1; must be ≥ 1"),
    ("plan --config QUICKSTART --data.sampling.max_new_tokens 0", "data.sampling.max_new_tokens: 0; must be ≥ 1"),
    ("plan --config QUICKSTART --data.prompter.max_prompt_tokens 0", "data.prompter.max_prompt_tokens: 0; must be ≥ 1"),
    ("plan --config QUICKSTART --data.micro_batch_tokens 0", "data.micro_batch_tokens: 0; must be ≥ 1"),
    ("plan --config QUICKSTART --model.policy.lora.r 0", "model.policy.lora.r: 0; must be ≥ 1"),
    ("plan --config QUICKSTART --model.optimizer.lr -1", "model.optimizer.lr: Invalid learning rate"),
    ("plan --config QUICKSTART --model.policy.model ./no-model", "model.policy.model: no folder './no-model'"),
    ("plan --config QUICKSTART --trainer.devices many", "trainer.devices"),
    ("play --config nowhere.yaml", "--config nowhere.yaml: No such file"),
    ("play --config QUICKSTART --tusk 3", "--tusk: no such option; did you mean --task?"),
    ("play --config QUICKSTART --task 96", "--task: 96; must be ≥ 0 and ≤ 95"),
    ("play --config QUICKSTART --task -1 --human", "--task: -1; must be ≥ 0 and ≤ 95"),
    ("play --config QUICKSTART --task many", "task: must be an integer or null; got many"),
    ("play --config QUICKSTART --kind pick_cold", "--kind: 'pick_cold'; must be one of pick_and_place_simple, "),
    ("play --config QUICKSTART --kind look_at_obj_in_light --task 16", "--task: 16; must be ≥ 0 and ≤ 15"),
    ("play --config QUICKSTART --data.validation_split nowhere", "data.validation_split: Household has no split"),
    ("play --config QUICKSTART --data.context NoContext --data.environment.size tiny --skills --human", "--skills: "),
    ("play --config QUICKSTART --ckpt_path nowhere.ckpt", "ckpt_path: nowhere.ckpt: there is no such file"),
    ("play --config QUICKSTART --ckpt_path best", "ckpt_path: no earlier run 'quickstart' with a checkpoint"),
    ("play --config QUICKSTART --ckpt_path foreign.ckpt --human", "--human: you play, and no checkpoint"),
    ("compare --config nowhere.yaml --objectives grpo", "--config nowhere.yaml: No such file"),
    ("compare --config twice.yaml --objectives grpo", "--config twice.yaml: not valid YAML"),
    ("compare --config QUICKSTART --objectives grop", "--objectives: no 'grop'"),
    ("compare --config QUICKSTART --objectives grpo --seeds 0", "--seeds: 0; must be ≥ 1"),
    ("compare --config QUICKSTART --objectives grpo --seeds many", "--seeds", "many"),
    ("compare --config QUICKSTART --objectives grpo --budget -1", "--budget: -1; must be ≥ 1"),
    ("compare --config QUICKSTART --objectives sdar(beta=-1", "--objectives", "no ) at the end"),
    ("compare --config QUICKSTART --objectives grpo --seeds 1 --out empty.yaml", "--out: "),
    ("compare --config QUICKSTART --objectives twice.yaml", "--objectives twice.yaml: not valid YAML"),
    ("export --ckpt_path nowhere.ckpt --out new", "--ckpt_path: nowhere.ckpt: there is no such file"),
    ("export --ckpt_path foreign.ckpt --out new", "--ckpt_path: foreign.ckpt: it is cut off, or not a checkpoint"),
    ("export --ckpt_path empty.yaml --out new", "--ckpt_path: empty.yaml: it is empty"),
    ("export --ckpt_path folder --out new", "--ckpt_path: folder: "),
    ("check-env nowhere.Maze", "nowhere.Maze: no module 'nowhere'"),
    ("check-env Maze", "Maze: not a class"),
    ("check-env sdar_pl.types.Task", "sdar_pl.types.Task: not a subclass of Environment"),
    ("check-env broken_module.Maze", "importing broken_module raised ZeroDivisionError"),
    (f"{_CHECK} --episodes 0", "--episodes: 0; must be ≥ 1"),
    (f"{_CHECK} --init size", "--init: 'size'; write key=value"),
    (f"{_CHECK} --init siz=tiny", "--init: Household(…) raised TypeError"),
    (f"{_CHECK} --split nowhere", "has no split 'nowhere'"),
    ("validate --config QUICKSTART --ckpt_path nowhere.ckpt", "ckpt_path: nowhere.ckpt: there is no such file"),
    ("predict --config QUICKSTART --ckpt_path foreign.ckpt", "ckpt_path: foreign.ckpt: it is cut off"),
]  # fmt: skip

#: scripts with options that they refuse
SCRIPTS: list[tuple[str, ...]] = [
    ("gap_over_training.py", "folder"),
    ("gap_over_training.py nowhere", "nowhere"),
    ("panel_figures.py nowhere", "nowhere"),
    ("bench_gpu.py --shape 9b", "9b"),
    ("bench_rollout.py --groups many", "many"),
    ("bench_memory.py --way back", "back"),
    ("bench_alfworld.py --root nowhere", "nowhere"),
    ("eval_tiny_policy.py --model ./nowhere", "./nowhere"),
    ("measure_gate_variance.py --ckpt_path nowhere.ckpt", "nowhere.ckpt"),
    ("methods_table.py --nonsense", "--nonsense"),
    ("tiny_start.py household --hidden many", "many"),
]
