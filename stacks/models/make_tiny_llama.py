"""Write a two-layer random Llama with its tokenizer: about 1 MB, the same bytes every time.

    python stacks/models/make_tiny_llama.py [DIRECTORY]

The demo stacks bake it. It says nothing sensible, but everything about it is real: an engine
loads, tokenizes, templates and serves it as it would a model a thousand times its size.
Only integers and correctly rounded arithmetic reach the weights, so no Python version, C library
or processor changes a byte.
"""

import json
import math
import random
import struct
import sys
from pathlib import Path
from typing import Any

SEED = 20261110
LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY, POSITIONS = 2, 128, 352, 512, 2048
HEADS, KV_HEADS = 4, 2
HEAD_SIZE = HIDDEN // HEADS

BOS, EOS, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPACE = "Ġ"
FIRST, SECOND = SPACE + "etaoinsrh", "etaoinsrhldcumfpgwybvkxjq"
"""Every pair of these is a merge: words in English begin and go on with them most often."""

Shape = tuple[int, ...]


# --- tokenizer ------------------------------------------------------------------------------------


def byte_alphabet() -> list[str]:
    """One printable character for each byte, as GPT-2 chose them."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(code) for code in kept] + [chr(256 + n) for n in range(len(moved))]


def added_token(number: int, content: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **plain, "special": True}


def tokenizer() -> dict[str, Any]:
    pairs = [(a, b) for a in FIRST for b in SECOND]
    tokens = [*byte_alphabet(), *(a + b for a, b in pairs), *SPECIAL]
    numbers = {token: number for number, token in enumerate(tokens)}
    if len(numbers) != VOCABULARY:
        message = f"{len(numbers)} different tokens for a vocabulary of {VOCABULARY}"
        raise ValueError(message)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(numbers[token], token) for token in SPECIAL],
        "normalizer": None,
        "pre_tokenizer": byte_level(add_prefix_space=False),
        "post_processor": None,
        "decoder": byte_level(add_prefix_space=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": numbers,
            "merges": [f"{a} {b}" for a, b in pairs],
        },
    }


def byte_level(*, add_prefix_space: bool) -> dict[str, Any]:
    options = {"add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": True}
    return {"type": "ByteLevel", **options}


def tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": POSITIONS,
    }


# --- configuration --------------------------------------------------------------------------------


def special_ids() -> dict[str, int]:
    first = VOCABULARY - len(SPECIAL)
    names = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    return {name: first + SPECIAL.index(token) for name, token in names.items()}


def config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "mlp_bias": False,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
        **special_ids(),
    }


# --- weights --------------------------------------------------------------------------------------


def layer_shapes(prefix: str) -> dict[str, Shape]:
    queries, keys = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
    return {
        f"{prefix}.input_layernorm.weight": (HIDDEN,),
        f"{prefix}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
        f"{prefix}.self_attn.k_proj.weight": (keys, HIDDEN),
        f"{prefix}.self_attn.o_proj.weight": (HIDDEN, queries),
        f"{prefix}.self_attn.q_proj.weight": (queries, HIDDEN),
        f"{prefix}.self_attn.v_proj.weight": (keys, HIDDEN),
    }


def shapes() -> dict[str, Shape]:
    """Every tensor of the model, in the order of their names."""
    found: dict[str, Shape] = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for number in range(LAYERS):
        found |= layer_shapes(f"model.layers.{number}")
    return dict(sorted(found.items()))


def bfloat16(value: float) -> int:
    """The upper half of a float32, rounded to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return int(bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def values(shape: Shape, dice: random.Random) -> bytes:
    """Ones for a norm; else evenly spread within ±sqrt(3 / inputs), so that outputs vary by 1."""
    count = math.prod(shape)
    if len(shape) == 1:
        return struct.pack(f"<{count}H", *[bfloat16(1.0)] * count)
    limit = math.sqrt(3 / shape[-1])
    steps = [bfloat16(limit * (step - 127.5) / 127.5) for step in range(256)]
    return struct.pack(f"<{count}H", *map(steps.__getitem__, dice.randbytes(count)))


def safetensors() -> bytes:
    """Length of the header, header as JSON padded to 8 bytes, tensors without gaps."""
    dice = random.Random(SEED)  # noqa: S311 - repeatable numbers, not secret ones
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape in shapes().items():
        start = len(body)
        body += values(shape, dice)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, len(body))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(body)


# --- files ----------------------------------------------------------------------------------------


def pretty(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def files() -> dict[str, bytes]:
    return {
        "config.json": pretty(config()),
        "generation_config.json": pretty({"_from_model_config": True, **special_ids()}),
        "model.safetensors": safetensors(),
        "tokenizer.json": pretty(tokenizer()),
        "tokenizer_config.json": pretty(tokenizer_config()),
    }


def main(arguments: list[str]) -> None:
    directory = Path(arguments[0]) if arguments else Path(__file__).parent / "tiny-llama"
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (directory / name).write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1:])
