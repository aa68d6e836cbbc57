"""Retraining and scoring of the embedded model. No other rule needs it: the model's files ship with the project.

OUTPUTS: <results>/embedded_model/: four safetensors files, scores.json and pictures.png
"""

# Every stage is resumable: its checkpoint is beside its output, under a name unknown to Snakemake, which therefore does
# not delete it when a job fails or is stopped.


rule draw_pool:
    """Draw the training images."""
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
    """Train the autoencoder."""
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
    """Train the attribute classifier."""
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
    """Encode the training images to latents."""
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
    """Train the text model and the transformer together."""
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
    """Export the files of the embedded model."""
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
    """Measure how often an image shows what its prompt asks for."""
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
    """Run all of the above."""
    input:
        "<results>/embedded_model/scores.json",
