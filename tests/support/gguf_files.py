"""GGUF files with a tokenizer."""

from pathlib import Path

import gguf
from transformers import LlamaForCausalLM

VOCABULARY = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghĠ", "ab", "Ġc"]


def save_gguf(model: LlamaForCausalLM, path: Path) -> None:
    """Write `model` as GGUF with its matrices in Q4_1, and round its weights to what that holds."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * 3 + [1] * (len(VOCABULARY) - 3))
    writer.add_token_merges(["a b", "Ġ c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        weights = parameter.detach().numpy()
        kind = gguf.GGMLQuantizationType.Q4_1 if weights.ndim == 2 else None
        if kind:
            # in place: the model becomes what the file says
            weights[:] = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
        for projection, count in heads.items():
            if projection in name:  # GGUF keeps the halves of a rotary pair side by side
                shape = (count, 2, config.head_dim // 2, config.hidden_size)
                weights = weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)
        packed = gguf.quants.quantize(weights, kind) if kind else weights
        writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
