"""AntiBERTy, an encoder of antibody sequences, as an ONNX file; sequences for it; and how well a result keeps it.

BERT of 8 layers of width 512, 26 million weights (Ruffolo et al. 2021), trained to fill in masked residues, inside the
wheel of `antiberty` 0.1.3 (MIT licence). It stands for encoders of MiniLM's class, of which no registry package carries
trained weights. Sequences are variable regions put together as in B cells: a germline V gene of man or mouse (from the
wheel of `riot-na`), random residues, a J gene, and some mutations; splits share no V gene.

    python -m models.antiberty                                  prints the path of the file
    python -m models.antiberty calibration 32 data.npz          writes what `qonnx convert --data` reads
"""

from __future__ import annotations

import functools
import pathlib
import sys

import numpy as np
import onnx_ir as ir

from models import bert, real, scores, torch_file
from qonnx import runtime
from qonnx.errors import QonnxError

_FOLDER = "antiberty/trained_models/AntiBERTy_md_smooth"
WEIGHTS = real.Real(
    "antiberty",
    "0.1.3",
    f"{_FOLDER}/pytorch_model.bin",
    "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
    "input_ids",
    "AntiBERTy: BERT of 8 layers of width 512 on residues of antibodies",
)
SHAPE = bert.Shape(layers=8, heads=8, epsilon=1e-12)
LENGTH = 128  # residues and both ends, padding included

_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
_PAD, _START, _END, _MASK, _FIRST = 0, 2, 3, 4, 5  # of the vocabulary, the residues last
_MASKED, _MUTATED = 0.15, 0.05  # shares of residues
SPLITS = ("calibration", "tuning", "evaluation")
_TURN = ("evaluation", "calibration", "tuning", "calibration")  # of the V genes by name

_BUILT_FOR = ("3.11", "manylinux_2_17_x86_64")
_DIGESTS = {
    "v_genes/human": "05084e4850deb134148235e423f82b6e1f96ec351708ee6ed21b800ef759efa0",
    "v_genes/mouse": "19924b8c987f6da9c73da0f800371067b9997225bd71e4bbd9489a0c54203346",
    "j_genes/human/igh": "22bb82febd9cd40e9396a66184f7efde5e6491112f995d9b367136060da76bd9",
    "j_genes/human/igk": "b22dd9f399f121badab06711f8be1f6336396b96c98fda37e07c7a5e6113e21b",
}
_NAMES = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "o",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
}
_HEAD = {
    "bert.embeddings.word_embeddings.weight": "tokens",
    "bert.embeddings.position_embeddings.weight": "positions",
    "bert.embeddings.token_type_embeddings.weight": "types",
    "bert.embeddings.LayerNorm.weight": "norm.gain",
    "bert.embeddings.LayerNorm.bias": "norm.bias",
    "cls.predictions.transform.dense.weight": "head",
    "cls.predictions.transform.dense.bias": "head.bias",
    "cls.predictions.transform.LayerNorm.weight": "head.norm.gain",
    "cls.predictions.transform.LayerNorm.bias": "head.norm.bias",
    "cls.predictions.bias": "scores.bias",
}


def path() -> pathlib.Path:
    """The float model in the cache, built if it is not there."""
    return real.built("antiberty", _save)


def _save(file: pathlib.Path) -> None:
    ir.save(bert.build(named(torch_file.arrays(real.fetched(WEIGHTS))), SHAPE), file)


