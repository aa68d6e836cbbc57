"""Input functions: the files and values of a job. No rules."""


def get_stage_values(wildcards):
    """Configuration values read by a stage."""
    return plan.encode_values(wildcards.stage, config)


def get_study_values(wildcards):
    """Configuration values of a study read by a stage."""
    return plan.encode_values(wildcards.stage, STUDIES[wildcards.study])


def get_prompt_file(wildcards):
    """The prompt file, for stages that read it. Aborts planning if the configuration rules the stage out.

    Stale parameter files are written again; every plan has a job that calls this function.
    """
    workflow.dag.forcefiles.update(STALE_PARAMETERS)
    try:
        stage_demands.reject_stage(wildcards.stage, config)
    except ValueError as error:
        stop(error)
    return config["prompts"] if wildcards.stage in plan.READS_PROMPTS else []


def get_block_values(wildcards):
    """Configuration values of a block's job; they change only with the values the job reads."""
    return block_plan.encode_block(config, wildcards.block)


def list_blocks_before(block, values, folder):
    """The quantized blocks in `folder` whose outputs are the inputs of `block`."""
    before = (
        BLOCKS[: BLOCKS.index(block)] if values["block_inputs"] == "quantized" else []
    )
    return [f"{config['results_dir']}/{folder}/{name}.safetensors" for name in before]


def list_rows(block, values, folder):
    """The captured rows that the job of `block` for the results in `folder` reads."""
    rows = capture_groups.list_rows(values, block, folder)
    return [f"{config['results_dir']}/{name}" for name in rows]


def get_rows(wildcards):
    """The captured rows of a block."""
    return list_rows(wildcards.block, config, "adaround")


def get_size_rows(wildcards):
    """The captured rows of a block of a frontier size."""
    return list_rows(wildcards.block, config, f"frontier/{wildcards.size}/adaround")


def get_rung_rows(wildcards):
    """The captured rows of a block of a rung."""
    values = variants.change(config, wildcards.rung)
    return list_rows(wildcards.block, values, f"ladder/{wildcards.rung}")


def get_sensitivity_rows(wildcards):
    """The captured rows of a block for its sensitivity, which is measured on full-precision inputs."""
    values = config | {"block_inputs": "full_precision"}
    return list_rows(wildcards.block, values, "sensitivity")


def get_group_before(wildcards):
    """Results of the blocks of the group before, whose rows are deleted then; their mtimes have no effect."""
    before = capture_groups.list_before(config, wildcards.group, wildcards.reader)
    return [ancient(f"{config['results_dir']}/{name}") for name in before]


def name_folds(folder, folds):
    """The file of the folds in `folder`, if the configuration has `folds`."""
    return [f"{config['results_dir']}/{folder}folds.safetensors"] if folds else []


def get_folds(wildcards):
    """The folds of the configuration."""
    return name_folds("", config["folds"])


def get_rung_folds(wildcards):
    """The folds of a rung of the ladder."""
    folds = variants.change(config, wildcards.rung)["folds"]
    return name_folds(f"ladder/{wildcards.rung}/", folds)


def get_variant_folds(wildcards):
    """The folds in the blocks of a variant; packed weights have them already."""
    rung = variants.ALL[wildcards.variant].rung
    folds = variants.change(config, rung)["folds"] if rung else []
    return name_folds(f"ladder/{rung}/", folds)


def get_mixed_bits(wildcards):
    """The result of the bit search, if the configuration asks for one."""
    searched = config["bits_per_weight"] is not None
    return [f"{config['results_dir']}/mixed_bits.json"] if searched else []


def name_option(option, value):
    """The words of a command-line option with its value; empty if there is no value."""
    return [option, str(value)] if value else []


def list_quantized(suffix):
    """The files that are packed: the distilled model, or the blocks and the layers outside them."""
    names = (
        [f"adaround/{unit}" for unit in UNITS]
        if config["distil"] == "none"
        else [plan.WHOLE]
    )
    return [f"{config['results_dir']}/{name}.{suffix}" for name in names]


def get_mflux_source(wildcards):
    """The file of packed weights. Aborts planning if mflux cannot hold them."""
    try:
        config_relations.reject_mflux(config)
    except ValueError as error:
        stop(error)
    return f"{config['results_dir']}/quantized/model.safetensors"


def change_size(size):
    """The configuration at another size."""
    return config | {"bits_per_weight": float(size)}


def get_size_values(wildcards):
    """Configuration values of a frontier size read by a stage."""
    return plan.encode_values(wildcards.stage, change_size(wildcards.size))


def get_size_block_values(wildcards):
    """Configuration values of a block's job at a frontier size."""
    return block_plan.encode_block(change_size(wildcards.size), wildcards.block)


def get_size_blocks_before(wildcards):
    """The preceding quantized blocks of the same size, if blocks are chained."""
    return list_blocks_before(
        wildcards.block, config, f"frontier/{wildcards.size}/adaround"
    )


def list_size_quantized(suffix):
    """The files that are packed at a frontier size, as `list_quantized`."""
    main = f"{config['results_dir']}/"
    return [
        f"{main}frontier/{{size}}/{path.removeprefix(main)}"
        for path in list_quantized(suffix)
    ]


def get_size_source(wildcards):
    """Quantization config and weights of a size; for the configured size, the main results."""
    own = config["bits_per_weight"] == float(wildcards.size)
    folder = "" if own else f"frontier/{wildcards.size}/"
    names = (
        "quant_config.json",
        "quantized/model.safetensors",
        "quantized/config.json",
    )
    return [f"{config['results_dir']}/{folder}{name}" for name in names]


def get_blocks_before(wildcards):
    """The preceding quantized blocks, if blocks are chained."""
    return list_blocks_before(wildcards.block, config, "adaround")


def complete_rung(rung):
    """The configuration of a rung, with the defaults of its rules."""
    return configuration.complete(
        variants.change(config, rung), configuration.load_schema()
    )


def get_rung_stage_values(wildcards):
    """Configuration values of a rung read by a stage."""
    return plan.encode_values(wildcards.stage, complete_rung(wildcards.rung))


def ask_fold_minutes(wildcards, attempt):
    """Minutes requested by the search of a rung's folds, which are not those of the configuration."""
    values = complete_rung(wildcards.rung)
    rates = work.estimate_rates(values, SIZES)
    own = jobs.list_jobs(values, len(PROMPTS), SIZES, rates)["fold_model"]
    return jobs.ask_minutes(own, attempt)


def get_rung_values(wildcards):
    """Configuration values of a block's job of a rung."""
    values = complete_rung(wildcards.rung)
    parameters = plan.select_parameters("optimise_block", values, PROMPTS)
    # Checked here, so that only the requested rungs can stop a run.
    reject_conflicts(
        block_plan.find_conflict(
            RESULTS / "ladder" / wildcards.rung / f"{wildcards.block}.json",
            block_plan.select_block(parameters, wildcards.block),
        )
    )
    return block_plan.encode_block(values, wildcards.block)


def get_rung_blocks_before(wildcards):
    """The preceding quantized blocks of the same rung, if the rung chains them."""
    values = variants.change(config, wildcards.rung)
    return list_blocks_before(wildcards.block, values, f"ladder/{wildcards.rung}")


def get_weights(wildcards):
    """The record of the verified model files, unless they ship with the project."""
    return (
        [f"{config['results_dir']}/weights.json"]
        if plan.WEIGHTS_FROM in plan.MODEL_KEYS[config["model"]]
        else []
    )
