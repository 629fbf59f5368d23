"""all-MiniLM-L6-v2 in numpy: WordPiece, six layers of BERT, the mean of the tokens, brought to length one.

A batch costs less than its texts one by one, and a text's vector is the same to the last bit whatever shares its
batch. Tokens are rows. Where rows don't depend on each other, those of all texts go through the weights in tiles of
one size, the last filled up with zeros, so that BLAS gets the same shapes for one text as for a hundred: of other
shapes it does the same sums in another order. Where tokens of a text look at each other, texts of the same length are
computed together, so that none is padded.
"""

import itertools
import json
import mmap
import os
import struct
import unicodedata

# More threads gain little on matrices as small as these, and wait for each other by spinning. numpy reads it once.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402

# Texts that are computed at once, at most; it bounds memory.
AT_ONCE_MAX = 64


class WordPiece:
    """Splits text into the token ids of an uncased BERT."""

    WORD_CHARS_MAX = 100

    def __init__(self, vocabulary):
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
        self.ids = {token: number for number, token in enumerate(lines)}
        self.begin, self.end, self.unknown = (self.ids[token] for token in ("[CLS]", "[SEP]", "[UNK]"))

    def __call__(self, text):
        """Returns the ids of a text, without those that begin and end it."""
        return [token for word in _words(_normalized(text)) for token in self._pieces(word)]

    def _pieces(self, word):
        """Takes the longest token that the rest of the word begins with, again and again."""
        if len(word) > self.WORD_CHARS_MAX:
            return [self.unknown]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            found = next(((end, self.ids[prefix + word[start:end]]) for end in ends
                          if prefix + word[start:end] in self.ids), None)
            if found is None:
                return [self.unknown]
            start, token = found
            pieces.append(token)
        return pieces


def _normalized(text):
    """Drops control characters and accents, and sets ideographs apart: each is a word."""
    kept = []
    for char in text:
        if char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Co") and char not in "\t\n\r":
            continue
        if char.isspace():
            kept.append(" ")
        else:
            kept.append(f" {char} " if _is_ideograph(ord(char)) else char)
    decomposed = unicodedata.normalize("NFD", "".join(kept))
    # Each by itself: the whole would end words in another sigma than the vocabulary's.
    return "".join(char.lower() for char in decomposed if unicodedata.category(char) != "Mn")


