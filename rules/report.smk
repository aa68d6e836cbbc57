"""One-page HTML report, and the model card of the packed weights.

INPUTS: the deliverables, their measurements, and the plots
OUTPUTS: <results>/report.html; <results>/quantized/README.md, pictures.png and quantization_report.html
"""


rule write_report:
    """Write the results to one page."""
    input:
        fid="<results>/fid.json",
        frontier="<results>/frontier.json",
        quant_config="<results>/quant_config.json",
        arrays="<results>/quant_config.safetensors",
        weights="<results>/quantized/model.safetensors",
        layout="<results>/quantized/config.json",
        multitier="<results>/quant_config_multitier.json",
        mixed="<results>/mixed_bits.json",
        statistics="<results>/activations/statistics.json",
        extremes="<results>/activations/statistics.safetensors",
        distilled=(
            [] if config["distil"] == "none" else "<results>/distilled.report.json"
        ),
        folds=get_folds,
        reports=expand("<results>/adaround/{block}.report.json", block=BLOCKS),
        sensitivity=expand("<results>/sensitivity/{block}.json", block=BLOCKS),
        plots=expand("<results>/plots/{name}.png", name=PLOTS),
    output:
        report(
            "<results>/report.html", caption="../report/report.rst", category="Report"
        ),
    log:
        "<logs>/write_report.log",
    resources:
        mlx=1,
    params:
        values=get_report_values,
        distilled=lambda wildcards, input: name_option("--distilled", input.distilled),
        # Benchmarks are read as a folder, not as inputs: its content depends on which jobs were needed.
        results=subpath(output[0], parent=True),
    shell:
        "python -m workflow_scripts.report.write_report --config {params.values:q} --fid {input.fid:q}"
        " --frontier {input.frontier:q} {params.distilled:q} --folds {input.folds:q}"
        " --quant-config {input.quant_config:q}"
        " --multitier {input.multitier:q} --mixed {input.mixed:q}"
        " --statistics {input.statistics:q} --reports {input.reports:q} --sensitivity {input.sensitivity:q}"
        " --plots {input.plots:q} --benchmarks {params.results:q}/benchmarks --out {output:q} --log {log:q}"


rule write_model_card:
    """Complete the folder of the packed weights for publication."""
    input:
        fid="<results>/fid.json",
        frontier="<results>/frontier.json",
        quant_config="<results>/quant_config.json",
        arrays="<results>/quant_config.safetensors",
        weights="<results>/quantized/model.safetensors",
        layout="<results>/quantized/config.json",
        loader="<results>/quantized/load_quantized.py",
        pictures="<results>/plots/picture_grid.png",
        report="<results>/report.html",
    output:
        card="<results>/quantized/README.md",
        pictures="<results>/quantized/pictures.png",
        report="<results>/quantized/quantization_report.html",
    log:
        "<logs>/write_model_card.log",
    resources:
        mlx=1,
    params:
        values=get_report_values,
    shell:
        "python -m workflow_scripts.report.write_model_card --config {params.values:q} --fid {input.fid:q}"
        " --frontier {input.frontier:q} --quant-config {input.quant_config:q} --loader {input.loader:q}"
        " --pictures {input.pictures:q} --report {input.report:q} --out {output.card:q} --log {log:q}"
