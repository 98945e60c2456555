"""Questions of the seven datasets → one folder with train.parquet and test.parquet, as ``SearchQA`` reads it.

The rows are those of Search-R1's preparation of nq, triviaqa, popqa, hotpotqa, 2wikimultihopqa, musique and bamboogle
(training: nq and hotpotqa), from a folder that was downloaded already or from the hub. Every row is checked; nothing of
it is changed but the columns that are not read, which are left out.

Run: python scripts/prepare_search_qa.py data/search_qa [--source FOLDER_OR_HUB_NAME]
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from _common import run_script

from sdar_pl.environments.search_qa.questions import load
from sdar_pl.errors import UserError
from sdar_pl.runtime.messages import PlainParser

#: the authors' dataset on the hub
HUB = "PeterJinGo/nq_hotpotqa_train"
SPLITS = ("train", "test")
#: the columns that ``SearchQA`` reads
COLUMNS = ("question", "golden_answers", "data_source", "reward_model", "metadata", "extra_info")


def main() -> None:
    parser = PlainParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument(
        "--source", default=HUB, help=f"a folder with train.parquet and test.parquet, or a hub name ({HUB})"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        prepare(fetched(args.source, split), args.out, split)


def fetched(source: str, split: str) -> Path:
    """The file of a split. Raises ``UserError`` where it is neither here nor to be had."""
    if Path(source).expanduser().is_dir():
        path = Path(source).expanduser() / f"{split}.parquet"
        if not path.is_file():
            raise UserError(f"--source {source}: no {path.name}; name a folder with train.parquet and test.parquet")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, f"{split}.parquet", repo_type="dataset"))
    except Exception as error:  # every layer of the hub's client has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--source {source}: no folder, and the hub gives no {split}.parquet ({reason}); download it on a machine "
            "with a network, and name the folder"
        ) from error


def prepare(source: Path, out: Path, split: str) -> None:
    """Write one split, read it back as the environment does, and print its counts."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    partial = out / f".{split}.parquet"
    pyarrow.parquet.write_table(table.select([name for name in COLUMNS if name in table.column_names]), partial)
    partial.replace(out / f"{split}.parquet")
    questions = load(out, split)
    sources, kinds = (Counter(getattr(question, name) for question in questions) for name in ("source", "kind"))
    print(f"{out / split}.parquet: {len(questions):,} questions")
    for counts in (sources, kinds):
        print("   " + ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items())))


if __name__ == "__main__":
    run_script(main)