def _is_ideograph(code):
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
              (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return any(first <= code <= last for first, last in blocks)


def _words(text):
    """Yields what stands between spaces; each punctuation mark is a word of its own."""
    word = ""
    for char in text:
        if char == " " or _is_punctuation(char):
            if word:
                yield word
            word = ""
            if char != " ":
                yield char
        else:
            word += char
    if word:
        yield word


def _is_punctuation(char):
    # BERT counts all ASCII symbols, which Unicode doesn't: $ + < = > ^ ` | ~.
    ascii_symbol = char.isascii() and char.isprintable() and not char.isalnum()
    return ascii_symbol or unicodedata.category(char)[0] == "P"


class MiniLM:
    """The model. `directory` has it in the layout of sentence-transformers. Not for several threads at once."""

    def __init__(self, directory):
        config = json.loads((directory / "config.json").read_text())
        self.tokens_max = json.loads((directory / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.dimensions, self.vocabulary_size = config["hidden_size"], config["vocab_size"]
        self.heads, self.epsilon = config["num_attention_heads"], np.float32(config["layer_norm_eps"])
        self.split = WordPiece(directory / "vocab.txt")
        weights = _tensors(directory / "model.safetensors")
        self.words, self.places, kinds = (
            weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        self.kind = kinds[0]
        self.norm = _norm(weights, "embeddings.LayerNorm")
        self.layers = [_layer(weights, f"encoder.layer.{n}") for n in range(config["num_hidden_layers"])]
        self.tile = _tile(self.layers[0])

    def tokens(self, text):
        """Returns the ids of a text."""
        return self.enclosed(self.split(text))

    def enclosed(self, ids):
        """Returns ids between those that begin and end a text. More than the model reads are cut off."""
        return [self.split.begin, *ids[: self.tokens_max - 2], self.split.end]

    def embed(self, texts):
        """Returns one vector for each list of ids."""
        parts = range(0, len(texts), AT_ONCE_MAX)
        return np.concatenate([self._embed(texts[start : start + AT_ONCE_MAX]) for start in parts])

    def _embed(self, texts):
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        groups = _groups([len(texts[place]) for place in order])
        ids = [token for place in order for token in texts[place]]
        places = [at for place in order for at in range(len(texts[place]))]
        rows = np.zeros((-(-len(ids) // self.tile) * self.tile, self.dimensions), np.float32)
        rows[: len(ids)] = self.words[ids] + self.places[places] + self.kind
        rows = self._normed(rows, self.norm)
        for layer in self.layers:
            rows = self._through(layer, rows, groups)
        means = np.concatenate([rows[part].reshape(count, length, -1).mean(axis=1) for part, count, length in groups])
        vectors = np.empty_like(means)
        vectors[order] = means / np.sqrt((means * means).sum(axis=-1, keepdims=True))
        return vectors

    def _through(self, layer, rows, groups):
        mixed = self._dense(rows, layer["query, key, value"])
        attended = np.zeros_like(rows)
        for part, count, length in groups:
            attended[part] = self._attended(mixed[part].reshape(count, length, 3, self.heads, -1))
        rows = self._normed(rows + self._dense(attended, layer["attended"]), layer["attention norm"])
        inner = self._dense(rows, layer["inner"])
        for start in range(0, len(inner), self.tile):  # so that what it makes on the way stays in the CPU's cache
            inner[start : start + self.tile] = _gelu(inner[start : start + self.tile])
        return self._normed(rows + self._dense(inner, layer["outer"]), layer["norm"])

    def _dense(self, rows, layer):
        matrix, bias = layer
        products = _tilewise(matrix, rows.reshape(-1, self.tile, rows.shape[-1])).reshape(len(rows), -1)
        return np.add(products, bias, order="C")  # the order in memory is one in which sums are done, too

    def _attended(self, mixed):
        query, key, value = mixed.transpose(2, 0, 3, 1, 4)
        scores = query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(query.shape[-1]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        return (scores @ value).swapaxes(1, 2).reshape(-1, self.dimensions)

    def _normed(self, rows, norm):
        scale, shift = norm
        centred = rows - rows.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return centred / np.sqrt(variance + self.epsilon) * scale + shift


def _groups(lengths):
    """Returns the rows of the texts of each length, how many they are, and that length."""
    groups, start = [], 0
    for length, run in itertools.groupby(lengths):
        count = len(list(run))
        groups.append((slice(start, start + count * length), count, length))
        start += count * length
    return groups


def _tilewise(matrix, tiles):
    return (matrix @ tiles.swapaxes(-1, -2)).swapaxes(-1, -2)


def _tile(layer):
    """Returns how many rows BLAS takes at once, here, and gives each the same result wherever it stands among them.

    It computes rows in blocks, and those at the end may be of another size, whose sums are done in another order.
    """
    random = np.random.default_rng(7)
    matrices = [layer[name][0] for name in ("query, key, value", "attended", "inner", "outer")]
    for rows in (32, 16, 8, 4, 2):  # more make single texts slower, and batches hardly faster
        tiles = [np.tile(random.standard_normal((3, 1, m.shape[1]), np.float32), (1, rows, 1)) for m in matrices]
        results = [_tilewise(matrix, tile) for matrix, tile in zip(matrices, tiles)]
        if all((result == result[:, :1]).all() for result in results):
            return rows
    return 1


def _tensors(path):
    """Returns the tensors of a safetensors file, which stay in the file until they are read."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", data)
    header, start = json.loads(data[8 : 8 + length]), 8 + length
    tensors = {}
    for name, tensor in header.items():
        if tensor.get("dtype") == "F32":
            first, end = tensor["data_offsets"]
            flat = np.frombuffer(data, "<f4", (end - first) // 4, start + first)
            tensors[name] = flat.reshape(tensor["shape"])
    return tensors


def _layer(weights, name):
    attention = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    return {
        "query, key, value": _weights(weights, *attention),
        "attended": _weights(weights, f"{name}.attention.output.dense"),
        "attention norm": _norm(weights, f"{name}.attention.output.LayerNorm"),
        "inner": _weights(weights, f"{name}.intermediate.dense"),
        "outer": _weights(weights, f"{name}.output.dense"),
        "norm": _norm(weights, f"{name}.output.LayerNorm"),
    }


def _weights(weights, *names):
    matrices, biases = ([weights[f"{name}.{kind}"] for name in names] for kind in ("weight", "bias"))
    return np.concatenate(matrices), np.concatenate(biases)


def _norm(weights, name):
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _gelu(x):
    """Returns x·Φ(x). numpy has no error function: Abramowitz and Stegun 7.1.26, good to 1.5e-7."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.float32(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(factor)
    error = np.copysign(1 - series * t * np.exp(-z * z), x)
    return x * (1 + error) / 2
