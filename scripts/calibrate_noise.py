"""Count the false alarms of a model, and of its random weights, on series without a period."""

from laglens.calibration.kinds import detect_kinds
from laglens.calibration.series import noise_series
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.models.untrained import untrained_model
from laglens.store import read_card, read_weights, write_table

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    weights, device, seed = read_weights(snakemake.input.weights), pick_device(spec["device"]), spec["seed"]
    models = {
        "trained": (restore_model(card, weights), spec["series"]),
        "random": (untrained_model(card, weights, seed=seed), spec["untrained"]),
    }
    table = detect_kinds(
        models,
        spec["noises"],
        lambda *drawn: (noise_series(*drawn), None),
        controls=spec["controls"],
        seed=seed,
        device=device,
    )
    write_table(table, snakemake.output.table)
