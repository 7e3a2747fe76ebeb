"""Measure the attention to events of the signal, against the same tokens of windows without one."""

from laglens.heads.events import events_table, lock_to_events
from laglens.heads.nothing import measure_or_empty
from laglens.job import job
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    time = read_tree(snakemake.input.time)
    events = measure_or_empty(time, lock_to_events, time)
    write_table(events_table(events, **snakemake.params.spec), snakemake.output.table)
    write_tree(events, snakemake.output.events)
