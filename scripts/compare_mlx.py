"""Writes the default model as a folder that `mlx_lm` opens, in f32 or as the 4-bit groups that the file holds.

Runs inside the environment that scripts/compare makes for mlx_lm. The f32 folder is the one of scripts/goldens. In the
4-bit one nothing is quantised anew: MLX's reader unpacks Q4_1 to 4-bit and Q8_0 to 8-bit groups of 32, and their scales
become f32, because half precision is emulated on x86 and thirty times slower there.
"""

import argparse
import json
import pathlib

import goldens
import mlx.core as mx

GROUP = 32


def quantised(gguf):
    """Tensors under Hugging Face's names, and the bits of each quantised module."""
    raw, meta = mx.load(str(gguf), format="gguf", return_metadata=True)
    heads = {".attn_q.": meta["llama.attention.head_count"].item(), ".attn_k.": meta["llama.attention.head_count_kv"].item()}
    weights, bits = {}, {}
    for name, value in raw.items():
        stem, _, kind = name.rpartition(".")
        if kind not in ("weight", "scales", "biases"):
            continue
        module = goldens.hugging_face_name(stem)
        if kind == "scales":
            bits[module] = raw[f"{stem}.weight"].shape[-1] * 32 // (value.shape[-1] * GROUP)
        value = value if value.dtype == mx.uint32 else value.astype(mx.float32)
        for part, count in heads.items():
            # Rows are permuted, groups lie within rows: weights, scales and biases go the same way.
            value = goldens.unpermute(value, count) if part in name else value
        weights[f"{module}.{kind}"] = mx.contiguous(value)
    return weights, bits


def main():
    parser = argparse.ArgumentParser(description="Write the default model as an MLX folder.")
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--f32", action="store_true")
    kind.add_argument("--4bit", dest="four", action="store_true")
    given = parser.parse_args()
    goldens.write_folder(given.gguf, given.out)
    if given.four:
        weights, bits = quantised(given.gguf)
        mx.save_safetensors(str(given.out / "model.safetensors"), weights, metadata={"format": "mlx"})
        config = json.loads((given.out / "config.json").read_text())
        config["quantization"] = {"group_size": GROUP, "bits": 4}
        config["quantization"].update({module: {"group_size": GROUP, "bits": n} for module, n in bits.items() if n != 4})
        (given.out / "config.json").write_text(json.dumps(config))


main()