def named(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays as models/bert.py names and turns them; those of other heads are left out."""
    found = {_HEAD[name]: array for name, array in arrays.items() if name in _HEAD}
    found["head"] = found["head"].T
    for name, array in arrays.items():
        if name.startswith("bert.encoder.layer."):
            layer, rest = name.removeprefix("bert.encoder.layer.").split(".", 1)
            part, kind = rest.rsplit(".", 1)
            ours = f"{layer}.{_NAMES[part]}"
            if kind == "bias":
                found[f"{ours}.bias"] = array
            else:
                found[f"{ours}.gain" if array.ndim == 1 else ours] = array.T
    return found


def sequences(split: str, count: int) -> list[str]:
    """`count` variable regions, each from a V gene of its own as far as there are enough. Raises QonnxError for an
    unknown split."""
    if split not in SPLITS:
        raise QonnxError(f"there is no split '{split}' of the sequences; choose one of {', '.join(SPLITS)}")
    generator = np.random.default_rng(SPLITS.index(split))
    genes = [g for i, g in enumerate(_genes("v_genes/human") + _genes("v_genes/mouse")) if _TURN[i % 4] == split]
    heavy, light = _genes("j_genes/human/igh"), _genes("j_genes/human/igk")
    made = []
    for index in generator.permutation(np.resize(np.arange(len(genes)), max(count, len(genes))))[:count]:
        kind, residues = genes[index]
        ends = heavy if kind == "IGH" else light
        between = generator.choice(list(_RESIDUES), generator.integers(4, 13) if kind == "IGH" else 1)
        whole = list(residues + "".join(between) + ends[generator.integers(len(ends))][1])
        for place in np.flatnonzero(generator.random(len(whole)) < _MUTATED):
            whole[place] = str(generator.choice(list(_RESIDUES)))
        made.append("".join(whole)[: LENGTH - 2])
    return made


@functools.cache
def _genes(name: str) -> tuple[tuple[str, str], ...]:
    """(locus, residues) of each gene of a FASTA file of riot-na, in the order of its names."""
    member = f"riot_na/databases/gene_db/aa_genes/{name}.fasta"
    file = real.fetched(real.Real("riot-na", "5.2.0", member, _DIGESTS[name], "", "germline genes", _BUILT_FOR))
    records = (block.split("\n", 1) for block in file.read_text().split(">")[1:])
    found = sorted((head.split()[0], head.split()[1], "".join(rest.split())) for head, rest in records)
    return tuple((locus, residues) for _, locus, residues in found if set(residues) <= set(_RESIDUES))


def feeds(lines: list[str], masked: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Padded ids and mask [sequences, LENGTH], int64; a share of the residues masked."""
    ids = np.full((len(lines), LENGTH), _PAD, np.int64)
    for row, line in zip(ids, lines, strict=True):
        row[: len(line) + 2] = [_START, *(_FIRST + _RESIDUES.index(r) for r in line), _END]
    hidden = (np.random.default_rng(seed).random(ids.shape) < masked) & (ids >= _FIRST)
    return {"input_ids": np.where(hidden, _MASK, ids), "attention_mask": (ids != _PAD).astype(np.int64)}


def samples(split: str, count: int) -> dict[str, np.ndarray]:
    """Calibration or tuning feeds: sequences with masked residues, as in training."""
    return feeds(sequences(split, count), _MASKED)


def evaluate(result, *, count: int = 200, optimization: str = "all", threads: int = 2) -> dict[str, float]:
    """Embeddings of whole sequences, and the likeliest residue at masked places, beside the float model's."""
    lines = sequences("evaluation", count)
    whole, gaps = feeds(lines), feeds(lines, _MASKED)
    float_session = runtime.session(path(), threads=threads)
    session = runtime.session(result, optimization=optimization, threads=threads)
    kept, asked = whole["attention_mask"] == 1, gaps["input_ids"] == _MASK
    expected, found = (_run(one, whole, "embeddings")[kept] for one in (float_session, session))
    likeliest, best = (_run(one, gaps, "logits")[asked].argmax(-1) for one in (float_session, session))
    truth = whole["input_ids"][asked]
    return {
        "embedding_sqnr_db": scores.sqnr(expected, found),
        "embedding_cosine": float(np.mean([scores.cosine(a, b) for a, b in zip(expected, found, strict=True)])),
        "same_residue": float((likeliest == best).mean()),
        "true_residue": float((best == truth).mean()),
        "float_true_residue": float((likeliest == truth).mean()),
    }


def _run(session, given: dict[str, np.ndarray], output: str) -> np.ndarray:
    """One output over all sequences, a few at a time."""
    parts = range(0, len(given["input_ids"]), 8)
    return np.concatenate([session.run([output], {n: a[i : i + 8] for n, a in given.items()})[0] for i in parts])


def main(arguments: list[str]) -> int:
    if arguments and len(arguments) != 3:
        print("usage: python -m models.antiberty [SPLIT COUNT FILE.npz]")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        if arguments:
            np.savez(arguments[2], **samples(arguments[0], int(arguments[1])))
        else:
            print(path())
    except QonnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
