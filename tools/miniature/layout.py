"""The names and shapes of the tensors in the real files, by default at the miniature's sizes."""

from tools.miniature.sizes import AUTOENCODER, CHANNELS, LATENT_SIDE, POOLED, POOLED_WIDTH, T5, WIDTH


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def convolution(name, outputs, inputs, size):
    return {f"{name}.weight": (outputs, inputs, size, size), f"{name}.bias": (outputs,)}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def list_stable_diffusion(blocks, has_norms, width=WIDTH, side=LATENT_SIDE, pooled=POOLED_WIDTH):
    """The MMDiT of Stable Diffusion 3 and 3.5, as Stability AI publishes it."""
    shapes = {"pos_embed": (1, side**2, width)} | convolution("x_embedder.proj", width, CHANNELS, 2)
    for name, inputs in (("t_embedder", 256), ("y_embedder", pooled)):
        shapes |= linear(f"{name}.mlp.0", width, inputs) | linear(f"{name}.mlp.2", width, width)
    shapes |= linear("context_embedder", width, T5["d_model"])
    for block in range(blocks):
        for stream in ("context_block", "x_block"):
            ends_here = stream == "context_block" and block == blocks - 1
            shapes |= list_stream(f"joint_blocks.{block}.{stream}", width, ends_here, has_norms)
    shapes |= linear("final_layer.linear", 4 * CHANNELS, width) | linear(
        "final_layer.adaLN_modulation.1", 2 * width, width
    )
    return {f"model.diffusion_model.{name}": shape for name, shape in shapes.items()}


def list_stream(name, width, ends_here, has_norms):
    """One stream of a block; after the last one's attention the text is not needed any more."""
    shapes = linear(f"{name}.attn.qkv", 3 * width, width)
    if has_norms:
        shapes |= {f"{name}.attn.ln_{part}.weight": (width // 2,) for part in "qk"}
    if ends_here:
        return shapes | linear(f"{name}.adaLN_modulation.1", 2 * width, width)
    shapes |= linear(f"{name}.attn.proj", width, width) | linear(f"{name}.adaLN_modulation.1", 6 * width, width)
    return shapes | linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)


def list_flux(double_blocks, single_blocks):
    """The transformer of FLUX.1, as Black Forest Labs publish it."""
    shapes = linear("img_in", WIDTH, 4 * CHANNELS) | linear("txt_in", WIDTH, T5["d_model"])
    for name, inputs in (("time_in", 256), ("vector_in", POOLED["clip_l"])):
        shapes |= linear(f"{name}.in_layer", WIDTH, inputs) | linear(f"{name}.out_layer", WIDTH, WIDTH)
    for block in range(double_blocks):
        for stream in ("img", "txt"):
            name = f"double_blocks.{block}.{stream}"
            shapes |= linear(f"{name}_attn.qkv", 3 * WIDTH, WIDTH) | linear(f"{name}_attn.proj", WIDTH, WIDTH)
            shapes |= list_gains(f"{name}_attn.norm") | linear(f"{name}_mod.lin", 6 * WIDTH, WIDTH)
            shapes |= linear(f"{name}_mlp.0", 4 * WIDTH, WIDTH) | linear(f"{name}_mlp.2", WIDTH, 4 * WIDTH)
    for block in range(single_blocks):
        name = f"single_blocks.{block}"
        shapes |= linear(f"{name}.linear1", 7 * WIDTH, WIDTH) | linear(f"{name}.linear2", WIDTH, 5 * WIDTH)
        shapes |= list_gains(f"{name}.norm") | linear(f"{name}.modulation.lin", 3 * WIDTH, WIDTH)
    shapes |= linear("final_layer.linear", 4 * CHANNELS, WIDTH)
    return shapes | linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)


