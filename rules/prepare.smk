"""Parameter files, the model's weights, and the prompt encodings.

OUTPUTS: <results>/params/{stage}.json, <results>/weights.json, <results>/conditioning.safetensors and its seal conditioning.json
"""


localrules:
    write_parameters,
    fetch_weights,


rule write_parameters:
    """Write the parameters of stage {wildcards.stage}."""
    input:
        get_prompt_file,
    output:
        "<results>/params/{stage}.json",
    log:
        "<logs>/write_parameters/{stage}.log",
    params:
        values=get_stage_values,
    shell:
        "python -m workflow_scripts.prepare.write_parameters --stage {wildcards.stage} --values {params.values:q}"
        " --prompts {input:q} --out {output:q} --log {log:q}"


rule fetch_weights:
    """Download missing model files and verify all of them."""
    input:
        params="<results>/params/fetch_weights.json",
    output:
        "<results>/weights.json",
    log:
        "<logs>/fetch_weights.log",
    resources:
        mlx=1,
    shell:
        "python -m workflow_scripts.prepare.fetch_weights --params {input.params:q} --out {output:q} --log {log:q}"


rule encode_prompts:
    """Encode every prompt once."""
    input:
        weights=get_weights,
        params="<results>/params/encode_prompts.json",
    output:
        conditioning="<results>/conditioning.safetensors",
        seal="<results>/conditioning.json",
    log:
        "<logs>/encode_prompts.log",
    benchmark:
        "<benchmarks>/encode_prompts.tsv"
    resources:
        mlx=1,
        mem_mb=ask_memory("encode_prompts"),
        runtime=ask_minutes("encode_prompts"),
    shell:
        "python -m workflow_scripts.prepare.encode_prompts --params {input.params:q}"
        " --out {output.conditioning:q} --seal {output.seal:q} --log {log:q}"
