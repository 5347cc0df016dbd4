"""The tokenizer files of a Hugging Face folder."""

import json
from pathlib import Path
from typing import NamedTuple

from data.fast_tokenizer import from_fast, to_fast
from data.tokenizer import END_OF_TEXT, Tokenizer

TOKENIZER_FILE = "tokenizer.json"
PAD, TURN, END_OF_TURN = "<|pad|>", "<|im_start|>", "<|im_end|>"  # the names that DBRX has for them
CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    f"{{{{- '{TURN}' + message['role'] + '\\n' + message['content'] + '{END_OF_TURN}' + '\\n' -}}}}\n"
    "{%- endfor -%}\n"
    f"{{%- if add_generation_prompt -%}}{{{{- '{TURN}assistant\\n' -}}}}{{%- endif -%}}\n"
)


class SpecialIds(NamedTuple):
    """What a generator needs to know."""

    end_of_text: int
    pad: int
    end_of_turn: int | None  # None: the chat template spells its marks in ordinary tokens


def write_tokenizer(folder: Path, tokenizer: Tokenizer, vocab_size: int, max_seq_len: int) -> SpecialIds:
    """Writes a fast tokenizer with the ids of `tokenizer`, its special tokens, and a chat template.

    Padding and the template's two marks become tokens of their own, with the next ids, where the model's `vocab_size`
    has room for them: cl100k_base in DBRX's 100,352 gives the published ids. Otherwise end-of-text is the padding, and
    the marks are text.

    Raises:
        DataError: the encoding can't be expressed.
    """
    added = _added(tokenizer, vocab_size)
    specials = {**tokenizer.special_tokens, **added}
    to_fast(tokenizer, added).save(str(folder / TOKENIZER_FILE))
    pad = PAD if PAD in specials else END_OF_TEXT
    named = {END_OF_TEXT, pad}
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": pad,
        "additional_special_tokens": [token for token in specials if token not in named],
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # a batch of prompts is continued at its right
        "model_max_length": max_seq_len,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return SpecialIds(tokenizer.end_of_text, specials[pad], specials.get(END_OF_TURN))


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, None if it has no tokenizer.json.

    Raises:
        DataError: it is damaged, or can't be expressed as a tiktoken encoding.
    """
    path = folder / TOKENIZER_FILE
    return from_fast(path) if path.exists() else None


def _added(tokenizer: Tokenizer, vocab_size: int) -> dict[str, int]:
    missing = [token for token in (PAD, TURN, END_OF_TURN) if token not in tokenizer.special_tokens]
    ids = range(tokenizer.vocab_size, tokenizer.vocab_size + len(missing))
    return dict(zip(missing, ids, strict=True)) if ids.stop <= vocab_size else {}
