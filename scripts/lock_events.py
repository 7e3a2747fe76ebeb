"""Measure the attention to events of the signal, against the same tokens of windows without one."""

from laglens.heads.events import events_table, lock_to_events
from laglens.heads.nothing import NothingToMeasureError, empty_result
from laglens.job import job
from laglens.store import read_tree, write_table, write_tree

with job() as snakemake:
    time = read_tree(snakemake.input.time)
    try:
        events = lock_to_events(time)
    except NothingToMeasureError as reason:
        events = empty_result(time, reason)
    write_table(events_table(events, **snakemake.params.spec), snakemake.output.table)
    write_tree(events, snakemake.output.events)
