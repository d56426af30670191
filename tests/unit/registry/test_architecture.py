"""How a model is built is told from its config and its weights' headers, or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.registry.adapters.architectures import read_architecture
from services.registry.domain.architecture import LinearLayers, Shape, architecture_of

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
BLOCK: dict[str, Shape] = {
    "self_attn.q_proj.weight": (8, 8),
    "self_attn.k_proj.weight": (4, 8),
    "self_attn.v_proj.weight": (4, 8),
    "self_attn.o_proj.weight": (8, 8),
    "mlp.gate_proj.weight": (24, 8),
    "mlp.up_proj.weight": (24, 8),
    "mlp.down_proj.weight": (8, 24),
    "input_layernorm.weight": (8,),
}
IN_BLOCK = 2 * 64 + 2 * 32 + 3 * 192 + 8


def llama_shapes(**others: Shape) -> dict[str, Shape]:
    blocks = {f"model.layers.{i}.{name}": shape for i in (0, 1) for name, shape in BLOCK.items()}
    return {"model.embed_tokens.weight": (50, 8), "model.norm.weight": (8,), **blocks, **others}


def write(
    directory: Path, config: object, shapes: dict[str, Shape], name: str = "model.safetensors"
) -> Path:
    """A directory as a hub has it, whose weights are all zero and of one byte."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, shape in shapes.items():
        size = 1
        for side in shape:
            size *= side
        header[tensor] = {"dtype": "U8", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    content = json.dumps(header).encode()
    (directory / name).write_bytes(len(content).to_bytes(8, "little") + content + bytes(end))
    return directory


def test_a_llama_is_told_whole(tmp_path: Path) -> None:
    found = read_architecture(write(tmp_path / "m", LLAMA, llama_shapes()))

    assert found is not None
    assert found.parameter_count == 50 * 8 + 8 + 2 * IN_BLOCK
    assert (found.layer_count, found.decoder_layer_count) == (2, 0)
    assert not found.is_encoder_decoder
    assert (found.head_count, found.key_value_head_count, found.head_size) == (4, 2, 2)
    assert (found.hidden_size, found.intermediate_size, found.vocabulary_size) == (8, 24, 50)
    assert (found.position_limit, found.tied_embeddings, found.gated_feed_forward) == (
        64,
        True,
        True,
    )
    assert found.linear_layers == (
        LinearLayers("down_proj", 24, 8, 2),
        LinearLayers("gate_proj", 8, 24, 2),
        LinearLayers("k_proj", 8, 4, 2),
        LinearLayers("o_proj", 8, 8, 2),
        LinearLayers("q_proj", 8, 8, 2),
        LinearLayers("up_proj", 8, 24, 2),
        LinearLayers("v_proj", 8, 4, 2),
    )


def test_a_tied_head_that_is_stored_counts_once() -> None:
    head: dict[str, Shape] = {"lm_head.weight": (50, 8)}
    tied = architecture_of(LLAMA, llama_shapes(**head))
    untied = architecture_of({**LLAMA, "tie_word_embeddings": False}, llama_shapes(**head))

    assert tied is not None
    assert untied is not None
    assert untied.parameter_count - tied.parameter_count == 50 * 8
    assert (tied.tied_embeddings, untied.tied_embeddings) == (True, False)


def test_a_config_that_does_not_say_is_tied_where_no_head_is_stored() -> None:
    silent = {key: value for key, value in LLAMA.items() if key != "tie_word_embeddings"}
    head: dict[str, Shape] = {"lm_head.weight": (50, 8)}
    without, with_head = (
        architecture_of(silent, llama_shapes()),
        architecture_of(silent, llama_shapes(**head)),
    )

    assert without is not None
    assert with_head is not None
    assert (without.tied_embeddings, with_head.tied_embeddings) == (True, False)


def test_gpt2_stores_inputs_first_and_its_masks_are_no_parameters() -> None:
    config = {
        "model_type": "gpt2",
        "n_embd": 8,
        "n_layer": 1,
        "n_head": 2,
        "n_inner": None,
        "n_positions": 16,
        "vocab_size": 50,
    }
    shapes: dict[str, Shape] = {
        "wte.weight": (50, 8),
        "wpe.weight": (16, 8),
        "h.0.attn.bias": (1, 1, 16, 16),
        "h.0.attn.masked_bias": (),
        "h.0.attn.c_attn.weight": (8, 24),
        "h.0.attn.c_attn.bias": (24,),
        "h.0.attn.c_proj.weight": (8, 8),
        "h.0.mlp.c_fc.weight": (8, 32),
        "h.0.mlp.c_proj.weight": (32, 8),
        "h.0.ln_1.weight": (8,),
    }
    found = architecture_of(config, shapes)

    assert found is not None
    assert found.parameter_count == 400 + 128 + 192 + 24 + 64 + 256 + 256 + 8
    assert (found.intermediate_size, found.key_value_head_count, found.position_limit) == (
        32,
        2,
        16,
    )
    assert found.linear_layers == (
        LinearLayers("c_attn", 8, 24, 1),
        LinearLayers("c_fc", 8, 32, 1),
        LinearLayers("c_proj", 8, 8, 1),
        LinearLayers("c_proj", 32, 8, 1),
    )


def test_t5_has_two_stacks_and_its_position_embedding_is_no_linear_layer() -> None:
    config = {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 1,
        "num_decoder_layers": 2,
        "num_heads": 3,
        "vocab_size": 50,
        "n_positions": 512,
    }
    attention: dict[str, Shape] = {"q": (12, 8), "k": (12, 8), "v": (12, 8), "o": (8, 12)}
    shapes: dict[str, Shape] = {
        "shared.weight": (50, 8),
        "encoder.embed_tokens.weight": (50, 8),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 3),
        "encoder.block.0.layer.1.DenseReluDense.wi.weight": (16, 8),
    }
    for place in (
        "encoder.block.0.layer.0.SelfAttention",
        "decoder.block.0.layer.0.SelfAttention",
        "decoder.block.1.layer.1.EncDecAttention",
    ):
        shapes |= {f"{place}.{name}.weight": shape for name, shape in attention.items()}
    found = architecture_of(config, shapes)

    assert found is not None
    assert found.parameter_count == 400 + 96 + 128 + 3 * 4 * 96
    assert (found.layer_count, found.decoder_layer_count, found.head_size) == (1, 2, 4)
    assert found.is_encoder_decoder
    assert (found.position_limit, found.gated_feed_forward) == (0, False)
    assert {(one.name, one.count) for one in found.linear_layers} == {
        ("q", 3),
        ("k", 3),
        ("v", 3),
        ("o", 3),
        ("wi", 1),
    }


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        ({**LLAMA, "model_type": None}, llama_shapes()),
        ({**LLAMA, "hidden_size": "8"}, llama_shapes()),
        ({**LLAMA, "hidden_size": True}, llama_shapes()),
        ({**LLAMA, "vocab_size": -1}, llama_shapes()),
        ({**LLAMA, "vocab_size": 2**40}, llama_shapes()),
        ({**LLAMA, "num_hidden_layers": 3}, llama_shapes()),
        ({**LLAMA, "quantization_config": {"bits": 4}}, llama_shapes()),
        ({**LLAMA, "is_encoder_decoder": True}, llama_shapes()),
        (LLAMA, {**llama_shapes(), "model.layers.0.mlp.experts.0.w1.weight": (8, 8)}),
        (LLAMA, {**llama_shapes(), "model.layers.0.conv.weight": (8, 8, 3)}),
        (LLAMA, {"model.layers.0.norm.weight": (8,), "model.layers.1.norm.weight": (8,)}),
        (LLAMA, {}),
        ({}, llama_shapes()),
    ],
)
def test_what_is_built_in_another_way_stays_unknown(
    config: dict[str, Any], shapes: dict[str, Shape]
) -> None:
    assert architecture_of(config, shapes) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"weights",
        (2**63).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (7).to_bytes(8, "little") + b"{\xff\xff\xff}}}",
        (9).to_bytes(8, "little") + b'{"a": 1}}',
        (8).to_bytes(8, "little") + b'{"a": 1}',
        (21).to_bytes(8, "little") + b'{"a": {"shape": [-1]}}'[:21],
        (22).to_bytes(8, "little") + b'{"a": {"shape": [-1]}}',
        (24).to_bytes(8, "little") + b'{"a": {"shape": [1, {}]}}'[:24] + b"}",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
    ],
)
def test_a_malformed_weight_file_is_no_fault_of_the_intake(tmp_path: Path, content: bytes) -> None:
    directory = write(tmp_path / "m", LLAMA, {})
    (directory / "model.safetensors").write_bytes(content)

    assert read_architecture(directory) is None


def test_the_parts_of_an_index_are_read_and_no_second_copy(tmp_path: Path) -> None:
    shapes = llama_shapes()
    names = list(shapes)
    directory = tmp_path / "m"
    for part, chosen in (("one", names[::2]), ("two", names[1::2])):
        write(directory, LLAMA, {name: shapes[name] for name in chosen}, f"{part}.safetensors")
    write(directory, LLAMA, {"tok_embeddings.weight": (50, 8)}, "consolidated.safetensors")
    places = {name: ("one", "two")[i % 2] + ".safetensors" for i, name in enumerate(names)}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))

    found = read_architecture(directory)
    assert found is not None
    assert found.parameter_count == 50 * 8 + 8 + 2 * IN_BLOCK

    for wrong in ({"weight_map": {"a": "../secret"}}, {"weight_map": ["one"]}, {}):
        index.write_text(json.dumps(wrong))
        assert read_architecture(directory) is None
