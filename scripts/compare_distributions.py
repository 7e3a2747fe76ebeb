"""Say how the kind of series shapes attention, over seeds of training and beside random weights."""

from pathlib import Path

from laglens.heads.distributions import Trained, distribution_values, event_responses, seed_spread
from laglens.heads.questions import answer_questions
from laglens.job import job
from laglens.store import read_card, read_dataset, read_table, write_table

with job() as snakemake:
    given, study = snakemake.input, snakemake.params.spec["distribution"]
    sources = {Path(path).name.split(".")[0]: read_dataset(path).attrs["source"] for path in set(given.signals)}
    events = {tuple(Path(path).parts[-2:]): path for path in given.events}
    groups = [("trained", study["trained"]), ("untrained", study["untrained"])]
    runs = [(group, seed, m, s) for group, models in groups for seed, m in enumerate(models) for s in study["signals"]]
    results = []
    for run, heads, card, curve in zip(runs, given.heads, given.cards, given.curves, strict=True):
        locked = events.get((run[2], f"{run[3]}.events.csv"))
        tables = read_table(heads), read_table(locked, empty=True) if locked else None
        results.append(Trained(*run, sources[run[3]], *tables, read_card(Path(card)), read_table(curve)))
    values = distribution_values(results)
    write_table(values, snakemake.output.values)
    write_table(seed_spread(values), snakemake.output.spread)
    confidence = snakemake.params.spec["confidence"]
    write_table(event_responses(results, confidence=confidence), snakemake.output.events)
    write_table(answer_questions(values, confidence=confidence), snakemake.output.answers)