def list_gains(name):
    """The norms of queries and keys."""
    return {f"{name}.{part}_norm.scale": (WIDTH // 2,) for part in ("query", "key")}


def list_residual(name, outputs, inputs):
    shapes = norm(f"{name}.norm1", inputs) | convolution(f"{name}.conv1", outputs, inputs, 3)
    shapes |= norm(f"{name}.norm2", outputs) | convolution(f"{name}.conv2", outputs, outputs, 3)
    return shapes | (convolution(f"{name}.nin_shortcut", outputs, inputs, 1) if inputs != outputs else {})


def list_middle(width):
    shapes = list_residual("mid.block_1", width, width) | list_residual("mid.block_2", width, width)
    for name in ("q", "k", "v", "proj_out"):
        shapes |= convolution(f"mid.attn_1.{name}", width, width, 1)
    return shapes | norm("mid.attn_1.norm", width)


def list_autoencoder(widths=AUTOENCODER["block_out_channels"], prefix="first_stage_model."):
    """Encoder and decoder, as in latent diffusion."""
    levels, deepest = range(len(widths)), widths[-1]
    encoder = convolution("conv_in", widths[0], 3, 3) | convolution("conv_out", 2 * CHANNELS, deepest, 3)
    decoder = convolution("conv_in", deepest, CHANNELS, 3) | convolution("conv_out", 3, widths[0], 3)
    encoder |= list_middle(deepest) | norm("norm_out", deepest)
    decoder |= list_middle(deepest) | norm("norm_out", widths[0])
    for level in levels:
        above, below = widths[max(level - 1, 0)], widths[min(level + 1, levels[-1])]
        for part, shapes, first, count in (("down", encoder, above, 2), ("up", decoder, below, 3)):
            for block in range(count):
                shapes |= list_residual(
                    f"{part}.{level}.block.{block}", widths[level], widths[level] if block else first
                )
        if level < levels[-1]:
            encoder |= convolution(f"down.{level}.downsample.conv", widths[level], widths[level], 3)
        if level > 0:
            decoder |= convolution(f"up.{level}.upsample.conv", widths[level], widths[level], 3)
    parts = {"encoder": encoder, "decoder": decoder}
    return {f"{prefix}{part}.{name}": shape for part in parts for name, shape in parts[part].items()}


def list_clip(sizes):
    """A CLIP text model with projection, as transformers saves it."""
    width = sizes["hidden_size"]
    shapes = {
        "text_model.embeddings.token_embedding.weight": (sizes["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (sizes["max_position_embeddings"], width),
        "text_projection.weight": (sizes["projection_dim"], width),
    }
    for layer in range(sizes["num_hidden_layers"]):
        name = f"text_model.encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{name}.self_attn.{part}", width, width)
        shapes |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
        shapes |= norm(f"{name}.layer_norm1", width) | norm(f"{name}.layer_norm2", width)
    return shapes | norm("text_model.final_layer_norm", width)


def list_t5():
    """The encoder of T5 v1.1, as transformers saves it."""
    width, inner, table = T5["d_model"], T5["d_kv"] * T5["num_heads"], (T5["vocab_size"], T5["d_model"])
    shapes = {"shared.weight": table, "encoder.embed_tokens.weight": table, "encoder.final_layer_norm.weight": (width,)}
    for block in range(T5["num_layers"]):
        name = f"encoder.block.{block}.layer"
        shapes |= {f"{name}.0.SelfAttention.{part}.weight": (inner, width) for part in "qkv"}
        shapes |= {f"{name}.0.SelfAttention.o.weight": (width, inner)}
        shapes |= {f"{name}.1.DenseReluDense.{part}.weight": (T5["d_ff"], width) for part in ("wi_0", "wi_1")}
        shapes |= {f"{name}.1.DenseReluDense.wo.weight": (width, T5["d_ff"])}
        shapes |= {f"{name}.{part}.layer_norm.weight": (width,) for part in (0, 1)}
    buckets = (T5["relative_attention_num_buckets"], T5["num_heads"])
    return shapes | {"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": buckets}
