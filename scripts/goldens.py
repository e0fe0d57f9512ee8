"""Records the reference of row S11: what Python mlx_lm computes for the ten prompts with the default model in f32.

Run it through `scripts/goldens`. It shares no code with the crate: MLX's own GGUF reader loads the file, the 4-bit and
8-bit groups are dequantised in f32 (the same numbers that the crate must come to), and the result is written as an
MLX folder that `mlx_lm.load` opens like any other model.

Format. `OUT/NAME.json`, one file a prompt, NAME as in `prompts.json`:

    name          the prompt's name
    prompt_ids    token ids of the rendered chat template, generation prompt included
    tokens        64 token ids, greedy (argmax, lowest id first on a tie), going on past end-of-text tokens
    text          the tokens decoded up to the first end-of-text token: for people, not for comparison
    steps         64 entries; entry i holds the logits that tokens[i] was chosen from:
                    top   the 8 largest, as [id, logit], largest first
                    min, max   of all logits: the logit range that tolerances are relative to
    samples       for the steps 0 and 63: {"step": i, "logits": [...]}, 256 logits, the k-th at id k * vocabulary // 256

and `OUT/meta.json`: the versions, the SHA-256 of the GGUF file, the dtype and the vocabulary size. Logits carry six
significant digits, 1e-5 of the logit range or better. Step 0 follows one prefill of the whole prompt, later steps a
cached decode of one token each.
"""

import argparse
import hashlib
import importlib.metadata
import json
import pathlib

import mlx.core as mx
import numpy as np
from mlx_lm import load
from mlx_lm.models.cache import make_prompt_cache

TOKENS = 64
TOP = 8
SAMPLE_STEPS = (0, TOKENS - 1)
SAMPLE_POSITIONS = 256
CONTROL_TOKEN = 3

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hugging_face_name(name):
    """`blk.3.attn_q` -> `model.layers.3.self_attn.q_proj`."""
    if name == "token_embd":
        return "model.embed_tokens"
    if name == "output_norm":
        return "model.norm"
    if name == "output":
        return "lm_head"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}"


def unpermute(weight, heads):
    """GGUF interleaves the two halves of each rotary head; the model wants them one after the other."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def dense_weights(raw, heads, heads_kv):
    weights = {}
    for name, value in raw.items():
        if not name.endswith(".weight"):
            continue
        stem = name.removesuffix(".weight")
        value = value if f"{stem}.scales" in raw else value.astype(mx.float32)
        if value.dtype == mx.uint32:
            scales = raw[f"{stem}.scales"].astype(mx.float32)
            biases = raw[f"{stem}.biases"].astype(mx.float32)
            bits = value.shape[-1] * 32 // (scales.shape[-1] * 32)
            value = mx.dequantize(value, scales, biases, group_size=32, bits=bits)
        if ".attn_q." in name:
            value = unpermute(value, heads)
        if ".attn_k." in name:
            value = unpermute(value, heads_kv)
        weights[hugging_face_name(stem) + ".weight"] = mx.contiguous(value)
    return weights


def config_of(meta):
    number = lambda key: meta[f"llama.{key}"].item()  # noqa: E731
    heads = number("attention.head_count")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": number("embedding_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv"),
        "intermediate_size": number("feed_forward_length"),
        "head_dim": number("embedding_length") // heads,
        "rms_norm_eps": float(np.format_float_positional(np.float32(number("attention.layer_norm_rms_epsilon")))),
        "rope_theta": number("rope.freq_base"),
        "max_position_embeddings": number("context_length"),
        "vocab_size": number("vocab_size"),
        "tie_word_embeddings": True,
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"].item(),
    }


def tokenizer_of(meta):
    """The Hugging Face `tokenizer.json` of a GGUF vocabulary whose `pre` is `smollm`."""
    tokens = meta["tokenizer.ggml.tokens"]
    kinds = meta["tokenizer.ggml.token_type"].tolist()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, (token, kind) in enumerate(zip(tokens, kinds)) if kind == CONTROL_TOKEN
    ]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": special,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"].item()],
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
        },
    }


def write_folder(gguf, folder):
    raw, meta = mx.load(str(gguf), format="gguf", return_metadata=True)
    config = config_of(meta)
    weights = dense_weights(raw, config["num_attention_heads"], config["num_key_value_heads"])
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    eos = meta["tokenizer.ggml.tokens"][config["eos_token_id"]]
    files = {
        "config.json": config,
        "tokenizer.json": tokenizer_of(meta),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos,
            "chat_template": meta["tokenizer.chat_template"], "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def six(value):
    return float(f"{value:.6g}")


def record(model, tokenizer, prompt):
    ids = list(tokenizer.apply_chat_template(prompt["messages"], add_generation_prompt=True, tokenize=True))
    cache = make_prompt_cache(model)
    tokens, steps, samples = [], [], []
    given = ids
    for step in range(TOKENS):
        logits = np.array(model(mx.array(given)[None], cache=cache)[0, -1].astype(mx.float32))
        order = np.argsort(-logits, kind="stable")[:TOP]
        tokens.append(int(order[0]))
        given = [tokens[-1]]
        steps.append({"top": [[int(i), six(logits[i])] for i in order], "min": six(logits.min()), "max": six(logits.max())})
        if step in SAMPLE_STEPS:
            positions = [k * len(logits) // SAMPLE_POSITIONS for k in range(SAMPLE_POSITIONS)]
            samples.append({"step": step, "logits": [six(logits[i]) for i in positions]})
    ends = [i for i, token in enumerate(tokens) if token in tokenizer.eos_token_ids]
    text = tokenizer.decode(tokens[: ends[0]] if ends else tokens)
    return {"name": prompt["name"], "prompt_ids": ids, "tokens": tokens, "text": text, "steps": steps, "samples": samples}


def main():
    parser = argparse.ArgumentParser(description="Record the goldens of row S11.")
    for name in ("gguf", "prompts", "folder", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    paths = parser.parse_args()
    write_folder(paths.gguf, paths.folder)
    model, tokenizer = load(str(paths.folder))
    paths.out.mkdir(parents=True, exist_ok=True)
    for prompt in json.loads(paths.prompts.read_text(encoding="utf-8")):
        golden = record(model, tokenizer, prompt)
        (paths.out / f"{golden['name']}.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{golden['name']}: {len(golden['prompt_ids'])} prompt tokens: {golden['text'][:100]!r}", flush=True)
    meta = {
        "gguf_sha256": hashlib.sha256(paths.gguf.read_bytes()).hexdigest(),
        "dtype": "float32",
        "vocabulary": model.args.vocab_size,
        "versions": {name: importlib.metadata.version(name) for name in ("mlx", "mlx-cpu", "mlx-lm", "transformers")},
    }
    (paths.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
