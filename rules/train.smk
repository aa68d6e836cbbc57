"""Trains the embedded model anew and measures it; its files ship with the project, so nothing else needs this.

OUTPUTS: <results>/embedded_model/: four safetensors files, scores.json and pictures.png
"""

# Every stage is resumable: its checkpoint lies beside its output, under a name that Snakemake does not know and so
# does not delete when a job fails or is stopped.


rule draw_pool:
    """Draw the training pictures."""
    output:
        scenes="<results>/embedded_model/pool/scenes.npy",
        pictures="<results>/embedded_model/pool/pictures.npy",
    log:
        "<logs>/draw_pool.log",
    params:
        folder=subpath(output.scenes, parent=True),
    shell:
        "python -m workflow_scripts.train.draw_pool --out {params.folder:q} --log {log:q}"


rule train_autoencoder:
    """Learn the latents."""
    input:
        pool="<results>/embedded_model/pool/scenes.npy",
    output:
        "<results>/embedded_model/trained/autoencoder.safetensors",
    log:
        "<logs>/train_autoencoder.log",
    benchmark:
        "<benchmarks>/train_autoencoder.tsv"
    threads: 2
    resources:
        mlx=1,
    params:
        pool=subpath(input.pool, parent=True),
    shell:
        "python -m workflow_scripts.train.train_autoencoder --pool {params.pool:q} --out {output:q} --log {log:q}"


rule train_classifier:
    """Learn to read the attributes of a picture."""
    input:
        pool="<results>/embedded_model/pool/scenes.npy",
    output:
        "<results>/embedded_model/trained/classifier.safetensors",
    log:
        "<logs>/train_classifier.log",
    benchmark:
        "<benchmarks>/train_classifier.tsv"
    threads: 2
    resources:
        mlx=1,
    params:
        pool=subpath(input.pool, parent=True),
    shell:
        "python -m workflow_scripts.train.train_classifier --pool {params.pool:q} --out {output:q} --log {log:q}"


rule encode_pool:
    """Turn the training pictures into latents."""
    input:
        pool="<results>/embedded_model/pool/scenes.npy",
        autoencoder="<results>/embedded_model/trained/autoencoder.safetensors",
    output:
        "<results>/embedded_model/pool/latents.npy",
    log:
        "<logs>/encode_pool.log",
    threads: 2
    resources:
        mlx=1,
    params:
        pool=subpath(input.pool, parent=True),
    shell:
        "python -m workflow_scripts.train.encode_pool --pool {params.pool:q} --autoencoder {input.autoencoder:q}"
        " --out {output:q} --log {log:q}"


rule train_transformer:
    """Learn the text model and the transformer together."""
    input:
        pool="<results>/embedded_model/pool/scenes.npy",
        latents="<results>/embedded_model/pool/latents.npy",
    output:
        "<results>/embedded_model/trained/transformer.safetensors",
    log:
        "<logs>/train_transformer.log",
    benchmark:
        "<benchmarks>/train_transformer.tsv"
    threads: 2
    resources:
        mlx=1,
    params:
        pool=subpath(input.pool, parent=True),
    shell:
        "python -m workflow_scripts.train.train_transformer --pool {params.pool:q} --latents {input.latents:q}"
        " --out {output:q} --log {log:q}"


rule export_embedded_model:
    """Write the files the embedded model is loaded from."""
    input:
        autoencoder="<results>/embedded_model/trained/autoencoder.safetensors",
        classifier="<results>/embedded_model/trained/classifier.safetensors",
        transformer="<results>/embedded_model/trained/transformer.safetensors",
    output:
        multiext(
            "<results>/embedded_model/",
            "autoencoder.safetensors",
            "classifier.safetensors",
            "text_encoder.safetensors",
            "transformer.safetensors",
        ),
    log:
        "<logs>/export_embedded_model.log",
    resources:
        mlx=1,
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.train.export_embedded_model --autoencoder {input.autoencoder:q}"
        " --classifier {input.classifier:q} --transformer {input.transformer:q} --out-dir {params.folder:q} --log {log:q}"


rule score_embedded_model:
    """Measure how often a picture shows what was asked."""
    input:
        model="<results>/embedded_model/transformer.safetensors",
    output:
        scores="<results>/embedded_model/scores.json",
        pictures="<results>/embedded_model/pictures.png",
    log:
        "<logs>/score_embedded_model.log",
    benchmark:
        "<benchmarks>/score_embedded_model.tsv"
    resources:
        mlx=1,
    params:
        folder=subpath(input.model, parent=True),
    shell:
        "python -m workflow_scripts.train.score_embedded_model --model {params.folder:q} --out {output.scores:q}"
        " --pictures {output.pictures:q} --log {log:q}"


localrules:
    train_embedded_model,


rule train_embedded_model:
    """Everything above."""
    input:
        "<results>/embedded_model/scores.json",
